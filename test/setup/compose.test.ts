/** A hub in a container of Podman, rootless or root's, from a compose file. */
import { expect, test } from "vitest";
import { root } from "../built.js";
import { proving } from "../prove-report.js";
import { HeadlessMachine } from "./headless-machine.js";

const options =
  "--to $own_files/backups --bundle-to $own_files/bundles --recovery-key-file $own_files/key.txt --yes";

/** A user who has logged in, with Podman and the assistant. */
const login = `
  . ${root}test/setup/quadlet.sh
  . ${root}test/setup/compose.sh
  install_login
  install_podman
  install_assistant
  start_enabled
  log_in
  make_image`;

/** Compose is version 2.26, from scripts/setup --engines. */
const begin = `${login}
  install_compose`;

const scriptsOfRoot = `
  . ${root}test/setup/rootful.sh
  . ${root}test/setup/compose.sh`;

const beginOfRoot = `${scriptsOfRoot}
  install_podman
  boot_podman
  install_assistant
  install_login
  start_enabled
  make_image --change "USER $uid"
  install_compose`;

/** `killed` is the exit code of a killed command, which for a user is that of systemd-run. */
const owners = [
  { owner: "a user", begin, killed: 255 },
  { owner: "root", begin: beginOfRoot, killed: 137 },
];

/** The second project of a user is set up, and undone: the first hub keeps its copy. */
const second = `
    ports() {
      units restart 'hivemind-sqlcipher-copy-*'
      grep -ho '"port": 567.' $runtime/hivemind-sqlcipher-*/server.json | sort -u
      compose restart 2>/dev/null
      serves_encrypted
    }
    other="--db $user_home/second/share/clients.db"
    command setup $other --to $own_files/others --bundle-to $own_files/other-bundles \
      --recovery-key-file $own_files/other.txt --yes >$HOME/setup.log || { cat $HOME/setup.log; exit 1; }
    ports
    (project=$own_files/second-project; compose restart 2>/dev/null)
    command rotate $other --quiet >/dev/null
    command setup $other --undo --yes | tail -1
    ports`;

/** The store at root's default path belongs to neither hub, and that of a user to the first. */
const ambiguous = `[[ $owner != 0 ]] || command setup --dry-run 2>&1 | grep -o "several containers have a hub: .*" || true`;

test("without compose, the steps are named, and nothing has changed", async () => {
  const machine = await HeadlessMachine.make();
  const output = await machine.boot(`${login}
    configure hivemind-sqlite-db-plugin
    add_clients kitchen
    as_user mkdir -p $project
    write_compose
    create_hub
    command setup ${options} >$HOME/setup.log 2>&1 || echo "code $?"
    grep -o "docker compose 2 is not installed" $HOME/setup.log
    grep -c "run --print-unit compose --container hivemind_listener" $HOME/setup.log
    ls $project
    [[ ! -e $user_home/.config/hivemind-sqlcipher ]] && echo untouched`);
  expect(output).toEqual([
    ...["code 17", "docker compose 2 is not installed", "1", "compose.yaml", "untouched"],
  ]);
});

