/** Machines without a desktop: setup as root and as an ordinary user, and a reboot. */
import { expect, test } from "vitest";
import { proving } from "../prove-report.js";
import { HeadlessMachine } from "./headless-machine.js";

const options =
  "--to $disk/backups --bundle-to $disk/bundles --recovery-key-file $HOME/key.txt --headless --yes";

test("root sets up a system unit with User=: sealed, served after a reboot, undone", async () => {
  const machine = await HeadlessMachine.make();
  const installed = await machine.boot(`
    install_system_units
    configure hivemind-json-db-plugin
    add_clients kitchen hall bath
    start_enabled
    wait_for_port
    mkdir -m 700 $disk/bundles
    cp $config/server.json $HOME/
    hivemind-sqlcipher setup --dry-run ${options} | grep -c "seal a passphrase to this machine in /etc/credstore"
    hivemind-sqlcipher setup ${options} >$HOME/setup.log
    serves
    names
    (cd $user_home && find .config .local ! -user $user)
    stat -c "%U %a" $data/clients.db /etc/credstore.encrypted/hivemind-sqlcipher
    [[ ! -e $data/clients.json ]]
    findings
    hivemind-sqlcipher setup ${options} | grep -o "^Nothing to do"
    hivemind-sqlcipher add-client --name attic >/dev/null
    hivemind-sqlcipher backup --quiet | grep -o "stopped for"
    passphrase=$(systemd-creds decrypt --name=hivemind-sqlcipher /etc/credstore.encrypted/hivemind-sqlcipher -)
    hivemind-sqlcipher rotate --quiet | grep -o "sealed:.*"
    serves
    rotated=$(systemd-creds decrypt --name=hivemind-sqlcipher /etc/credstore.encrypted/hivemind-sqlcipher -)
    [[ $rotated != $passphrase ]]
    printf '%s\n' "$passphrase" "$rotated" >/dev/shm/patterns
    grep -rlaFf /dev/shm/patterns $HOME /etc /proc/[0-9]*/cmdline /proc/[0-9]*/environ 2>/dev/null || echo nowhere
    hivemind-sqlcipher backup --quiet >/dev/null
    hivemind-sqlcipher restore $(ls $disk/backups/*.db | tail -1) --yes --quiet >/dev/null
    serves
    findings
    systemctl show --value --property=ActiveState hivemind-sqlcipher-backup-*.timer`);
  expect(installed).toEqual([
    "1",
    "bath hall kitchen",
    "resident 600",
    "root 600",
    "findings: bundle-disk",
    "Nothing to do",
    "stopped for",
    "sealed:/etc/credstore.encrypted/hivemind-sqlcipher",
    "nowhere",
    "findings: copies bundle-disk bundle-tried",
    "active",
  ]);
  const rebooted = await machine.boot(`
    start_enabled
    serves
    names
    findings
    systemctl show --value --property=ActiveState hivemind-sqlcipher-backup-*.timer
    timer=$(basename /etc/systemd/system/hivemind-sqlcipher-backup-*.service)
    systemctl start $timer
    systemctl show --value --property=Result,ExecMainStatus $timer
    serves
    hivemind-sqlcipher setup --undo --yes | tail -1
    wait_for_port
    as_user python3 -c 'import json,sys; print(*sorted(c["name"] for c in json.load(open(sys.argv[1])).values() if c["api_key"] != "revoked"))' $data/clients.json
    cmp $config/server.json $HOME/server.json
    (cd $user_home && find .config .local ! -user $user)
    ls -d /etc/systemd/system/$unit.d /etc/systemd/system/hivemind-sqlcipher-* 2>/dev/null || echo gone
    hivemind-sqlcipher setup --undo --yes
    hivemind-sqlcipher setup --yes --headless --recovery-key-file $HOME/other.txt | head -1
    serves
    names
    # As one that was set up by hand: the settings are gone.
    rm -r $HOME/.config/hivemind-sqlcipher
    hivemind-sqlcipher setup ${options.replace("key.txt", "third.txt")} >$HOME/third.log
    ls /etc/credstore.encrypted
    hivemind-sqlcipher backup --quiet >/dev/null
    serves
    names`);
  expect(rebooted).toEqual([
    "attic bath hall kitchen",
    "findings: copies bundle-disk bundle-tried",
    "active",
    "success",
    "0",
    "The settings, the passphrase, backups and bundles stay.",
    "attic bath hall kitchen",
    "gone",
    expect.stringMatching(/^Nothing to undo/),
    expect.stringMatching(/^Plan for hivemind-listener/),
    "attic bath hall kitchen",
    "hivemind-sqlcipher",
    "attic bath hall kitchen",
  ]);
}, 240_000);

