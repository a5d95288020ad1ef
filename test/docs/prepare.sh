# What the pages of docs/guide take for granted before their command blocks run: PAGE_before_N runs
# before block N. Sourced by guides.test.ts.

new_store() {
  mkdir -p -m 700 /srv/backup/hivemind /media/usb/bundles
  hivemind-sqlcipher init --to /srv/backup/hivemind --bundle-to /media/usb/bundles \
    --recovery-key-file ~/recovery-key.txt --hub none "$@"
}

# hub_unit UNIT COMMAND...: a user unit that starts the hub
hub_unit() {
  mkdir -p ~/.config/systemd/user
  printf '[Service]\nType=exec\nExecStart=%s\n' "${*:2}" > ~/.config/systemd/user/"$1".service
  systemctl --user daemon-reload
}

running_hub() {
  use_module hivemind-sqlite-db-plugin
  hivemind-sqlcipher run --print-unit user > ~/.config/systemd/user/hivemind-core.service
  systemctl --user daemon-reload
  systemctl --user start hivemind-core
}

# use_module NAME: makes the hub's server.json, and lets it name that database
use_module() {
  hivemind-core print-config > /dev/null
  sed -i "s/\"module\": \"hivemind-[a-z]*-db-plugin\"/\"module\": \"$1\"/" ~/.config/hivemind-core/server.json
}

# A hub as ovos-installer leaves it, with a client in the JSON database.
installed_hub() {
  SCOPE=user TOOLS=$PROJECT/test/setup
  . "$PROJECT/test/setup/installed.sh"
  install_units
  start_hub kitchen
}

readme_before_1() { installed_hub; }

existing_hub_before_1() { installed_hub; }

existing_hub_before_3() {
  rm -r ~/.config/hivemind-sqlcipher ~/hivemind-b* ~/recovery-key.txt
}

existing_hub_before_5() {
  systemctl --user stop hivemind-listener
  rm -r ~/.local/share/hivemind-core ~/.config/hivemind-sqlcipher /media/usb/bundles/* ~/recovery-key.txt
  hivemind-core add-client --name hall > /dev/null
}

existing_hub_before_6() {
  rm -r ~/.local/share/hivemind-core ~/.config/hivemind-sqlcipher /media/usb/bundles/* ~/recovery-key.txt
  python3 - ~/.config/hivemind-core/server.json <<'PYTHON'
import json, sys
settings = json.load(open(sys.argv[1]))
settings["database"].setdefault("hivemind-sqlite-db-plugin", {})["password"] = "in plain text"
json.dump(settings, open(sys.argv[1], "w"))
PYTHON
  hivemind-core add-client --name bath > /dev/null
}

restore_before_1() {
  new_store
  hivemind-sqlcipher add-client --name kitchen
  hivemind-sqlcipher backup --service none
  BACKUP=$(basename /srv/backup/hivemind/clients.*.db)
  KEY_ID=$(basename /media/usb/bundles/clients.*.bundle.age | cut -d. -f2)
  running_hub
}

restore_before_2() {
  # On the new machine nothing runs a hub yet.
  systemctl --user stop hivemind-core
  rm ~/.config/systemd/user/hivemind-core.service
  systemctl --user daemon-reload
  cp /srv/backup/hivemind/clients.* /media/usb/bundles/clients.*.age ~/recovery-key.txt .
  export XDG_DATA_HOME=$HOME/new-machine/data XDG_CONFIG_HOME=$HOME/new-machine/config
  # It asks whether to trust a backup that nothing on a new machine can vouch for.
  hivemind-sqlcipher() { command hivemind-sqlcipher "$@" --yes; }
}

rotate_before_1() {
  new_store
  running_hub
  hivemind-sqlcipher backup
}

automate_and_monitor_before_1() {
  new_store
  mkdir ~/collector
  running_hub
  hivemind-sqlcipher backup > /dev/null
}

unencrypted_hub_before_1() {
  mkdir -m 700 /media/usb/bundles
  use_module hivemind-json-db-plugin
  hivemind-core add-client --name kitchen > /dev/null
}

unencrypted_hub_before_3() {
  BACKUP=$(basename /srv/backup/hivemind/clients.*.db)
}

other_databases_before_1() {
  new_store
  use_module hivemind-json-db-plugin
  hivemind-core add-client --name kitchen > /dev/null
}

other_databases_before_2() {
  redis-server --port 6379 --bind 127.0.0.1 --save "" --daemonize yes > /dev/null
  until redis-cli config set requirepass x > /dev/null 2>&1; do sleep 0.1; done
  # secret-tool asks for the password on a terminal.
  secret-tool() { printf x | command secret-tool "$@"; }
}

copies_before_1() { new_store; }

offline_media_before_1() {
  mkdir -p -m 700 /srv/backup/hivemind ~/safe
  hivemind-sqlcipher init --to /srv/backup/hivemind --bundle-to ~/safe/bundles \
    --recovery-key-file ~/safe/recovery-key.txt --hub none
  hivemind-sqlcipher add-client --name kitchen
  hivemind-sqlcipher backup --service none
  BACKUP=$(basename /srv/backup/hivemind/clients.*.db)
  KEY_ID=$(basename ~/safe/bundles/clients.*.bundle.age | cut -d. -f2)
}

offline_media_before_2() { mkdir /media/stick/small; }

offline_media_before_3() { cp ~/safe/bundles/*.age ~/safe/recovery-key.txt /dev/shm; }
