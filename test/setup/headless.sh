# A machine without a desktop, with a disk that outlives it: sourced as root in a session with a system manager of its
# own by headless.test.ts. A second session on the same disk is the machine after a reboot.

. "$(dirname "${BASH_SOURCE[0]}")/waiting.sh"

user=resident
uid=4711
unit=hivemind-listener.service
user_home=/var/tmp/$user
data=$user_home/.local/share/hivemind-core
config=$user_home/.config/hivemind-core
disk=$HOME/disk

# What a machine keeps on its disk: /etc, its key for sealed credentials, and the home of its user.
attach_disk() {
  if [[ ! -d $disk ]]; then
    mkdir -p $disk/{etc,lib,home}
    cp -a /etc/. $disk/etc/
    rm -rf $disk/etc/credstore.encrypted
    echo "$user:x:$uid:$uid::$user_home:/bin/bash" >>$disk/etc/passwd
    echo "$user:x:$uid:" >>$disk/etc/group
    chown $uid:$uid $disk/home
    chmod 700 $disk/home
  fi
  mkdir -p $user_home
  mount --bind $disk/home $user_home
  mount --bind $disk/lib /var/lib/systemd
  mount --bind $disk/etc /etc
  systemctl daemon-reload
}

# As a boot does: every unit that is enabled.
start_enabled() {
  systemctl start multi-user.target timers.target
}

as_user() {
  setpriv --reuid $uid --regid $uid --clear-groups env -i PATH="$PATH" LANG=C.UTF-8 HOME=$user_home USER=$user \
    LOGNAME=$user XDG_RUNTIME_DIR=/run/user/$uid DBUS_SESSION_BUS_ADDRESS=unix:path=/run/user/$uid/bus "$@"
}

# The unit as the installer's template has it in the system's scope; ovos.service stands for the assistant.
install_system_units() {
  as_user mkdir -p $user_home/.venvs
  as_user ln -s "$HUB_ENVIRONMENT" $user_home/.venvs/ovos
  cat >/etc/systemd/system/ovos.service <<UNIT
[Service]
User=$user
ExecStart=$user_home/.venvs/ovos/bin/python $TOOLS/assistant.py
UNIT
  cat >/etc/systemd/system/$unit <<UNIT
[Unit]
Description=HiveMind Listener
After=ovos.service
Requires=ovos.service

[Service]
User=$user
Environment=HOME=$user_home
Environment=XDG_RUNTIME_DIR=/run/user/$uid
Environment=DBUS_SESSION_BUS_ADDRESS=unix:path=/run/user/$uid/bus
WorkingDirectory=$user_home/.venvs/ovos
ExecStart=$user_home/.venvs/ovos/bin/hivemind-core listen
ExecReload=/bin/kill -s HUP \$MAINPID
Restart=on-failure
RestartSec=5s

[Install]
WantedBy=multi-user.target
UNIT
  systemctl daemon-reload
  systemctl --quiet enable $unit
}

# The system's bus, logind and the users' managers, without PAM.
install_login() {
  cp /lib/systemd/system/dbus.service /lib/systemd/system/dbus.socket /etc/systemd/system/
  printf '[Service]\nType=notify\nExecStart=/lib/systemd/systemd-logind\n' >/etc/systemd/system/systemd-logind.service
  cat >/etc/systemd/system/user@.service <<UNIT
[Service]
User=%i
Type=notify
RuntimeDirectory=user/%i
RuntimeDirectoryMode=0700
Environment=XDG_RUNTIME_DIR=/run/user/%i
ExecStart=/lib/systemd/systemd --user
Delegate=yes
LimitCORE=0
UNIT
  mkdir -p /etc/systemd/system/multi-user.target.wants
  ln -s ../dbus.socket ../dbus.service ../systemd-logind.service /etc/systemd/system/multi-user.target.wants/
  # Seals for ordinary users, from systemd 256 on.
  if [[ -e /lib/systemd/system/systemd-creds.socket ]]; then
    cp /lib/systemd/system/systemd-creds.socket /lib/systemd/system/systemd-creds@.service /etc/systemd/system/
    ln -s ../systemd-creds.socket /etc/systemd/system/multi-user.target.wants/
  fi
  systemctl daemon-reload
}