// Only in scripts/prove: the test above does the same with JSON.
test.each(proving ? ["sqlite", "sqlcipher"] : [])(
  "a system unit on %s: sealed, and back",
  async (layout) => {
    const machine = await HeadlessMachine.make();
    const password = layout === "sqlcipher" ? `"password=in 'plain' text"` : "";
    const output = await machine.boot(`
    install_system_units
    configure hivemind-sqlite-db-plugin ${password}
    add_clients kitchen hall
    start_enabled
    wait_for_port
    mkdir -m 700 $disk/bundles
    cp $config/server.json $HOME/
    hivemind-sqlcipher setup ${options} >$HOME/setup.log
    serves
    names
    grep -c "in 'plain' text" $config/server.json || true
    systemctl restart $unit
    serves
    hivemind-sqlcipher setup ${options} | grep -o "^Nothing to do"
    hivemind-sqlcipher setup --undo --yes >/dev/null
    wait_for_port
    python3 -c 'import json,sys; print(json.load(open(sys.argv[1]))["database"] == json.load(open(sys.argv[2]))["database"])' $config/server.json $HOME/server.json
    head -c 6 $data/clients.db | grep -c SQLite || true
    (cd $user_home && find .config .local ! -user $user)
    [[ ! -e /etc/systemd/system/$unit.d ]] && echo gone`);
    const isPlain = layout === "sqlite" ? "1" : "0";
    expect(output).toEqual(["hall kitchen", "0", "Nothing to do", "True", isPlain, "gone"]);
  },
);

/** Without those that a setup does not reach after a kill at "setup.switched". */
const allSteps = [
  ...["setup.settings", "setup.recorded", "setup.sealed", "setup.stored", "setup.drop-in"],
  ...["setup.stopping", "setup.stopped", "setup.copied", "setup.switched"],
  ...["setup.handed-over", "setup.backed-up", "setup.plain-removed"],
  ...["setup.scheduled", "setup.complete"],
  ...["undo.recorded", "undo.copied", "undo.switched", "undo.drop-in", "undo.moved"],
];
/** Most of the others do the same for a user unit, in kill.test.ts. */
const ownSteps = ["setup.sealed", "setup.switched", "undo.switched"];
const steps = proving ? allSteps : ownSteps;

test("killed at steps of setup and undo, the hub starts, and the same command goes on", async () => {
  const machine = await HeadlessMachine.make();
  const output = await machine.boot(`
    # Tests start it more often than five times in ten seconds.
    install_system_units
    sed -i 's/^\\[Unit\\]/[Unit]\\nStartLimitIntervalSec=0/' /etc/systemd/system/$unit
    systemctl daemon-reload
    configure hivemind-json-db-plugin
    add_clients kitchen hall bath
    start_enabled
    wait_for_port
    mkdir -m 700 $disk/bundles
    for step in ${steps.join(" ")}; do
      command="${options}"
      [[ $step != undo.* ]] || command="--undo --yes"
      kill_at $step setup $command
      # As after a power failure: no timer of this boot starts the hub.
      systemctl stop 'hivemind-sqlcipher-restart-*.timer' 2>/dev/null || true
      systemctl restart $unit || { echo "$step: the hub does not start"; journalctl -n 20 >&2 || true; }
      wait_for_port || echo "$step: not listening"
    done
    hivemind-sqlcipher setup --undo --yes >$HOME/undo.log 2>&1 || cat $HOME/undo.log
    wait_for_port
    as_user python3 -c 'import json,sys; print(*sorted(c["name"] for c in json.load(open(sys.argv[1])).values() if c["api_key"] != "revoked"))' $data/clients.json`);
  expect(output).toEqual(["bath hall kitchen"]);
}, 400_000);