// scripts/prove containers installs compose.
if (proving) {
  test.each(owners)(
    "setup of a JSON hub by $owner, run again, and undone",
    async ({ begin }) => {
      const machine = await HeadlessMachine.make();
      const output = await machine.boot(`${begin}
    configure hivemind-json-db-plugin
    add_clients kitchen hall
    write_compose
    compose_hub
    cp $config/server.json $HOME/
    command setup --dry-run ${options} | grep -o "compose.override.yaml, which lets the container mount .*"
    is_composed_as_before
    command setup ${options} >$HOME/setup.log || { cat $HOME/setup.log; exit 1; }
    sed '1,/satellites reconnect/d' $HOME/setup.log | wc -l
    serves_encrypted
    names
    in_container printenv TZ
    [[ ! -e $data/clients.json ]]
    stat -c "%U %a" $data/clients.db
    (cd $user_home && find .config/hivemind-core .local/share/hivemind-core ! -user $user)
    ls $own_files/backups | grep -c "db$"
    units is-active hivemind-sqlcipher-backup-*.timer
    command setup ${options} | grep -o "^Nothing to do"
    command add-client --name attic >/dev/null
    command rotate --quiet >/dev/null
    serves_encrypted
    command backup --quiet | grep -o "stopped for"
    # As after a reboot: the copy is gone, and the unit runs before the engine starts the container.
    compose stop 2>/dev/null
    rm $copy
    units restart $copy_unit
    compose start 2>/dev/null
    serves_encrypted
    compose up --detach --force-recreate >$HOME/compose.log 2>&1
    serves_encrypted
    command setup --undo --yes | tail -1
    is_composed_as_before
    json_names
    cmp $config/server.json $HOME/server.json
    command setup --undo --yes`);
      expect(output).toEqual([
        "compose.override.yaml, which lets the container mount a copy of server.json with the passphrase, in memory; create the container again with it",
        "compose.yaml",
        "11",
        "hall kitchen",
        "America/Montreal",
        "resident 600",
        "1",
        "active",
        "Nothing to do",
        "stopped for",
        "The settings, the passphrase, backups and bundles stay.",
        "compose.yaml",
        "attic hall kitchen",
        expect.stringMatching(/^Nothing to undo/),
      ]);
    },
    300_000,
  );

  test.each(
    owners.flatMap((each) => ["sqlite", "sqlcipher"].map((layout) => ({ ...each, layout }))),
  )(
    "setup of a hub on $layout by $owner, and back",
    async ({ begin, layout }) => {
      const machine = await HeadlessMachine.make();
      const password = layout === "sqlcipher" ? `"password=in 'plain' text"` : "";
      const output = await machine.boot(`${begin}
    configure hivemind-sqlite-db-plugin ${password}
    add_clients kitchen hall
    write_compose
    compose_hub
    # The program docker finds the same container there.
    export DOCKER_HOST=$compose_host
    cp $config/server.json $HOME/
    ${layout === "sqlite" ? `(compose_second_hub)\n    ${ambiguous}` : ""}
    command setup ${options} --unit hivemind_listener >$HOME/setup.log || { cat $HOME/setup.log; exit 1; }
    serves_encrypted
    names
    command setup ${options} | grep -o "^Nothing to do"
    ${layout === "sqlite" ? second : ""}
    command setup --undo --yes >$HOME/undo.log 2>&1 || { cat $HOME/undo.log; exit 1; }
    is_composed_as_before
    python3 -c 'import json,sys; print(json.load(open(sys.argv[1]))["database"] == json.load(open(sys.argv[2]))["database"])' $config/server.json $HOME/server.json
    head -c 6 $data/clients.db | grep -c SQLite || true`);
      const isPlain = layout === "sqlite" ? "1" : "0";
      const isRoot = begin === beginOfRoot;
      const named = "several containers have a hub: hivemind_listener, second";
      const kept = "The settings, the passphrase, backups and bundles stay.";
      const others = ['"port": 5678', '"port": 5679', kept, '"port": 5678'];
      expect(output).toEqual([
        ...(layout === "sqlite" && isRoot ? [named] : []),
        ...["hall kitchen", "Nothing to do", ...(layout === "sqlite" ? others : [])],
        ...["compose.yaml", "True", isPlain],
      ]);
    },
    400_000,
  );

  test("root's hub is started with its copy at boot", async () => {
    const machine = await HeadlessMachine.make();
    await machine.boot(`${beginOfRoot}
    cp /lib/systemd/system/podman-restart.service /etc/systemd/system/
    ln -s ../podman-restart.service /etc/systemd/system/multi-user.target.wants/
    configure hivemind-json-db-plugin
    add_clients kitchen hall
    write_compose
    sed -i 's/restart: unless-stopped/restart: always/' $project/compose.yaml
    compose_hub
    command setup ${options} >$HOME/setup.log || { cat $HOME/setup.log; exit 1; }
    serves_encrypted`);
    const rebooted = await machine.boot(`${scriptsOfRoot}
    boot_podman
    start_enabled
    serves_encrypted
    names
    units start podman.socket
    command setup --undo --yes >$HOME/undo.log 2>&1 || { cat $HOME/undo.log; exit 1; }
    is_composed_as_before
    json_names`);
    expect(rebooted).toEqual(["hall kitchen", "compose.yaml", "hall kitchen"]);
  }, 300_000);

  /** Without the steps whose state for the next setup is that of a neighbour. */
  const steps = [
    ...["setup.recorded", "setup.copy-unit", "setup.override", "setup.drop-in", "setup.stopped"],
    ...["setup.copied", "setup.switched", "setup.plain-removed"],
    ...["undo.recorded", "undo.switched", "undo.override", "undo.drop-in", "undo.moved"],
  ];

  test.each(owners)(
    "killed at steps of setup and undo by $owner, the container starts, and the same command goes on",
    async ({ begin, killed }) => {
      const machine = await HeadlessMachine.make();
      const output = await machine.boot(`${begin}
    configure hivemind-json-db-plugin
    add_clients kitchen hall
    write_compose
    compose_hub
    for step in ${steps.join(" ")}; do
      command="${options}"
      [[ $step != undo.* ]] || command="--undo --yes"
      code=0
      NODE_OPTIONS=--import=${root}test/faults/at-step.mjs HIVEMIND_TEST_AT_STEP="{\\"$step\\":\\"kill\\"}" \
        command setup $command >$HOME/killed.log 2>&1 || code=$?
      [[ $code == ${killed} ]] || { echo "$step: not killed, code $code"; cat $HOME/killed.log >&2; }
      # As after a power failure: no timer of this boot starts the hub.
      units stop 'hivemind-sqlcipher-restart-*.timer' 2>/dev/null || true
      if [[ -e $unit_files/$copy_unit ]]; then
        rm -f $copy
        units restart $copy_unit || echo "$step: no copy"
      fi
      compose restart >$HOME/compose.log 2>&1 || { echo "$step: the hub does not start"; cat $HOME/compose.log >&2; }
      wait_for_port || echo "$step: not listening"
    done
    command setup --undo --yes >$HOME/undo.log 2>&1 || cat $HOME/undo.log
    is_composed_as_before
    json_names`);
      expect(output).toEqual(["compose.yaml", "hall kitchen"]);
    },
    580_000,
  );

  test("killed while the hub is stopped, it is started on the database of server.json", async () => {
    const machine = await HeadlessMachine.make();
    const output = await machine.boot(`${begin}
    configure hivemind-json-db-plugin
    add_clients kitchen hall
    write_compose
    compose_hub
    kill_at() {
      export NODE_OPTIONS=--import=${root}test/faults/at-step.mjs HIVEMIND_TEST_AT_STEP="{\\"$1\\":\\"kill\\"}"
      command setup "\${@:2}" >$HOME/killed.log 2>&1 || echo "code $?"
      unset NODE_OPTIONS HIVEMIND_TEST_AT_STEP
    }
    kill_at setup.switched ${options}
    # Clients that are added to the former database now would be missing from the store.
    ! in_session podman start hivemind_listener >$HOME/start.log 2>&1 || echo "started on the former database"
    command settle | grep -o "started hivemind_listener"
    serves_encrypted
    command setup ${options} >$HOME/setup.log || { cat $HOME/setup.log; exit 1; }
    serves_encrypted
    names
    kill_at undo.switched --undo --yes
    command settle | grep -o "started hivemind_listener"
    wait_for_port
    in_container cat $home_inside/.config/hivemind-core/server.json | cmp - $config/server.json
    command setup --undo --yes >/dev/null
    is_composed_as_before
    json_names`);
    expect(output).toEqual([
      ...["code 255", "started hivemind_listener", "hall kitchen"],
      ...["code 255", "started hivemind_listener", "compose.yaml", "hall kitchen"],
    ]);
  }, 300_000);

  test("what is in the way is named, and nothing has changed", async () => {
    const machine = await HeadlessMachine.make();
    const output = await machine.boot(`${begin}
    configure hivemind-sqlite-db-plugin
    add_clients kitchen
    write_compose
    try() {
      local code=0
      command setup --dry-run ${options} >$HOME/dry.log 2>&1 || code=$?
      echo "$1: $code"
      sed -n '/^obstacle:/p' $HOME/dry.log
    }
    compose_hub
    echo 'services: {}' >$project/compose.override.yml
    try override
    rm $project/compose.override.yml
    chown root $project
    try directory
    chown $uid $project
    mv $user_home/bin/docker-compose $HOME/
    try program
    grep -c "run --print-unit compose --container hivemind_listener" $HOME/dry.log
    mv $HOME/docker-compose $user_home/bin/
    echo '[Service]' >$unit_files/$copy_unit
    try unit
    rm $unit_files/$copy_unit
    echo TZ=UTC >$project/prod.env
    compose_hub --env-file $project/prod.env
    try variables
    rm $project/prod.env
    mv $project/compose.yaml $project/hub.yaml
    try file
    compose --file $project/hub.yaml down 2>/dev/null
    compose_hub --file $project/hub.yaml
    cp $project/hub.yaml $project/compose.yaml
    try files
    rm $project/hub.yaml
    ls $project
    [[ ! -e $user_home/.config/hivemind-sqlcipher ]] && echo untouched`);
    const problem = (text: string) =>
      expect.stringContaining(`hub runs in the container hivemind_listener (podman): ${text}`);
    const project = "/var/tmp/resident/hivemind";
    expect(output).toEqual([
      "override: 17",
      problem(`${project}/compose.override.yml exists already`),
      "directory: 17",
      problem(`this user cannot write to ${project}`),
      "program: 17",
      problem("docker compose 2 is not installed"),
      "1",
      "unit: 17",
      expect.stringMatching(
        /\.config\/systemd\/user\/hivemind-sqlcipher-copy-[\da-f]{8}\.service exists already/,
      ),
      "variables: 17",
      problem(`compose was given other files of variables: ${project}/prod.env`),
      "file: 17",
      problem(`${project} has no compose file`),
      "files: 17",
      problem(`compose was given other files: ${project}/hub.yaml`),
      "compose.yaml",
      "untouched",
    ]);
  }, 300_000);
}
