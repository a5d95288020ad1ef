/**
 * The command beside units of a real system manager, which `scripts/private-session --system` boots
 * in namespaces: as the ordinary user who owns the store, and as root.
 */
import { execFile } from "node:child_process";
import { rm, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { promisify } from "node:util";
import { test as base, expect, onTestFinished } from "vitest";
import { root } from "../built.js";
import { temporaryFolder } from "./units.js";

const test = base.skipIf(process.geteuid?.() !== 0);

const prelude = (home: string) => `
  home='${home}'
  chmod 755 "$home"
  hs="'${process.execPath}' '${root}dist/cli/main.js'"
  unit() { cat >"/etc/systemd/system/$1"; systemctl daemon-reload; }
  property() { systemctl show --value --property="$2" "$1"; }
`;

const sealing = "/usr/bin/systemd-creds";

/** What an ordinary user has: the system's bus, a bus of their own, an unlocked keyring. */
const withUser = `
  cp /lib/systemd/system/dbus.service /lib/systemd/system/dbus.socket /etc/systemd/system/
  systemctl daemon-reload
  systemctl start dbus.socket dbus.service
  mkdir -p "$home/user" /run/user/1
  chown 1:1 "$home/user" /run/user/1
  chmod 700 /run/user/1
  as_user() {
    setpriv --reuid=1 --regid=1 --clear-groups -- env -i "HOME=$home/user" "PATH=$PATH" \\
      XDG_RUNTIME_DIR=/run/user/1 DBUS_SESSION_BUS_ADDRESS=unix:path=/run/user/1/bus "$@"
  }
  as_user dbus-daemon --session --fork --address=unix:path=/run/user/1/bus
  printf x | as_user gnome-keyring-daemon --unlock --components=secrets >/dev/null
  store=$home/user/.local/share/hivemind-core/clients.db
`;

/** Runs a script in a session with its own system manager, and returns the lines of its output. */
async function inSystem(script: (home: string) => string): Promise<string[]> {
  const home = temporaryFolder();
  onTestFinished(() => rm(home, { recursive: true, force: true }));
  const file = join(home, "script.sh");
  await writeFile(file, prelude(home) + script(home));
  const session = `${root}scripts/private-session`;
  const { stdout } = await promisify(execFile)(session, ["--system", home, "bash", "-eu", file]);
  return stdout.trim().split("\n");
}

test("an ordinary user who may not stop the hub's unit: every operation ends before it changes anything", async () => {
  const lines = await inSystem(
    () => `${withUser}
      as() { eval as_user $hs "$@"; }
      as init --recovery-key-file $home/user/rk --bundle-to $home/user/bundles --to $home/user/backups >&2
      as add-client >&2
      as backup --service none >&2
      backup=$(echo $home/user/backups/*.db)
      unit hub.service <<END
[Service]
User=daemon
ExecStart=/bin/sh -c 'exec 3<$store; exec sleep infinity'
END
      systemctl start hub
      state() {
        sha256sum $store $home/user/bundles/* | sha256sum
        ls -A "$(dirname $store)" $home/user/backups
        property hub InvocationID
        as_user secret-tool search --all service hivemind-sqlcipher 2>&1 | sort | sha256sum
      }
      before=$(state)
      for command in "rotate --hub none" "restore $backup --yes --hub none" "decrypt --yes --hub none" \\
        "backup" "rotate --hub none --unit hub --service systemd"; do
        code=0
        as $command >$home/log 2>&1 || code=$?
        grep -c "may not stop or start it" $home/log >$home/count || true
        hint=$(grep -c "Run this as root, or use --stop-command" $home/log || true)
        [ "$(state)" = "$before" ] && same=yes || same=no
        echo "$command: $code $(cat $home/count) $hint $same" | sed "s|$backup|BACKUP|"
      done
      as backup --online >&2
      echo "online: $?"`,
  );
  expect(lines).toEqual([
    "rotate --hub none: 15 1 1 yes",
    "restore BACKUP --yes --hub none: 15 1 1 yes",
    "decrypt --yes --hub none: 15 1 1 yes",
    "backup: 15 1 1 yes",
    "rotate --hub none --unit hub --service systemd: 15 1 1 yes",
    "online: 0",
  ]);
});

test("a system unit that starts the hub: the drop-in passes the passphrase, and no second unit is made", async () => {
  const lines = await inSystem(
    (home) => `
      data="XDG_DATA_HOME=$home/data XDG_CONFIG_HOME=$home/config XDG_STATE_HOME=$home/state"
      here() { eval env $data $hs "$@"; }
      mkdir -p $home/bin $home/config/hivemind-core
      echo "correct horse" >$home/passphrase
      chmod 600 $home/passphrase
      here init --passphrase-file $home/passphrase --recovery-key-file $home/rk --bundle-to $home/bundles >&2
      echo '{"network_protocol": {}, "database": {"module": "hivemind-sqlite-db-plugin", "hivemind-sqlite-db-plugin": {}}}' \\
        >$home/config/hivemind-core/server.json
      printf '#!/bin/sh\\ngrep -c "correct horse" $XDG_CONFIG_HOME/hivemind-core/server.json >${home}/seen\\nexec sleep infinity\\n' \\
        >$home/bin/hivemind-core
      chmod 755 $home/bin/hivemind-core
      unit my-hub.service <<END
[Service]
Environment=$data
ExecStart=$home/bin/hivemind-core listen
END
      systemctl start my-hub
      printf '#!/bin/sh\\nexec %s "$@"\\n' "$hs" >$home/bin/hivemind-sqlcipher
      chmod 755 $home/bin/hivemind-sqlcipher
      PATH=$home/bin:$PATH
      fix() {
        here doctor --json | python3 -c 'import json, sys
for check in json.load(sys.stdin)["checks"]:
    if check["name"] == "hub-unit": print(check["detail"] if sys.argv[1] == "detail" else check["fix"])' $1
      }
      fix detail
      systemd-creds encrypt --with-key=host --name=hivemind-sqlcipher - $home/sealed <$home/passphrase
      rm $home/passphrase
      line=$(fix fix)
      case $line in *"--credential-file FILE"*) echo "names the credential" ;; esac
      env $data sh -ec "$(echo "$line" | sed "s|FILE|$home/sealed|")"
      for _ in $(seq 100); do [ "$(cat $home/seen)" != 1 ] || break; sleep 0.1; done
      cat $home/seen
      grep -c correct $home/config/hivemind-core/server.json || true
      ls /etc/systemd/system/*.service | grep -c hub
      property my-hub ActiveState
      fix detail`,
  );
  expect(lines[0]).toMatch(/my-hub.* starts the hub without the passphrase/);
  expect(lines.slice(1, 6)).toEqual(["names the credential", "1", "0", "1", "active"]);
  expect(lines.slice(6)).not.toContainEqual(expect.stringContaining("without the passphrase"));
});

test("a machine that boots without a login: the fixes let the user manager start and unlock the keyring", async () => {
  const lines = await inSystem(
    (home) => `
      cp /lib/systemd/system/dbus.service /lib/systemd/system/dbus.socket /etc/systemd/system/
      unit systemd-logind.service <<END
[Service]
Type=notify
ExecStart=/lib/systemd/systemd-logind
END
      # The session has its user manager already.
      unit user@.service <<END
[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/bin/true
END
      mkdir -p /etc/systemd/system/hivemind-sqlcipher-keyring.service.d $home/bin
      printf '[Service]\nEnvironment=HOME=${home}\n' >/etc/systemd/system/hivemind-sqlcipher-keyring.service.d/home.conf
      systemctl start dbus.socket dbus.service systemd-logind
      printf '#!/bin/sh\nexec %s "$@"\n' "$hs" >$home/bin/hivemind-sqlcipher
      # Types the password of the session's keyring.
      printf '#!/bin/sh\nprintf private-session\n' >$home/bin/systemd-ask-password
      # The host's key is on a file system in memory here, which is used only if it is named.
      printf '#!/bin/sh\\nverb=$1; shift\\nexec ${sealing} "$verb" --with-key=host "$@"\\n' >$home/bin/systemd-creds
      chmod 755 $home/bin/*
      PATH=$home/bin:$PATH
      hivemind-sqlcipher init --recovery-key-file $home/rk --bundle-to $home/bundles --to $home/backups >&2
      hivemind-sqlcipher schedule install --service none >&2
      findings() {
        hivemind-sqlcipher doctor --json | python3 -c 'import json, sys
for check in json.load(sys.stdin)["checks"]:
    if check["name"] in ("boot", "schedule", "keyring") and not check["ok"]: print(check[sys.argv[1]])' $1
      }
      findings detail
      line=$(findings fix | head -1)
      echo "$line" | grep -o "^loginctl enable-linger root &&"
      sh -ec "$line" >&2
      echo "left: $(findings detail)"
      rm -r /var/lib/systemd/linger
      echo "linger: $(findings detail | wc -l)"
      sh -ec "$(findings fix | grep -x "loginctl enable-linger root" | head -1)"
      echo "left: $(findings detail)"
      systemctl is-active hivemind-sqlcipher-keyring
      hivemind-sqlcipher list-clients >&2 && echo opens`,
  );
  expect(lines).toEqual([
    "after a reboot without a login, your systemd does not start at boot and no unit unlocks the keyring",
    "scheduled backups are made only while you are logged in",
    "loginctl enable-linger root &&",
    "left: ",
    "linger: 2",
    "left: ",
    "active",
    "opens",
  ]);
});

test("root's timer of a system unit's hub is a system timer, and is found whatever the settings say", async () => {
  const lines = await inSystem(
    () => `
      here() { eval $hs "$@" --db $home/clients.db --passphrase-source file:$home/passphrase; }
      timers() { (cd "$1" && ls hivemind-sqlcipher-*.timer 2>/dev/null || true) | wc -l; }
      echo "correct horse battery" >$home/passphrase
      chmod 600 $home/passphrase
      here init --recovery-key-file $home/rk --bundle-to $home/bundles --to $home/backups >&2
      unit hub.service <<END
[Service]
ExecStart=/bin/sh -c 'exec 3<$home/clients.db; exec sleep infinity'
END
      systemctl start hub
      here backup --unit hub >&2
      here schedule install >&2
      systemctl stop hub
      here schedule install --service none >&2
      here schedule status | grep -c "enabled, active"
      timers /etc/systemd/system
      timers ~/.config/systemd/user
      here schedule remove >&2
      timers /etc/systemd/system
      here schedule install --service systemd --unit hub >&2
      timers /etc/systemd/system`,
  );
  expect(lines).toEqual(["1", "1", "0", "0", "1"]);
});

test("a name that both managers have means the unit with the store open, for run --print-unit as for backup", async () => {
  const lines = await inSystem(
    () => `
      here() { eval $hs "$@" --db $home/clients.db --passphrase-source file:$home/passphrase; }
      echo "correct horse battery" >$home/passphrase
      chmod 600 $home/passphrase
      here init --recovery-key-file $home/rk --bundle-to $home/bundles --to $home/backups >&2
      mkdir -p ~/.config/hivemind-core
      echo '{}' >~/.config/hivemind-core/server.json
      printf '[Service]\nExecStart=/bin/sleep infinity\n' >~/.config/systemd/user/hub.service
      systemctl --user daemon-reload
      unit hub.service <<END
[Service]
ExecStart=/bin/sh -c 'exec 3<$home/clients.db; exec sleep infinity'
END
      systemctl start hub
      systemctl --user start hub
      run() { systemctl "$@" show --value --property=InvocationID hub; }
      system=$(run) user=$(run --user)
      here backup --unit hub >&2
      [ "$(run)" = $system ] || echo "the system unit was restarted"
      [ "$(run --user)" = $user ] && echo "the user unit was not"
      here run --print-unit dropin --unit hub --credential-file $home/sealed | head -1`,
  );
  expect(lines).toEqual([
    "the system unit was restarted",
    "the user unit was not",
    "# /etc/systemd/system/hub.service.d/hivemind-sqlcipher.conf",
  ]);
});