test("a user unit: root unlocks the keyring at boot once, and the hub serves after a reboot", async () => {
  const machine = await HeadlessMachine.make();
  const installed = await machine.boot(`
    install_login
    install_user_units
    cp -r $HOME/bin $user_home/
    configure hivemind-json-db-plugin
    add_clients kitchen hall
    start_enabled
    log_in
    as_user systemctl --user daemon-reload
    as_user systemctl --user start $unit
    wait_for_port
    mkdir -m 700 $disk/bundles $disk/backups && chown $uid $disk/bundles $disk/backups
    chmod 711 $HOME $disk
    setup() {
      as_user $user_home/bin/hivemind-sqlcipher setup --headless --to $user_home/backups \
        --bundle-to $user_home/bundles --recovery-key-file $user_home/key.txt --yes
    }
    setup 2>$HOME/refused.log || echo "code $?"
    sed -n 's/^ *//; /Run these commands/,$p' $HOME/refused.log | tail -n +2 >$HOME/commands.log
    cut -d' ' -f1-3 $HOME/commands.log
    sudo() { "$@"; }
    systemd-ask-password() { printf private-session; }
    . $HOME/commands.log >$HOME/commands.out
    setup >$HOME/setup.log
    wait_for_port
    as_user $user_home/bin/hivemind-sqlcipher list-clients --json | python3 -c 'import json,sys; print(*sorted(c["name"] for c in json.load(sys.stdin)["clients"]))'`);
  expect(installed).toEqual([
    "code 17",
    "sudo loginctl enable-linger",
    "sudo mkdir -p",
    'systemd-ask-password -n "Password',
    "text=$(hivemind-sqlcipher run --print-unit",
    "sudo systemctl daemon-reload",
    "sudo systemctl enable",
    "hall kitchen",
  ]);
  const rebooted = await machine.boot(`
    start_enabled
    wait_for_port
    as_user $user_home/bin/hivemind-sqlcipher list-clients --json | python3 -c 'import json,sys; print(*sorted(c["name"] for c in json.load(sys.stdin)["clients"]))'
    as_user systemctl --user is-active $unit hivemind-sqlcipher-backup-*.timer
    as_user $user_home/bin/hivemind-sqlcipher backup --quiet | grep -o "stopped for"
    wait_for_port
    as_user $user_home/bin/hivemind-sqlcipher setup --headless | grep -o "^Nothing to do"`);
  expect(rebooted).toEqual(["hall kitchen", "active", "active", "stopped for", "Nothing to do"]);
}, 240_000);

test("an ordinary user learns that root sets up a system unit", async () => {
  const machine = await HeadlessMachine.make();
  const output = await machine.boot(`
    install_login
    install_system_units
    cp -r $HOME/bin $user_home/
    configure hivemind-json-db-plugin
    add_clients kitchen
    start_enabled
    systemctl start user@$uid.service
    wait_for_port
    as_user $user_home/bin/hivemind-sqlcipher setup --passphrase-source command:false --dry-run >$HOME/dry.log || true
    grep -A1 "User=" $HOME/dry.log`);
  expect(output).toEqual([
    "obstacle: hivemind-listener.service is a system unit with User=resident",
    "  Run setup as root, which seals the passphrase for the unit: sudo hivemind-sqlcipher setup",
  ]);
});

test("root's rotation and backup are killed: the hub starts, and root's next command recovers", async () => {
  const machine = await HeadlessMachine.make();
  const others = [
    ...["rotate.staging", "rotate.bundled", "rotate.stopped", "rotate.filled", "rotate.removed"],
    ...["backup.stopping"],
  ];
  const steps = ["rotate.renamed", "backup.copied", ...(proving ? others : [])];
  const output = await machine.boot(`
    install_system_units
    sed -i 's/^\\[Unit\\]/[Unit]\\nStartLimitIntervalSec=0/' /etc/systemd/system/$unit
    systemctl daemon-reload
    configure hivemind-json-db-plugin
    add_clients kitchen
    start_enabled
    wait_for_port
    mkdir -m 700 $disk/bundles
    hivemind-sqlcipher setup ${options} >$HOME/setup.log
    for step in ${steps.join(" ")}; do
      kill_at $step \${step%%.*}
      # As after a power failure: no timer of this boot starts the hub.
      systemctl stop 'hivemind-sqlcipher-restart-*.timer' 2>/dev/null || true
      systemctl restart $unit || echo "$step: the hub does not start"
      serves || echo "$step: the hub does not serve"
      hivemind-sqlcipher backup --quiet >$HOME/backup.log 2>&1 || { echo "$step: no backup"; cat $HOME/backup.log; }
      serves
      ls $data | grep -v "^clients.db\\(-wal\\|-shm\\|.lock\\)\\?$" | grep -v schema_version || true
    done
    (cd $user_home && find .config .local ! -user $user)
    names`);
  expect(output).toEqual(["kitchen"]);
}, 240_000);

