# ovos-installer's machine, in a session of its own: sourced by layout.test.ts. SCOPE is user or system.

. "$(dirname "${BASH_SOURCE[0]}")/waiting.sh"
. "$(dirname "${BASH_SOURCE[0]}")/satellite.sh"

unit=hivemind-listener.service
data=$HOME/.local/share/hivemind-core
config=$HOME/.config/hivemind-core
store=$data/clients.db

case $SCOPE in
  user) units=$HOME/.config/systemd/user manager=(systemctl --user) ;;
  system) units=/etc/systemd/system manager=(systemctl) ;;
esac

# The unit as the installer's template has it; ovos.service stands for the assistant.
install_units() {
  mkdir -p "$units" ~/.venvs
  [[ -e ~/.venvs/ovos ]] || ln -s "$HUB_ENVIRONMENT" ~/.venvs/ovos
  printf '[Service]\nExecStart=%s/.venvs/ovos/bin/python %s/assistant.py\n' "$HOME" "$TOOLS" >"$units/ovos.service"
  {
    printf '[Unit]\nDescription=HiveMind Listener\nAfter=ovos.service\nRequires=ovos.service\n\n[Service]\n'
    if [[ $SCOPE == system ]]; then
      printf 'User=root\nEnvironment=HOME=%s\nEnvironment=XDG_RUNTIME_DIR=%s\n' "$HOME" "$XDG_RUNTIME_DIR"
      printf 'Environment=DBUS_SESSION_BUS_ADDRESS=%s\n' "$DBUS_SESSION_BUS_ADDRESS"
    fi
    printf 'WorkingDirectory=%s/.venvs/ovos\nExecStart=%s/.venvs/ovos/bin/hivemind-core listen\n' "$HOME" "$HOME"
    printf 'ExecReload=/bin/kill -s HUP $MAINPID\nRestart=on-failure\nRestartSec=5s\n\n'
    printf '[Install]\nWantedBy=default.target\n'
  } >"$units/$unit"
  "${manager[@]}" daemon-reload
}

# What doctor wants of a machine without a desktop: a manager and a keyring at boot.
prepare_boot() {
  if [[ $(id -u) == 0 ]]; then
    mkdir -p /var/lib/systemd/linger
    touch "/var/lib/systemd/linger/$(id -un)"
  fi
  printf '[Service]\nType=oneshot\nExecStart=/bin/true\n\n[Install]\nWantedBy=default.target\n' \
    >~/.config/systemd/user/hivemind-sqlcipher-keyring.service
  systemctl --user daemon-reload
  systemctl --user --quiet enable hivemind-sqlcipher-keyring.service
}

start_hub() {
  ~/.venvs/ovos/bin/hivemind-core print-config >/dev/null
  # The default of released hubs.
  sed -i "s/\"module\": \"hivemind-[a-z]*-db-plugin\"/\"module\": \"${MODULE:-hivemind-json-db-plugin}\"/" "$config/server.json"
  # The hub's own code, in one process: each start of it takes seconds.
  ~/.venvs/ovos/bin/python - "$@" >/dev/null <<'PY'
import secrets
import sys

from hivemind_core.database import ClientDatabase

with ClientDatabase() as database:
    for name in sys.argv[1:]:
        key, password = secrets.token_hex(16), secrets.token_hex(16)
        database.add_client(name, key, password=password, allowed_types=["recognizer_loop:utterance"])
PY
  "${manager[@]}" start "$unit"
  wait_for_port
}

# names FILE: the names of the clients in a JSON database, as the hub's own plugin wrote them
names() {
  python3 -c 'import json, sys; print(*sorted(c["name"] for c in json.load(open(sys.argv[1])).values() if c["api_key"] != "revoked"))' "$1"
}

# A digest of every file that a setup could change, with its mode.
digest() {
  (cd "$HOME" && find . /etc/systemd/system -type f \
    ! -path '*/systemd-*.log' ! -path './.cache/*' ! -name '*.log' \
    -printf '%m %p ' -exec sha256sum {} ';' | sort | sha256sum)
}

equal() {
  [[ $1 == "$2" ]] || { echo "expected: $2, got: $1" >&2; return 1; }
}
