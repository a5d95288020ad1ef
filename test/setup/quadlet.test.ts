/** A hub in a container of Podman, rootless or root's, whose unit is generated from a quadlet. */
import { expect, test } from "vitest";
import { root } from "../built.js";
import { proving } from "../prove-report.js";
import { HeadlessMachine } from "./headless-machine.js";

const options =
  "--to $user_home/backups --bundle-to $user_home/bundles --recovery-key-file $user_home/key.txt --yes";

/** A user who has logged in, with Podman and the assistant. */
const login = `
  . ${root}test/setup/quadlet.sh
  install_login
  install_podman
  install_assistant
  start_enabled
  log_in
  make_image`;

/** The generator is that of Podman 5, from scripts/setup --engines. */
const begin = `${login}
  install_generator`;

const optionsOfRoot =
  "--to $disk/backups --bundle-to $disk/bundles --recovery-key-file $HOME/key.txt --yes";

const sealed = "/etc/credstore.encrypted/hivemind-sqlcipher";

/** A machine with root's Podman, whose disk has been used before. */
const bootOfRoot = `
  . ${root}test/setup/rootful.sh
  boot_podman
  install_generator
  start_enabled`;

const loginOfRoot = `
  . ${root}test/setup/rootful.sh
  install_podman
  boot_podman
  install_assistant
  start_enabled
  make_image
  mkdir -m 700 $disk/bundles`;

const beginOfRoot = `${loginOfRoot}
  install_generator`;

/** Prints the files of the hub that belong to another user. */
const strangers = `(cd $user_home && find .config .local ! -user $user | grep -v keyrings || true)`;

const podmans = [
  { podman: "rootless Podman", begin, options },
  { podman: "root's Podman", begin: beginOfRoot, options: optionsOfRoot },
];

test.each([
  { login, options, manager: "systemd-user", systemctl: "systemctl --user", own: "" },
  {
    ...{ login: loginOfRoot, options: optionsOfRoot, manager: "systemd", systemctl: "systemctl" },
    own: `--db '/var/tmp/resident/.local/share/hivemind-core/clients.db' --passphrase-source 'sealed:${sealed}' `,
  },
])(
  "a Podman whose quadlets have no drop-ins: the lines are named in $manager",
  async ({ login, options, manager, systemctl, own }) => {
    const machine = await HeadlessMachine.make();
    const output = await machine.boot(`${login}
    configure hivemind-sqlite-db-plugin
    add_clients kitchen
    write_quadlet
    write_unit
    start_hub
    command setup ${options} 2>&1 || echo "code $?"
    [[ ! -e $quadlet.d && ! -e $settings ]] && echo untouched`);
    expect(output).toEqual([
      expect.stringContaining("reads no drop-ins for quadlets"),
      expect.stringContaining("docs/guide/containers.md explains the steps."),
      expect.stringContaining("mkdir -p"),
      `  hivemind-sqlcipher ${own}run --print-unit quadlet --container hivemind_listener`,
      expect.stringContaining(`${systemctl} restart hivemind-listener.service`),
      expect.stringContaining(`encrypt --service ${manager} --unit hivemind-listener`),
      expect.stringContaining(`backup --service ${manager} --unit hivemind-listener`),
      `  hivemind-sqlcipher ${own}schedule install`,
      "code 17",
      "untouched",
    ]);
  },
);