test("two system units, one of root: each has its own passphrase and timer", async () => {
  const machine = await HeadlessMachine.make();
  const output = await machine.boot(`
    install_system_units
    configure hivemind-json-db-plugin
    add_clients kitchen
    mkdir $disk/guest $disk/bundles
    cp -r $user_home/.config $user_home/.local $user_home/.venvs $disk/guest/
    chown -R 0:0 $disk/guest
    sed -e '/^User=/d' -e "s:HOME=.*:HOME=$disk/guest:" -e "s:$user_home/.venvs/ovos/bin/h:$disk/guest/.venvs/ovos/bin/h:" \
      -e "s:^WorkingDirectory=.*:WorkingDirectory=/:" /etc/systemd/system/$unit >/etc/systemd/system/guest.service
    sed -i 's/5678/5680/' $disk/guest/.config/hivemind-core/server.json
    systemctl daemon-reload
    start_enabled
    systemctl start guest
    wait_for_port
    hivemind-sqlcipher setup --unit hivemind-listener ${options} >$HOME/first.log
    hivemind-sqlcipher setup --unit guest ${options.replace("key.txt", "guest.txt")} >$HOME/second.log
    ls /etc/credstore.encrypted | sed 's/-[0-9a-f]\\{8\\}$/-HASH/'
    ls /etc/systemd/system | grep -c "^hivemind-sqlcipher-backup-.*timer"
    systemctl restart $unit guest
    serves
    for tries in {1..100}; do
      ls -l /proc/$(systemctl show --value --property=MainPID guest)/fd | grep -q $disk/guest/.local/share/hivemind-core/clients.db && break
      sleep 0.1
    done
    ls -d /run/hivemind-sqlcipher-*
    names
    hivemind-sqlcipher backup --quiet >/dev/null
    hivemind-sqlcipher backup --quiet --db $disk/guest/.local/share/hivemind-core/clients.db | grep -o "guest was stopped"
    hivemind-sqlcipher setup --unit guest --undo --yes | tail -1
    [[ -s $disk/guest/.local/share/hivemind-core/clients.json ]] && echo written
    serves`);
  expect(output).toEqual([
    ...["hivemind-sqlcipher", "hivemind-sqlcipher-HASH", "2"],
    ...["/run/hivemind-sqlcipher-guest", "/run/hivemind-sqlcipher-hivemind-listener"],
    ...["kitchen", "guest was stopped"],
    ...["The settings, the passphrase, backups and bundles stay.", "written"],
  ]);
}, 240_000);

test("root runs the hub's Python as its user, without root's terminal", async () => {
  const machine = await HeadlessMachine.make();
  const output = await machine.boot(`
    install_system_units
    bin=$user_home/.venvs/spy/bin
    log=$user_home/ids.log
    mkdir -p $bin
    cat >$bin/python <<PYTHON
#!/bin/sh
id -u >>$log
if (: <>/dev/tty) 2>/dev/null; then echo terminal >>$log; fi
exec $HUB_ENVIRONMENT/bin/python "\\$@"
PYTHON
    sed "1s:.*:#!$bin/python:" $HUB_ENVIRONMENT/bin/hivemind-core >$bin/hivemind-core
    chmod 755 $bin/*
    chown -R $uid:$uid $user_home/.venvs/spy
    sed -i "s:^ExecStart=.*:ExecStart=$bin/hivemind-core listen:" /etc/systemd/system/$unit
    sed "s:^ExecStart=.*:ExecStart=$bin/python -m other:" /etc/systemd/system/$unit >/etc/systemd/system/other.service
    systemctl daemon-reload
    configure hivemind-json-db-plugin
    add_clients kitchen
    start_enabled
    wait_for_port
    mkdir -m 700 $disk/bundles
    asks() {
      rm -f $log
      script -qec "hivemind-sqlcipher $*" $HOME/asks.log </dev/null >/dev/null || true
      echo "$1: $(sort -u $log | xargs)"
    }
    asks setup --unit other --dry-run
    asks setup --unit hivemind-listener --dry-run
    asks setup ${options}
    serves
    asks doctor
    asks rotate
    rm -r $HOME/.config/hivemind-sqlcipher
    store="--db $data/clients.db --passphrase-source sealed:/etc/credstore.encrypted/hivemind-sqlcipher"
    asks doctor $store
    asks rotate $store --unit hivemind-listener --bundle-to $disk/bundles --recovery-key-file $HOME/rotated.txt
    [[ -s $HOME/rotated.txt ]] || cat $HOME/asks.log
    serves`);
  const commands = ["setup", "setup", "setup", "doctor", "rotate", "doctor", "rotate"];
  expect(output).toEqual(commands.map((command) => `${command}: 4711`));
});

