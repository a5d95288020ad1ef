#!/usr/bin/env bash
# debian-13.sh prepare
#   Makes a system of Debian 13, whose systemd is newer than 256, with Python and the development
#   line of HiveMind in /opt/hub. It is kept in .cache/roots for the next time.
# debian-13.sh run [--share DIRECTORY]... COMMAND [ARG ...]
#   Runs COMMAND in it as root, with each DIRECTORY under the same path. What COMMAND changes
#   elsewhere is gone afterwards.
set -euo pipefail
self=$(readlink -f "$0")
cd "$(dirname "$self")/../.."
root=$PWD/.cache/roots/trixie-hub

prepare() {
  local base hub made_by
  base=$(packaging/make-root trixie "$(dpkg --print-architecture)")
  hub=$(<.cache/python/development/complete)
  made_by="$(sha256sum <"$self") $(<"$base/etc/complete") $hub"
  exec 8>"$root.lock"
  flock 8
  if [[ $(cat "$root/etc/complete" 2>/dev/null) != "$made_by" ]]; then
    rm -rf "$root"
    cp -a "$base" "$root"
    unshare --mount "$self" --add-hub "$hub" >"$root.log" 2>&1 || { tail -20 "$root.log" >&2; exit 1; }
    echo "$made_by" >"$root/etc/complete"
  fi
}

add_hub() {
  mount -t proc proc "$root/proc"
  mount --rbind /dev "$root/dev"
  cp /etc/resolv.conf "$root/etc/"
  chroot "$root" sh -c "export DEBIAN_FRONTEND=noninteractive LC_ALL=C.UTF-8
    apt-get update
    apt-get install --yes --no-install-recommends python3 python3-venv procps iproute2 ca-certificates"
  # A registry may have a certificate that this machine knows.
  mount --bind /etc/ssl/certs "$root/etc/ssl/certs"
  chroot "$root" sh -c "python3 -m venv /opt/hub && /opt/hub/bin/pip install $1"
}

# A private session enters the mount namespace, so chroot would not do.
pivot() {
  local name shared=()
  while [[ $1 == --share ]]; do shared+=("$2") && shift 2; done
  mount -t tmpfs tmpfs /mnt
  mkdir /mnt/{upper,work,root}
  mount -t overlay -o "lowerdir=$root,upperdir=/mnt/upper,workdir=/mnt/work" overlay /mnt/root
  mount -t tmpfs -o mode=755 tmpfs /mnt/root/run
  mount -t tmpfs -o mode=1777 tmpfs /mnt/root/tmp
  for name in /dev /sys /proc "${shared[@]}"; do
    mkdir -p "/mnt/root$name"
    mount --rbind "$name" "/mnt/root$name"
  done
  cd /mnt/root
  pivot_root . mnt
  umount --lazy /mnt
  exec env -i PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin LANG=C.UTF-8 "$@"
}

verb=$1
shift
case $verb in
  prepare) prepare ;;
  run) exec unshare --mount "$self" --pivot "$@" ;;
  --add-hub) add_hub "$@" ;;
  --pivot) pivot "$@" ;;
esac