# The user logs in, and types the password of the keyring.
log_in() {
  systemctl start user@$uid.service
  unlock_keyring
}

# The unit as the installer's template has it in the user's scope.
install_user_units() {
  local units=$user_home/.config/systemd/user
  as_user mkdir -p $units/default.target.wants $user_home/.venvs $user_home/.local/share/keyrings
  as_user ln -s "$HUB_ENVIRONMENT" $user_home/.venvs/ovos
  # A second keyring daemon would be locked.
  as_user ln -s /dev/null $units/gnome-keyring-daemon.service
  as_user ln -s /dev/null $units/gnome-keyring-daemon.socket
  printf '[Service]\nExecStart=%s/.venvs/ovos/bin/python %s/assistant.py\n' "$user_home" "$TOOLS" >$units/ovos.service
  cat >$units/$unit <<UNIT
[Unit]
Description=HiveMind Listener
After=ovos.service
Requires=ovos.service

[Service]
ExecStart=$user_home/.venvs/ovos/bin/hivemind-core listen
Restart=on-failure
RestartSec=5s

[Install]
WantedBy=default.target
UNIT
  as_user ln -s ../$unit $units/default.target.wants/
  chown -R $uid:$uid $units
}

subfolder=hivemind-core

# configure MODULE [SETTING ...]: lets server.json name a database
configure() {
  as_user $user_home/.venvs/ovos/bin/hivemind-core print-config >/dev/null
  python3 - $config/server.json $subfolder "$@" <<'PY'
import json
import sys

path, subfolder, module, *settings = sys.argv[1:]
server = json.load(open(path))
block = {"name": "clients", "subfolder": subfolder, **dict(each.split("=") for each in settings)}
server["database"] = {"module": module, module: block}
json.dump(server, open(path, "w"))
PY
}

# Adds clients with the hub's own code.
add_clients() {
  as_user $user_home/.venvs/ovos/bin/python - "$@" >/dev/null <<'PY'
import secrets
import sys

from hivemind_core.database import ClientDatabase

with ClientDatabase() as database:
    for name in sys.argv[1:]:
        key, password = secrets.token_hex(16), secrets.token_hex(16)
        database.add_client(name, key, password=password, allowed_types=["recognizer_loop:utterance"])
PY
}

# kill_at STEP ARGUMENT ...: runs the command, which is killed at a step
kill_at() {
  local step=$1 code=0
  shift
  NODE_OPTIONS=--import=$TOOLS/../faults/at-step.mjs HIVEMIND_TEST_AT_STEP="{\"$step\":\"kill\"}" \
    hivemind-sqlcipher "$@" >$HOME/killed.log 2>&1 || code=$?
  [[ $code == 137 ]] && return
  echo "$step: not killed, code $code"
  cat $HOME/killed.log >&2
}

# The process of the hub that has the encrypted store open, if it does not start with "SQLite format 3".
serves() {
  local tries pid
  wait_for_port
  pid=$(systemctl show --value --property=MainPID $unit)
  [[ $(stat -c %U /proc/$pid) == "$user" ]] || echo "not $user" >&2
  ! head -c 6 $data/clients.db | grep -q SQLite
  for tries in {1..100}; do
    ls -l /proc/$pid/fd 2>/dev/null | grep -q "$data/clients.db" && return
    sleep 0.1
  done
  echo "the hub has not opened the store" >&2
  return 1
}

names() {
  hivemind-sqlcipher list-clients --json --quiet |
    python3 -c 'import json,sys; print(*sorted(c["name"] for c in json.load(sys.stdin)["clients"]))'
}

findings() {
  hivemind-sqlcipher doctor --json >$HOME/doctor.log || true
  python3 -c 'import json,sys; print("findings:", *[c["name"] for c in json.load(open(sys.argv[1]))["checks"] if not c["ok"] and c["name"] != "swap"])' $HOME/doctor.log
}