test("root does not let pip install where the hub's user cannot write", async () => {
  const machine = await HeadlessMachine.make("released");
  const output = await machine.boot(`
    install_system_units
    configure hivemind-json-db-plugin
    add_clients kitchen
    hivemind-sqlcipher setup ${options} --install-hub-packages --dry-run >$HOME/dry.log 2>&1 || true
    grep -o "site-packages cannot be written by the hub's user" $HOME/dry.log`);
  expect(output).toEqual(["site-packages cannot be written by the hub's user"]);
});

// Making the system takes a minute or two.
if (proving) {
  test("systemd 257: an ordinary user's passphrase is sealed, and the hub serves after a reboot", async () => {
    const machine = await HeadlessMachine.makeDebian13();
    const inUserUnit = `
      hub() { as_user $user_home/bin/hivemind-sqlcipher "$@"; }
      user_names() {
        hub list-clients --json --quiet | python3 -c 'import json,sys; print(*sorted(c["name"] for c in json.load(sys.stdin)["clients"]))'
      }`;
    const installed = await machine.boot(`
      install_login
      install_user_units
      ${inUserUnit}
      cp -r $HOME/bin $user_home/
      configure hivemind-json-db-plugin
      add_clients kitchen hall
      start_enabled
      systemctl start user@$uid.service
      as_user systemctl --user start $unit
      wait_for_port
      set_up() {
        hub setup --headless --to $user_home/backups --bundle-to $user_home/bundles --recovery-key-file $user_home/key.txt --yes
      }
      set_up 2>$HOME/refused.log || echo "code $?"
      tail -1 $HOME/refused.log | sed 's/^ *//'
      loginctl enable-linger $user
      set_up | grep -o "sealed:.*"
      wait_for_port
      user_names
      passphrase=$(as_user systemd-creds decrypt --user --name=hivemind-sqlcipher $user_home/.config/credstore.encrypted/hivemind-sqlcipher -)
      hub rotate --quiet >/dev/null
      rotated=$(as_user systemd-creds decrypt --user --name=hivemind-sqlcipher $user_home/.config/credstore.encrypted/hivemind-sqlcipher -)
      [[ $rotated != $passphrase ]]
      printf '%s\n' "$passphrase" "$rotated" >/dev/shm/patterns
      grep -rlaFf /dev/shm/patterns $user_home /proc/[0-9]*/cmdline /proc/[0-9]*/environ 2>/dev/null || echo nowhere
      systemd-creds decrypt --name=hivemind-sqlcipher $user_home/.config/credstore.encrypted/hivemind-sqlcipher - >/dev/null 2>&1 || echo "not for another user"
      hub backup --quiet | grep -o "stopped for"
      wait_for_port`);
    expect(installed).toEqual([
      ...["code 17", "sudo loginctl enable-linger resident"],
      "sealed:/var/tmp/resident/.config/credstore.encrypted/hivemind-sqlcipher",
      ...["hall kitchen", "nowhere", "not for another user", "stopped for"],
    ]);
    const rebooted = await machine.boot(`
      start_enabled
      wait_for_port
      ${inUserUnit}
      user_names
      as_user systemctl --user is-active $unit hivemind-sqlcipher-backup-*.timer
      hub restore $(ls $user_home/backups/*.db | tail -1) --yes --quiet | grep -o "stopped for"
      wait_for_port
      hub setup --headless | grep -o "^Nothing to do"
      hub setup --undo --yes | tail -1
      wait_for_port
      python3 -c 'import json,sys; print(*sorted(c["name"] for c in json.load(open(sys.argv[1])).values()))' $data/clients.json`);
    expect(rebooted).toEqual([
      ...["hall kitchen", "active", "active", "stopped for", "Nothing to do"],
      ...["The settings, the passphrase, backups and bundles stay.", "hall kitchen"],
    ]);
  }, 900_000);
}
