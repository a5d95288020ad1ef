# The hub in a container of a user's own Docker, as dockerd-rootless-setuptool.sh installs it: sourced after docker.sh.

compose_host=unix:///run/user/$uid/docker.sock
hub_user=0

# What a session lacks for users' namespaces and networks, at each boot.
boot_docker() {
  # Only without this mount the kernel lets a user's PID namespace have a /proc of its own.
  umount /proc/sys
  mknod -m 666 /run/tun c 10 200
  mount --bind /run/tun /dev/net/tun
}

install_docker() {
  boot_docker
  echo "$user:100000:65536" | tee -a /etc/subuid >>/etc/subgid
  mkdir -p /var/lib/systemd/linger
  touch /var/lib/systemd/linger/$user
  # Docker reads the groups of the user's slice.
  mkdir /etc/systemd/system/user@.service.d
  printf '[Service]\nSlice=user-%%i.slice\n' >/etc/systemd/system/user@.service.d/slice.conf
  systemctl daemon-reload
  as_user mkdir -p $unit_files/default.target.wants $own_files/bin
  cp "$TOOLS/../../.cache/engines/"rootlesskit* $own_files/bin/
  cat >$unit_files/docker.service <<UNIT
[Service]
Environment=PATH=$own_files/bin:/usr/sbin:/usr/bin:/sbin:/bin
# The hub's port, which is in the network of Docker's namespaces.
Environment=DOCKERD_ROOTLESS_ROOTLESSKIT_FLAGS=--publish=127.0.0.1:5678:5678/tcp
ExecStart=/usr/share/docker.io/contrib/dockerd-rootless.sh --storage-driver vfs
Delegate=yes
KillMode=mixed
Restart=always
RestartSec=2
LimitCORE=0
StandardError=append:$own_files/docker.log

[Install]
WantedBy=default.target
UNIT
  ln -s ../docker.service $unit_files/default.target.wants/
  as_user docker context create rootless --docker host=$compose_host >/dev/null
  as_user docker context use rootless >/dev/null
}

wait_for_docker() {
  local tries
  for tries in {1..300}; do
    as_user docker info >/dev/null 2>&1 && return
    sleep 0.1
  done
  echo "Docker does not start" >&2
  return 1
}

# The assistant listens in that network, too, as the containers of ovos-docker do.
restart_assistant() {
  sed -i "s|^ExecStart=|&/usr/bin/nsenter --net --target $(pgrep -x dockerd) |" /etc/systemd/system/ovos.service
  systemctl daemon-reload
  systemctl restart ovos
}

# The published port accepts connections before the hub does.
wait_for_port() {
  local tries pid
  for tries in {1..600}; do
    pid=$(as_user docker inspect --format '{{.State.Pid}}' hivemind_listener 2>/dev/null) && ((pid > 0)) &&
      nsenter --net --target $pid bash -c ': <>/dev/tcp/127.0.0.1/5678' 2>/dev/null && return
    sleep 0.1
  done
  echo "the hub does not listen" >&2
  return 1
}