// scripts/prove containers installs the generator.
if (proving) {
  test("setup of a JSON hub in one command, run again, and undone", async () => {
    const machine = await HeadlessMachine.make();
    const output = await machine.boot(`${begin}
    configure hivemind-json-db-plugin
    add_clients kitchen hall
    write_quadlet
    start_hub
    cp $config/server.json $HOME/
    command setup --dry-run ${options} | grep -o "50-hivemind-sqlcipher.conf, which lets the container mount .*"
    [[ ! -e $quadlet.d ]]
    command setup ${options} >$HOME/setup.log
    sed '1,/satellites reconnect/d' $HOME/setup.log | wc -l
    serves_encrypted
    names
    [[ ! -e $data/clients.json ]]
    stat -c %a $data/clients.db
    ls $user_home/backups | grep -c "db$"
    units is-active hivemind-sqlcipher-backup-*.timer
    command setup ${options} | grep -o "^Nothing to do"
    command add-client --name attic >/dev/null
    command rotate --quiet >/dev/null
    serves_encrypted
    command backup --quiet | grep -o "stopped for"
    units restart $unit
    serves_encrypted
    # An upgrade has removed the Node.js of the drop-in, and the unit has ended with its container.
    sed -i 's#^ExecStartPre=[^ ]*#ExecStartPre=/opt/node-1/bin/node#' $quadlet.d/50-hivemind-sqlcipher.conf
    units daemon-reload
    units restart $unit 2>/dev/null || true
    command doctor --json >$HOME/doctor.json || true
    in_session bash -ec "$(python3 -c 'import json,sys
print(*[c["fix"] for c in json.load(open(sys.argv[1]))["checks"] if "/opt/node-1/bin/node" in c["detail"]])' $HOME/doctor.json)"
    serves_encrypted
    command setup --undo --yes | tail -1
    is_undone
    json_names
    cmp $config/server.json $HOME/server.json
    command setup --undo --yes`);
    expect(output).toEqual([
      "50-hivemind-sqlcipher.conf, which lets the container mount a copy of server.json with the passphrase, in memory",
      "11",
      "hall kitchen",
      "600",
      "1",
      "active",
      "Nothing to do",
      "stopped for",
      "The settings, the passphrase, backups and bundles stay.",
      "gone",
      "attic hall kitchen",
      expect.stringMatching(/^Nothing to undo/),
    ]);
  }, 300_000);

  test("setup of a JSON hub by root: sealed, served after a reboot, undone", async () => {
    const machine = await HeadlessMachine.make();
    const installed = await machine.boot(`${beginOfRoot}
    configure hivemind-json-db-plugin
    add_clients kitchen hall
    write_quadlet
    start_hub
    cp $config/server.json $HOME/
    command setup --dry-run ${optionsOfRoot} >$HOME/dry.log
    grep -o "seal a passphrase to this machine in .*credstore.encrypted" $HOME/dry.log
    grep -o "50-hivemind-sqlcipher.conf, which lets the container mount .*" $HOME/dry.log
    [[ ! -e $quadlet.d && ! -e ${sealed} ]]
    command setup ${optionsOfRoot} >$HOME/setup.log
    serves_encrypted
    names
    ${strangers}
    [[ ! -e $data/clients.json ]]
    stat -c "%U %a" $data/clients.db $copy $(dirname $copy) ${sealed}
    command setup ${optionsOfRoot} | grep -o "^Nothing to do"
    findings
    command add-client --name attic >/dev/null
    passphrase=$(systemd-creds decrypt --name=hivemind-sqlcipher ${sealed} -)
    command rotate --quiet | grep -o "sealed:.*"
    serves_encrypted
    rotated=$(systemd-creds decrypt --name=hivemind-sqlcipher ${sealed} -)
    [[ $rotated != $passphrase ]]
    printf '%s\n' "$passphrase" "$rotated" >/dev/shm/patterns
    grep -rlaFf /dev/shm/patterns $HOME /etc /proc/[0-9]*/cmdline /proc/[0-9]*/environ 2>/dev/null || echo nowhere
    command backup --quiet | grep -o "stopped for"
    command restore $(ls $disk/backups/*.db | tail -1) --yes --quiet >/dev/null
    serves_encrypted
    ${strangers}`);
    expect(installed).toEqual([
      "seal a passphrase to this machine in /etc/credstore.encrypted",
      "50-hivemind-sqlcipher.conf, which lets the container mount a copy of server.json with the passphrase, in memory",
      "hall kitchen",
      ...["resident 600", "resident 600", "root 700", "root 600"],
      "Nothing to do",
      "findings: container bundle-disk",
      `sealed:${sealed}`,
      "nowhere",
      "stopped for",
    ]);
    const rebooted = await machine.boot(`${bootOfRoot}
    serves_encrypted
    names
    findings
    units show --value --property=ActiveState hivemind-sqlcipher-backup-*.timer
    timer=$(basename /etc/systemd/system/hivemind-sqlcipher-backup-*.service)
    units start $timer
    units show --value --property=Result,ExecMainStatus $timer
    serves_encrypted
    command setup --undo --yes | tail -1
    is_undone
    json_names
    cmp $config/server.json $HOME/server.json
    ${strangers}
    ls -d /etc/systemd/system/hivemind-sqlcipher-* 2>/dev/null || echo removed
    command setup --undo --yes
    command setup --yes --recovery-key-file $HOME/other.txt | head -1
    serves_encrypted
    names`);
    expect(rebooted).toEqual([
      "attic hall kitchen",
      "findings: copies container bundle-disk bundle-tried",
      "active",
      ...["success", "0"],
      "The settings, the passphrase, backups and bundles stay.",
      "gone",
      "attic hall kitchen",
      "removed",
      expect.stringMatching(/^Nothing to undo/),
      "Plan for hivemind-listener.service (systemd):",
      "attic hall kitchen",
    ]);
  }, 400_000);

  test("two quadlets of root, one in a user namespace and one of root: each has its own passphrase", async () => {
    const machine = await HeadlessMachine.make();
    const guest = "$disk/guest/.local/share/hivemind-core/clients.db";
    const output = await machine.boot(`${beginOfRoot}
    # Only without this mount the kernel lets a user namespace have a /proc of its own.
    umount /proc/sys
    configure hivemind-json-db-plugin
    add_clients kitchen
    mkdir -p $disk/guest/.local/share
    cp -r $user_home/.config $disk/guest/
    cp -r $data $disk/guest/.local/share/
    chown -R 0:0 $disk/guest
    sed -i 's/5678/5680/' $disk/guest/.config/hivemind-core/server.json
    mapping=User=0
    mounted=$disk/guest
    write_quadlet
    sed 's/hivemind_listener/guest/' $quadlet >/etc/containers/systemd/guest.container
    mapping=$'User=1000\\nUIDMap=0:100000:65536\\nGIDMap=0:100000:65536'
    mounted=$user_home
    chown -R 101000:101000 $data $config
    write_quadlet
    start_hub
    units start guest
    command setup --unit hivemind-listener ${optionsOfRoot} >$HOME/first.log
    stat -c %u $data/clients.db $copy
    command setup --unit guest ${optionsOfRoot.replace("key.txt", "guest.txt")} >$HOME/second.log
    ls /etc/credstore.encrypted | sed 's/-[0-9a-f]\\{8\\}$/-HASH/'
    ls /etc/systemd/system | grep -c "^hivemind-sqlcipher-backup-.*timer"
    command setup --unit guest ${optionsOfRoot} | grep -o "^Nothing to do: guest"
    command setup ${optionsOfRoot} | grep -o "^Nothing to do: hivemind-listener"
    units stop guest
    serves_encrypted
    units restart $unit
    units start guest
    serves_encrypted
    command rotate --quiet --db ${guest} | grep -o "sealed:.*-"
    command rotate --quiet | grep -o "sealed:.*"
    serves_encrypted
    command backup --quiet --db ${guest} | grep -o "guest was stopped"
    command setup --unit guest --undo --yes | tail -1
    [[ -s $disk/guest/.local/share/hivemind-core/clients.json ]] && echo written
    command setup --undo --yes >/dev/null
    find $data $config ! -user 101000
    is_undone`);
    expect(output).toEqual([
      ...["101000", "101000", "hivemind-sqlcipher", "hivemind-sqlcipher-HASH", "2"],
      ...["Nothing to do: guest", "Nothing to do: hivemind-listener"],
      ...[`sealed:${sealed}-`, `sealed:${sealed}`, "guest was stopped"],
      ...["The settings, the passphrase, backups and bundles stay.", "written", "gone"],
    ]);
  }, 580_000);

  test("the lines that are named for root's Podman before 5.0 encrypt the store", async () => {
    const machine = await HeadlessMachine.make();
    const output = await machine.boot(`${loginOfRoot}
    configure hivemind-sqlite-db-plugin
    add_clients kitchen
    write_quadlet
    write_unit
    start_hub
    command setup ${optionsOfRoot} 2>$HOME/refused.log || true
    sed -n 's/^ *\\(mkdir\\|hivemind-sqlcipher\\)/\\1/p' $HOME/refused.log >$HOME/lines.log
    step() { eval "$(grep -e " $1" $HOME/lines.log)" "\${@:2}"; }
    step -m
    printed=$(step "run --print-unit")
    volume=$(sed -n 's/^Volume=//p' <<<"$printed")
    sed -i "s#^ExecStart=/usr/bin/podman run#& --volume=$volume#" $unit_files/$unit
    mkdir $unit_files/$unit.d
    sed -n '/^.Service]/,$p' <<<"$printed" >$unit_files/$unit.d/copy.conf
    units daemon-reload
    units restart $unit
    wait_for_port
    step encrypt --recovery-key-file $HOME/key.txt >/dev/null
    serves_encrypted
    step backup >/dev/null
    step schedule >/dev/null
    systemctl is-active hivemind-sqlcipher-backup-*.timer
    units restart $unit
    serves_encrypted
    stat -c %U $data/clients.db
    step backup | grep -o "stopped for"`);
    expect(output).toEqual(["active", "resident", "stopped for"]);
  }, 300_000);

  test.each(
    podmans.flatMap((each) => ["sqlite", "sqlcipher"].map((layout) => ({ ...each, layout }))),
  )(
    "setup of a hub of $podman on $layout, and back",
    async ({ begin, options, layout }) => {
      const machine = await HeadlessMachine.make();
      const password = layout === "sqlcipher" ? `"password=in 'plain' text"` : "";
      const output = await machine.boot(`${begin}
    configure hivemind-sqlite-db-plugin ${password}
    add_clients kitchen hall
    write_quadlet
    start_hub
    cp $config/server.json $HOME/
    command setup ${options} >$HOME/setup.log
    serves_encrypted
    names
    command setup ${options} | grep -o "^Nothing to do"
    command setup --undo --yes >/dev/null
    is_undone
    python3 -c 'import json,sys; print(json.load(open(sys.argv[1]))["database"] == json.load(open(sys.argv[2]))["database"])' $config/server.json $HOME/server.json
    head -c 6 $data/clients.db | grep -c SQLite || true`);
      const isPlain = layout === "sqlite" ? "1" : "0";
      expect(output).toEqual(["hall kitchen", "Nothing to do", "gone", "True", isPlain]);
    },
    300_000,
  );

  /** Without the steps whose state for the next setup is that of a neighbour. */
  const steps = [
    ...["setup.recorded", "init.store-made", "setup.drop-in", "setup.stopped", "setup.copied"],
    ...["setup.switched", "setup.backed-up", "setup.plain-removed"],
    ...["undo.recorded", "undo.copied", "undo.switched", "undo.drop-in", "undo.moved"],
  ];

  test.each(podmans)(
    "killed at steps of setup and undo, the container of $podman starts, and the same command goes on",
    async ({ begin, options }) => {
      const machine = await HeadlessMachine.make();
      const output = await machine.boot(`${begin}
    configure hivemind-json-db-plugin
    add_clients kitchen hall
    # Tests start it more often than five times in ten seconds.
    write_quadlet
    printf '[Unit]\\nStartLimitIntervalSec=0\\n' >>$quadlet
    start_hub
    for step in ${steps.join(" ")}; do
      command="${options}"
      [[ $step != undo.* ]] || command="--undo --yes"
      if NODE_OPTIONS=--import=${root}test/faults/at-step.mjs HIVEMIND_TEST_AT_STEP="{\\"$step\\":\\"kill\\"}" \
        command setup $command >$HOME/killed.log 2>&1; then
        echo "$step was not reached"
        cat $HOME/killed.log >&2
      fi
      ! grep -h "^error:" $HOME/killed.log || echo "$step: failed"
      [[ $step != undo.recorded || ! -e $data/clients.json ]] || echo "the hub was not set up"
      # As after a power failure: no timer of this boot starts the hub.
      units stop 'hivemind-sqlcipher-restart-*.timer' 2>/dev/null || true
      units restart $unit || echo "$step: the hub does not start"
      wait_for_port || echo "$step: not listening"
    done
    command setup --undo --yes >$HOME/undo.log 2>&1 || cat $HOME/undo.log
    is_undone
    json_names`);
      expect(output).toEqual(["gone", "hall kitchen"]);
    },
    580_000,
  );

  test("what is in the way is named with its fix, and nothing has changed", async () => {
    const machine = await HeadlessMachine.make();
    const output = await machine.boot(`${begin}
    configure hivemind-sqlite-db-plugin
    add_clients kitchen
    try() {
      local code=0
      command setup --dry-run ${options} >$HOME/dry.log 2>&1 || code=$?
      echo "$1: $code"
      sed -n '/^obstacle:/,$p' $HOME/dry.log | head -n $2
      as_user systemctl --user stop $unit
    }
    echo 'raise ImportError("not built")' >$user_home/.cache-sqlcipher3.py
    write_quadlet "Volume=$user_home/.cache-sqlcipher3.py:/broken/sqlcipher3.py:ro" Environment=PYTHONPATH=/broken
    start_hub
    try packages 4
    write_quadlet
    start_hub
    in_session podman pause hivemind_listener >/dev/null
    try paused 2
    write_quadlet "Tmpfs=$home_inside/.local/share/hivemind-core"
    sed -i '\\#^Volume=.*share/hivemind-core#s#hivemind-core\\b#&/clients.db#g' $quadlet
    start_hub
    try file 2
    sed -i '/clients.db/d' $quadlet
    start_hub
    try volume 2
    write_quadlet
    mv /run/systemd/user-generators/podman-user-generator /run/quadlet
    printf '#!/bin/bash\n[[ $1 != -version ]] || exec echo 4.9.4\nexec -a podman-user-generator /run/quadlet "$@"\n' >/run/systemd/user-generators/podman-user-generator
    chmod 755 /run/systemd/user-generators/podman-user-generator
    start_hub
    try version 6
    [[ ! -e $quadlet.d && ! -e $user_home/.config/hivemind-sqlcipher ]] && echo untouched`);
    const notMounted = (how: string) => [
      `obstacle: the container hivemind_listener ${how} /var/tmp/resident/.local/share/hivemind-core/clients.db`,
      "  Mount its directory: docs/guide/containers.md shows how.",
    ];
    expect(output).toEqual([
      "packages: 17",
      expect.stringMatching(/hivemind_listener cannot open an encrypted store: .*sqlcipher3/),
      expect.stringContaining("mount .config/hivemind: images of HiveMind"),
      expect.stringMatching(/^ {2}printf .*'sqlcipher3>=0.6.2' >> 'hivemind.list'$/),
      "paused: 17",
      "obstacle: the container of hivemind-listener.service is paused",
      "  Unpause it: podman unpause hivemind_listener",
      "file: 17",
      ...notMounted("mounts only the file"),
      "volume: 17",
      ...notMounted("has no volume with"),
      "version: 17",
      expect.stringContaining("Podman 4.9.4 reads no drop-ins for quadlets"),
      expect.stringContaining("docs/guide/containers.md explains the steps."),
      expect.stringContaining("mkdir -p"),
      "  hivemind-sqlcipher run --print-unit quadlet --container hivemind_listener",
      expect.stringContaining("systemctl --user restart hivemind-listener.service"),
      expect.stringContaining("encrypt --service systemd-user --unit hivemind-listener"),
      "untouched",
    ]);
  }, 300_000);
}
