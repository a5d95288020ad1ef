# The hub in a container of the machine's Docker, from a compose file as hivemind-docker has it: sourced after
# compose.sh.

engine=docker
compose_host=unix:///run/docker.sock
data=$user_home/hivemind/share
config=$user_home/hivemind/core
project=$own_files/hivemind-docker
subfolder=hivemind
# The user of the image.
hub_user=$uid
data_inside=$home_inside/.local/share/hivemind
name_copy
# The distribution's own programs, wherever a machine has others of the same name.
export PATH=$HOME/bin:/usr/sbin:/usr/bin:/sbin:/bin:$PATH

# The user is in the group docker, and the user's systemd runs from boot on.
install_docker() {
  grep -q "^docker:.*$user" /etc/group || sed -i "s/^docker:.*/&$user/" /etc/group
  mkdir -p /var/lib/systemd/linger
  touch /var/lib/systemd/linger/$user
  cat >/etc/systemd/system/docker.service <<UNIT
[Service]
Type=notify
Environment=PATH=/usr/sbin:/usr/bin:/sbin:/bin
ExecStart=/usr/sbin/dockerd --iptables=false --ip6tables=false --bridge=none --ip-forward=false --storage-driver vfs \
  --data-root $disk/docker --exec-root /run/docker $*
Delegate=yes
LimitCORE=0
KillMode=process
UNIT
  ln -s ../docker.service /etc/systemd/system/multi-user.target.wants/
  systemctl daemon-reload
}

# The hub's files in its volumes, made with the hub's own code.
make_hub_files() {
  as_user mkdir -p $data $config $user_home/.local/share $user_home/.config
  rm -rf $user_home/.local/share/hivemind-core
  as_user ln -s $data $user_home/.local/share/hivemind
  as_user ln -s $config $user_home/.config/hivemind-core
  configure $1
  add_clients "${@:2}"
  rm $user_home/.local/share/hivemind $user_home/.config/hivemind-core
}

# make_hub "MODULE SETTING ..." CLIENT ...: a machine with the hub's image, files and compose project
make_hub() {
  install_compose
  make_image --change "USER $hub_user"
  make_hub_files "$@"
  write_compose
}
