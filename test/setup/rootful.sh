# The hub in a container of root's Podman, from a quadlet of the system: sourced after headless.sh. The files belong to
# another user, who is the hub's user in the container.

. "$(dirname "${BASH_SOURCE[0]}")/quadlet.sh"

quadlet=/etc/containers/systemd/hivemind-listener.container
copy=/run/hivemind-sqlcipher-${unit%.service}/server.json
mounted=$user_home
mapping=User=$uid
mapping_option=--user=$uid
unit_files=/etc/systemd/system
settings=$HOME/.config/hivemind-sqlcipher
target=multi-user.target
scope=system
owner=0
own_files=$disk
as_owner() { "$@"; }

units() { systemctl "$@"; }
in_session() { "$@"; }
command() { hivemind-sqlcipher "$@"; }

# On the disk of the machine, as the images.
install_podman() {
  mkdir -p $disk/containers/storage /etc/containers/systemd
  cat >/etc/containers/containers.conf <<'CONF'
[containers]
# Podman 4.3 exchanges the two limits of a container that its socket creates.
default_ulimits = ["nofile=4096:4096", "nproc=8192:8192"]
pids_limit = 0
log_driver = "k8s-file"
[engine]
cgroup_manager = "cgroupfs"
runtime = "runc"
events_logger = "file"
CONF
  printf '[storage]\ndriver = "vfs"\nrunroot = "/run/containers/storage"\ngraphroot = "/var/lib/containers/storage"\n' \
    >/etc/containers/storage.conf
}

boot_podman() {
  mkdir -p /var/lib/containers
  mount --bind $disk/containers /var/lib/containers
}
