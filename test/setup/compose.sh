# The hub in a container of Podman, from a compose file: sourced after quadlet.sh, for a hub of rootless Podman, or
# rootful.sh.

project=$own_files/hivemind
identity=$user_home/.config/hivemind
data_inside=$home_inside/.local/share/hivemind-core
runtime=${copy%/*/*}
compose_host=unix://$runtime/podman/podman.sock
PATH=$own_files/bin:$PATH

# The copy and its unit, which are named after the store of $data.
name_copy() {
  local hash
  hash=$(printf %s "$data/clients.db" | sha256sum | head -c 8)
  copy=$runtime/hivemind-sqlcipher-$hash/server.json
  copy_unit=hivemind-sqlcipher-copy-$hash.service
}
name_copy

# Version 2 of compose, as a program, and the socket of Podman.
install_compose() {
  as_owner mkdir -p $project $unit_files $own_files/bin
  cp "$TOOLS/../../.cache/engines/docker-compose" $own_files/bin/
  [[ $engine == podman ]] || return 0
  [[ $owner != 0 ]] || cp /lib/systemd/system/podman.{socket,service} /etc/systemd/system/
  units daemon-reload
  units start podman.socket
}

# write_compose [VOLUME ...]: further volumes of the hub
write_compose() {
  local base environment
  as_user mkdir -p $identity
  environment=$(readlink -f "$HUB_ENVIRONMENT")
  base=$("$HUB_ENVIRONMENT/bin/python" -c 'import sys; print(sys.base_prefix)')
  cat >$project/compose.yaml <<COMPOSE
services:
  hivemind_listener:
    image: localhost/hub
    container_name: hivemind_listener
    network_mode: host
    restart: unless-stopped
    tmpfs: /tmp
    # Python as the first process has no handler for SIGTERM.
    stop_signal: SIGINT
    environment:
      HOME: $home_inside
      XDG_CONFIG_HOME: ""
      TZ: \$TZ
    command: ["$environment/bin/hivemind-core", "listen"]
    volumes:
      - $data:$data_inside
      - $config:$home_inside/.config/hivemind-core
      - $identity:$home_inside/.config/hivemind
$(printf '%s\n' /usr /lib /lib64 "$environment" "$base" | sort -u | sed 's/.*/      - &:&:ro/')
$(printf '      - %s\n' "$@")
COMPOSE
  sed -i '/^ *- *$/d' $project/compose.yaml
  echo TZ=America/Montreal >$project/.env
  chown $owner:$owner $project/{compose.yaml,.env}
}

# Creates the container as compose does, before the hub starts.
create_hub() {
  in_session $engine create --name hivemind_listener --network host --tmpfs /tmp --stop-signal SIGINT \
    --label com.docker.compose.project=hivemind --label com.docker.compose.service=hivemind_listener \
    --label com.docker.compose.project.working_dir=$project \
    --label com.docker.compose.project.config_files=$project/compose.yaml \
    --env HOME=$home_inside --env XDG_CONFIG_HOME= \
    $(sed -En 's/^ *- ([^ :]+:.*)/--volume \1/p' $project/compose.yaml) \
    localhost/hub "$(readlink -f "$HUB_ENVIRONMENT")/bin/hivemind-core" listen >/dev/null
}

compose() {
  in_session env DOCKER_HOST=$compose_host docker-compose --project-directory $project "$@"
}

# compose_hub [OPTION ...]: creates and starts the hub
compose_hub() {
  compose "$@" up --detach --quiet-pull >$HOME/compose.log 2>&1 || { cat $HOME/compose.log >&2; return 1; }
  wait_for_port
}

# A second project of the same user, with a copy of the first hub's files and another port. Sets the variables to it.
compose_second_hub() {
  as_user mkdir $user_home/second
  as_user cp -r $data $user_home/second/share
  as_user cp -r $config $user_home/second/config
  data=$user_home/second/share
  config=$user_home/second/config
  project=$own_files/second-project
  name_copy
  sed -i 's/5678/5679/g' $config/server.json
  as_owner mkdir $project
  write_compose
  sed -i 's/container_name: .*/container_name: second/' $project/compose.yaml
  compose up --detach --quiet-pull >$HOME/second.log 2>&1 || { cat $HOME/second.log >&2; return 1; }
}

# The hub as it was before setup: without the copy, its unit and the override.
is_composed_as_before() {
  wait_for_port
  in_container cat $home_inside/.config/hivemind-core/server.json | cmp - $config/server.json || true
  ls $project
  ls $unit_files/{,$target.wants/} 2>/dev/null | grep copy || true
  [[ ! -e $(dirname $copy) ]] || echo "the copy is left"
}
