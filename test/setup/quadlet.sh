# The hub of a user in a container of rootless Podman, from a quadlet: sourced after headless.sh. The container has the
# real packages of the hub, which are those of this machine.

quadlet=$user_home/.config/containers/systemd/hivemind-listener.container
home_inside=/home/hivemind
copy=/run/user/$uid/hivemind-sqlcipher-${unit%.service}/server.json
# The hub's files, and its ids on this machine.
mounted=%h
mapping=UserNS=keep-id
mapping_option=--userns=keep-id
unit_files=$user_home/.config/systemd/user
settings=$user_home/.config/hivemind-sqlcipher
target=default.target
scope=user
# Who sets the hub up, and where that user's files are.
owner=$uid
own_files=$user_home
as_owner() { as_user "$@"; }

# systemctl of the manager with the unit
units() { as_user systemctl --user "$@"; }
engine=podman

# The user's ids for containers, and settings that fit into a session.
install_podman() {
  # Only without this mount the kernel lets a user's PID namespace have a /proc of its own.
  umount /proc/sys
  # On a machine with older hierarchies of cgroups, Podman leaves the unit if their root is not the user's.
  chown $uid /sys/fs/cgroup
  echo "$user:100000:65536" | tee -a /etc/subuid >>/etc/subgid
  as_user mkdir -p $user_home/.config/containers/systemd
  cat >$user_home/.config/containers/containers.conf <<'CONF'
[containers]
default_ulimits = ["nofile=1024:4096", "nproc=4096:8192"]
pids_limit = 0
log_driver = "k8s-file"
[engine]
events_logger = "file"
CONF
  printf '[storage]\ndriver = "vfs"\n' >$user_home/.config/containers/storage.conf
}

# The generator of Podman 5 for the units of a manager.
install_generator() {
  mkdir -p /run/systemd/$scope-generators
  cp "$TOOLS/../../.cache/engines/quadlet" /run/systemd/$scope-generators/podman-$scope-generator
  units daemon-reload
}

# The hub's Python, this program, and the assistant that the hub connects to.
install_assistant() {
  as_user mkdir -p $user_home/.venvs $data $user_home/.local/share/keyrings
  as_user ln -s "$HUB_ENVIRONMENT" $user_home/.venvs/ovos
  cp -r $HOME/bin $user_home/
  printf '[Service]\nExecStart=%s/bin/python %s/assistant.py\n' "$HUB_ENVIRONMENT" "$TOOLS" >/etc/systemd/system/ovos.service
  systemctl daemon-reload
  systemctl start ovos
}

# Runs a program as in a login session of the user.
in_session() {
  local variable settings=()
  for variable in NODE_OPTIONS HIVEMIND_TEST_AT_STEP DOCKER_HOST COMPOSE_ENV_FILES; do
    [[ -z ${!variable:-} ]] || settings+=("--setenv=$variable=${!variable}")
  done
  as_user systemd-run --user --pipe --wait --quiet --collect "--setenv=PATH=$PATH" "${settings[@]}" -- "$@"
}

command() { in_session $user_home/bin/hivemind-sqlcipher "$@"; }

# make_image [OPTION ...]: options of the engine's import
make_image() {
  local files=$user_home/image
  as_user mkdir -p $files/{bin,tmp} $files$home_inside/{.cache,.config,.local/{share,state}}
  cp /bin/busybox $files/bin/
  ln -s busybox $files/bin/sh
  chmod -R 1777 $files/tmp $files$home_inside
  (cd $files && tar -cf ../image.tar .)
  in_session $engine import "$@" $user_home/image.tar localhost/hub >$HOME/image.log 2>&1
  rm -r $files $user_home/image.tar
}

# write_quadlet [LINE ...]: further lines of [Container]
write_quadlet() {
  local base environment volumes
  environment=$(readlink -f "$HUB_ENVIRONMENT")
  base=$("$HUB_ENVIRONMENT/bin/python" -c 'import sys; print(sys.base_prefix)')
  volumes=$(printf '%s\n' /usr /lib /lib64 "$environment" "$base" | sort -u | sed 's/.*/Volume=&:&:ro/')
  cat >$quadlet <<QUADLET
[Container]
ContainerName=hivemind_listener
Image=localhost/hub
Network=host
$mapping
Tmpfs=/tmp
Environment=HOME=$home_inside XDG_CONFIG_HOME=
Volume=$mounted/.local/share/hivemind-core:$home_inside/.local/share/hivemind-core
Volume=$mounted/.config/hivemind-core:$home_inside/.config/hivemind-core
$volumes
$(printf '%s\n' "$@")
Exec=$environment/bin/hivemind-core listen

[Service]
Restart=always
# Podman 4 leaves this file
ExecStartPre=-rm -f %t/%N.cid

[Install]
WantedBy=$target
QUADLET
}

# The unit as a generator writes it, for Podman 4.3, which has none.
write_unit() {
  local option="--cidfile=%t/%N.cid --replace --rm --cgroups=split --sdnotify=conmon --detach --network=host $mapping_option"
  mkdir -p $unit_files
  cat >$unit_files/$unit <<UNIT
[Unit]
SourcePath=$quadlet

[Service]
Environment=PODMAN_SYSTEMD_UNIT=%n
KillMode=mixed
Delegate=yes
Type=notify
NotifyAccess=all
# Podman 4 leaves this file
ExecStartPre=-rm -f %t/%N.cid
ExecStart=/usr/bin/podman run --name=hivemind_listener $option --tmpfs=/tmp --env=HOME=$home_inside --env=XDG_CONFIG_HOME= \
$(sed -n 's/^Volume=\(.*\)/  --volume=\1 \\/p' $quadlet)
  localhost/hub $(sed -n 's/^Exec=//p' $quadlet)
ExecStop=/usr/bin/podman rm -v -f -i --cidfile=%t/%N.cid
UNIT
}

start_hub() {
  units daemon-reload
  units start $unit
  wait_for_port
}

# Whether the hub has the encrypted store open, with the password only in the container's copy of server.json.
serves_encrypted() {
  local pid tries
  wait_for_port
  pid=$(in_session $engine inspect --format '{{.State.Pid}}' hivemind_listener)
  python3 -c 'import json,sys; d=json.load(open(sys.argv[1]))["database"]; print("on the disk") if "password" in d[d["module"]] else None' $config/server.json
  in_container cat $home_inside/.config/hivemind-core/server.json | grep -q '"password"' || echo "no copy"
  for tries in {1..100}; do
    ls -l /proc/$pid/fd | grep -q clients.db && return
    sleep 0.1
  done
  echo "the hub has not opened the store"
}

names() {
  command list-clients --json --quiet |
    python3 -c 'import json,sys; print(*sorted(c["name"] for c in json.load(sys.stdin)["clients"]))'
}

json_names() {
  python3 -c 'import json,sys; print(*sorted(c["name"] for c in json.load(open(sys.argv[1])).values() if c["api_key"] != "revoked"))' $data/clients.json
}

# The hub as it was before setup: without the copy and the drop-in.
is_undone() {
  wait_for_port
  in_container cat $home_inside/.config/hivemind-core/server.json | cmp - $config/server.json || true
  [[ ! -e $quadlet.d ]] && [[ ! -e $copy ]] && echo gone
}

# in_container COMMAND ...
in_container() { in_session $engine exec hivemind_listener "$@"; }
