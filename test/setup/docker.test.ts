/** A hub in a container of Docker, from a compose file. */
import { expect, test } from "vitest";
import { root } from "../built.js";
import { proving } from "../prove-report.js";
import { HeadlessMachine } from "./headless-machine.js";

const options =
  "--to $own_files/backups --bundle-to $own_files/bundles --recovery-key-file $own_files/key.txt --yes";

const scriptsOf = (user: "quadlet" | "rootful") => `
  . ${root}test/setup/${user}.sh
  . ${root}test/setup/compose.sh
  . ${root}test/setup/docker.sh
  . ${root}test/setup/satellite.sh`;

const scripts = scriptsOf("quadlet");

const scriptsOfRoot = scriptsOf("rootful");

/** A user who has logged in, with Docker and the assistant. Compose is that of scripts/setup. */
const begin = `${scripts}
  install_login
  install_docker
  install_assistant
  start_enabled
  log_in`;

/** The same for root, who needs no session. */
const beginOfRoot = `${scriptsOfRoot}
  install_login
  install_docker
  install_assistant
  start_enabled
  systemctl start docker`;

const scriptsOfRootless = `${scripts}
  . ${root}test/setup/rootless-docker.sh`;

/** A user with a Docker of the user's own. */
const beginRootless = `${scriptsOfRootless}
  install_login
  install_docker
  install_assistant
  start_enabled
  log_in
  wait_for_docker
  restart_assistant`;

const rootless = { owner: "a user with a rootless Docker", begin: beginRootless };

/** `killed` is the exit code of a killed command, which for a user is that of systemd-run. */
const owners = [
  { owner: "a user", begin, killed: 255 },
  { owner: "root", begin: beginOfRoot, killed: 137 },
];

test("without compose, the steps are named, and nothing has changed", async () => {
  const machine = await HeadlessMachine.make();
  const output = await machine.boot(`${begin}
    make_image --change "USER $uid"
    make_hub_files hivemind-sqlite-db-plugin kitchen
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
  test.each([...owners, rootless])(
    "setup of a JSON hub by $owner, run again, and undone, with a satellite",
    async ({ begin }) => {
      const machine = await HeadlessMachine.make();
      const output = await machine.boot(`${begin}
    make_hub hivemind-json-db-plugin kitchen hall
    compose_hub
    cp $config/server.json $HOME/
    choose_satellite kitchen
    start_satellite
    command setup --dry-run ${options} | grep -o "compose.override.yaml, which lets the container mount .*"
    is_composed_as_before
    command setup ${options} >$HOME/setup.log || { cat $HOME/setup.log; exit 1; }
    sed '1,/satellites reconnect/d' $HOME/setup.log | wc -l
    serves_encrypted
    names
    [[ ! -e $data/clients.json ]]
    stat -c %a $data/clients.db
    ls $own_files/backups | grep -c "db$"
    units is-active hivemind-sqlcipher-backup-*.timer
    wait_for_replies
    command setup ${options} | grep -o "^Nothing to do"
    command add-client --name attic >/dev/null
    command rotate --quiet >/dev/null
    serves_encrypted
    wait_for_replies
    command backup --quiet | grep -o "stopped for"
    wait_for_replies
    command restore $(ls $own_files/backups/*.db | tail -1) --yes --quiet >/dev/null
    serves_encrypted
    wait_for_replies
    compose up --detach --force-recreate >$HOME/compose.log 2>&1
    serves_encrypted
    wait_for_replies
    command setup --undo --yes | tail -1
    is_composed_as_before
    wait_for_replies
    stop_satellite
    json_names
    cmp $config/server.json $HOME/server.json
    command setup --undo --yes`);
      expect(output).toEqual([
        "compose.override.yaml, which lets the container mount a copy of server.json with the passphrase, in memory; create the container again with it",
        "compose.yaml",
        "11",
        "hall kitchen",
        "600",
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
      const password = layout === "sqlcipher" ? "password=in-plain-text" : "";
      const output = await machine.boot(`${begin}
    make_hub "hivemind-sqlite-db-plugin ${password}" kitchen hall
    compose_hub
    cp $config/server.json $HOME/
    command setup ${options} >$HOME/setup.log || { cat $HOME/setup.log; exit 1; }
    serves_encrypted
    names
    command setup ${options} | grep -o "^Nothing to do"
    command setup --undo --yes >$HOME/undo.log 2>&1 || { cat $HOME/undo.log; exit 1; }
    is_composed_as_before
    python3 -c 'import json,sys; print(json.load(open(sys.argv[1]))["database"] == json.load(open(sys.argv[2]))["database"])' $config/server.json $HOME/server.json
    head -c 6 $data/clients.db | grep -c SQLite || true`);
      const isPlain = layout === "sqlite" ? "1" : "0";
      expect(output).toEqual(["hall kitchen", "Nothing to do", "compose.yaml", "True", isPlain]);
    },
    300_000,
  );

  test("after a reboot the unit starts the container that Docker could not start", async () => {
    const machine = await HeadlessMachine.make();
    await machine.boot(`${begin}
    make_hub hivemind-json-db-plugin kitchen hall
    compose_hub
    command setup ${options} >$HOME/setup.log || { cat $HOME/setup.log; exit 1; }`);
    const again = `${scripts}
    start_enabled
    systemctl start docker
    status() { docker inspect --format '{{.State.Status}}' hivemind_listener; }
    error() { docker inspect --format '{{.State.Error}}' hivemind_listener | grep -o "no such file or directory"; }
    run_copy() {
      as_user systemctl --user restart $copy_unit
      [[ -s $copy ]]
    }`;
    const rebooted = await machine.boot(`${again}
    status
    error
    # The keyring is unlocked after the unit has begun.
    log_in
    serves_encrypted
    names
    # Docker itself is restarted, and finds the copy.
    systemctl restart docker
    serves_encrypted
    # Or it does not.
    systemctl stop docker
    rm $copy
    systemctl start docker
    status
    run_copy
    serves_encrypted
    docker stop hivemind_listener >/dev/null`);
    expect(rebooted).toEqual([
      ...["exited", "no such file or directory", "hall kitchen", "exited"],
    ]);
    const stopped = await machine.boot(`${again}
    log_in
    run_copy
    status
    docker start hivemind_listener >/dev/null
    serves_encrypted
    # As after a power failure while a backup has the container stopped.
    NODE_OPTIONS=--import=${root}test/faults/at-step.mjs HIVEMIND_TEST_AT_STEP='{"backup.stopped":"kill"}' \
      command backup >$HOME/killed.log 2>&1 || echo killed
    units stop 'hivemind-sqlcipher-restart-*.timer'
    systemctl restart docker
    status
    units start $(basename $unit_files/hivemind-sqlcipher-recovery-*.service)
    serves_encrypted
    command setup --undo --yes >$HOME/undo.log 2>&1 || { cat $HOME/undo.log; exit 1; }
    is_composed_as_before
    json_names`);
    expect(stopped).toEqual(["exited", "killed", "exited", "compose.yaml", "hall kitchen"]);
  }, 300_000);

  test("after a reboot a rootless Docker finds the copy, or the unit starts the container", async () => {
    const machine = await HeadlessMachine.make();
    const advice = await machine.boot(`${beginRootless}
    make_hub hivemind-json-db-plugin kitchen hall
    sed -i 's/^    image:/    user: "1000"\\n&/' $project/compose.yaml
    chmod -R a+rwX $user_home
    compose_hub
    (command setup --dry-run ${options} 2>&1 || true) | grep -o "its hub runs as .*"
    sed -i '/^    user:/d' $project/compose.yaml
    compose_hub
    command setup ${options} >$HOME/setup.log || { cat $HOME/setup.log; exit 1; }`);
    expect(advice).toEqual([
      'its hub runs as user 100999, who could not read a copy of user 4711: in the compose file, user: "0:0" changes it',
    ]);
    const rebooted = await machine.boot(`${scriptsOfRootless}
    boot_docker
    start_enabled
    error() { as_user docker inspect --format '{{.State.Status}}{{.State.Error}}' hivemind_listener | grep -o "$1"; }
    systemctl start user@$uid.service
    wait_for_docker
    error "no such file or directory"
    # The keyring is unlocked after the unit has begun.
    log_in
    serves_encrypted
    names
    # With an unlocked keyring, Docker waits for the copy.
    units stop docker $copy_unit
    rm $copy
    units start docker $copy_unit
    serves_encrypted
    error "^running$"
    command rotate --quiet >/dev/null
    command backup --quiet | grep -o "stopped for"
    serves_encrypted
    command setup --undo --yes >$HOME/undo.log 2>&1 || { cat $HOME/undo.log; exit 1; }
    is_composed_as_before
    json_names
    # Only the shell has the variable.
    as_user docker context use default >/dev/null
    (DOCKER_HOST=$compose_host command setup --dry-run 2>&1 || true) | grep -o "your units cannot use this Docker"`);
    expect(rebooted).toEqual([
      ...["no such file or directory", "hall kitchen", "running", "stopped for"],
      ...["compose.yaml", "hall kitchen", "your units cannot use this Docker"],
    ]);
  }, 300_000);

  test("root's passphrase is sealed, and Docker finds the copy at boot", async () => {
    const machine = await HeadlessMachine.make();
    const sealed = "/etc/credstore.encrypted/hivemind-sqlcipher";
    const installed = await machine.boot(`${beginOfRoot}
    make_hub hivemind-json-db-plugin kitchen hall
    compose_hub
    command setup ${options} >$HOME/setup.log || { cat $HOME/setup.log; exit 1; }
    serves_encrypted
    stat -c "%u %a" $copy $(dirname $copy) $data/clients.db ${sealed} $project/compose.override.yaml
    passphrase=$(systemd-creds decrypt --name=hivemind-sqlcipher ${sealed} -)
    printf '%s\n' "$passphrase" >/dev/shm/patterns
    grep -rlaFf /dev/shm/patterns $HOME /etc /proc/[0-9]*/cmdline /proc/[0-9]*/environ 2>/dev/null || echo nowhere
    (cd $user_home && find hivemind ! -user $user)`);
    expect(installed).toEqual([...["4711 600", "0 700", "4711 600", "0 600", "0 644", "nowhere"]]);
    const rebooted = await machine.boot(`${scriptsOfRoot}
    start_enabled
    serves_encrypted
    names
    # Docker waits only for the first attempt, which fails, as with a TPM that is not ready.
    systemctl stop docker $copy_unit
    rm $copy
    mv ${sealed} $HOME/
    systemctl start --no-block $copy_unit docker
    systemctl start docker
    docker inspect --format '{{.State.Error}}' hivemind_listener | grep -o "no such file or directory"
    mv $HOME/hivemind-sqlcipher ${sealed}
    serves_encrypted
    units is-active hivemind-sqlcipher-backup-*.timer
    timer=$(basename /etc/systemd/system/hivemind-sqlcipher-backup-*.service)
    units start $timer
    units show --value --property=Result,ExecMainStatus $timer
    serves_encrypted
    command setup --undo --yes >$HOME/undo.log 2>&1 || { cat $HOME/undo.log; exit 1; }
    is_composed_as_before
    json_names
    (cd $user_home && find hivemind ! -user $user)
    command setup --yes --recovery-key-file $HOME/other.txt | head -1
    serves_encrypted`);
    expect(rebooted).toEqual([
      ...[
        "hall kitchen",
        "no such file or directory",
        "active",
        "success",
        "0",
        "compose.yaml",
        "hall kitchen",
      ],
      "Plan for hivemind_listener (docker):",
    ]);
  }, 300_000);

  test("root refuses a project that another user can change, unless it is that of sudo's user", async () => {
    const machine = await HeadlessMachine.make();
    const output = await machine.boot(`${beginOfRoot}
    make_hub hivemind-json-db-plugin kitchen
    compose_hub
    chown $uid $project/compose.yaml
    try() {
      local code=0
      command setup "$@" ${options} >$HOME/try.log 2>&1 || code=$?
      echo "$code"
      sed -n 's/.*hivemind_listener (docker): //p' $HOME/try.log
    }
    try --dry-run
    ls $project
    [[ ! -e $settings && ! -e /etc/credstore.encrypted ]] && echo untouched
    SUDO_UID=$uid SUDO_GID=$uid try
    serves_encrypted
    # The user may have lost the right to use sudo.
    command setup --undo --yes >$HOME/undo.log 2>&1 || echo "code $?"
    grep -o "user 4711 can change .*compose.yaml" $HOME/undo.log
    serves_encrypted
    chown 0 $project/compose.yaml
    command setup --undo --yes >$HOME/undo.log 2>&1 || { cat $HOME/undo.log; exit 1; }
    is_composed_as_before`);
    expect(output).toEqual([
      ...["17", expect.stringMatching(/^user 4711 can change .*\/compose.yaml, and/)],
      ...["compose.yaml", "untouched", "0", "code 17"],
      expect.stringMatching(/^user 4711 can change .*\/compose.yaml$/),
      "compose.yaml",
    ]);
  }, 300_000);

  /** Without the steps whose state for the next setup is that of a neighbour. */
  const steps = [
    ...["setup.recorded", "setup.stopped", "setup.copy-unit", "setup.override", "setup.drop-in"],
    ...["setup.copied", "setup.switched", "setup.plain-removed"],
    ...["undo.recorded", "undo.switched", "undo.override", "undo.drop-in", "undo.moved"],
  ];

  test.each(owners)(
    "killed at steps of setup and undo by $owner, the container starts, and the same command goes on",
    async ({ begin, killed }) => {
      const machine = await HeadlessMachine.make();
      const output = await machine.boot(`${begin}
    make_hub hivemind-json-db-plugin kitchen hall
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
      systemctl stop docker
      rm -f $copy
      # Root's unit runs before Docker, and a user's after it.
      [[ $owner != 0 || ! -e $unit_files/$copy_unit ]] || units restart $copy_unit
      systemctl start docker
      if [[ -e $unit_files/$copy_unit ]]; then
        units restart $copy_unit || echo "$step: no copy"
      fi
      # A container that was stopped by the killed command stays stopped until the next command.
      docker start hivemind_listener >$HOME/start.log 2>&1 || { echo "$step: the hub does not start"; cat $HOME/start.log >&2; }
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
    make_hub hivemind-json-db-plugin kitchen hall
    compose_hub
    kill_at() {
      export NODE_OPTIONS=--import=${root}test/faults/at-step.mjs HIVEMIND_TEST_AT_STEP="{\\"$1\\":\\"kill\\"}"
      command setup "\${@:2}" >$HOME/killed.log 2>&1 || echo "code $?"
      unset NODE_OPTIONS HIVEMIND_TEST_AT_STEP
    }
    kill_at setup.override ${options}
    command settle | grep -o "started hivemind_listener"
    wait_for_port
    kill_at setup.switched ${options}
    # Clients that are added to the former database now would be missing from the store.
    ! docker start hivemind_listener >$HOME/start.log 2>&1 || echo "started on the former database"
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
      ...["code 255", "started hivemind_listener", "code 255", "started hivemind_listener"],
      ...["hall kitchen", "code 255", "started hivemind_listener", "compose.yaml", "hall kitchen"],
    ]);
  }, 300_000);

  test("what is in the way is named, and nothing has changed", async () => {
    const machine = await HeadlessMachine.make();
    const output = await machine.boot(`${begin}
    make_hub hivemind-json-db-plugin kitchen
    try() {
      local code=0
      command setup --dry-run ${options} >$HOME/dry.log 2>&1 || code=$?
      echo "$1: $code"
      sed -n '/^obstacle:/p' $HOME/dry.log
    }
    compose_hub
    echo 'COMPOSE_FILE=compose.yaml' >$project/.env
    try env
    rm $project/.env
    sed -i "/^ *- .*config.hivemind$/d" $project/compose.yaml
    compose up --detach >/dev/null 2>&1
    wait_for_port
    try identity
    write_compose
    compose up --detach >/dev/null 2>&1
    wait_for_port
    rm /var/lib/systemd/linger/$user
    try linger
    touch /var/lib/systemd/linger/$user
    # The session has another Docker than the units.
    as_user systemctl --user set-environment DOCKER_HOST=unix:///run/nothing.sock
    DOCKER_HOST=unix:///run/docker.sock try units
    as_user systemctl --user unset-environment DOCKER_HOST
    sed -i 's/^    image:/    user: "1000"\\n&/' $project/compose.yaml
    chmod -R a+rwX $user_home
    compose up --detach >/dev/null 2>&1
    wait_for_port
    try user
    sed -i '/^    user:/d' $project/compose.yaml
    compose up --detach >/dev/null 2>&1
    wait_for_port
    chmod o-rwx /run/docker.sock
    chgrp root /run/docker.sock
    try group
    ls $project
    [[ ! -e $user_home/.config/hivemind-sqlcipher ]] && echo untouched`);
    const problem = (text: string) =>
      expect.stringContaining(`hub runs in the container hivemind_listener (docker): ${text}`);
    expect(output).toEqual([
      "env: 17",
      problem("/var/tmp/resident/hivemind-docker/.env sets COMPOSE_FILE"),
      "identity: 17",
      problem("the hub's identity, /home/hivemind/.config/hivemind, is on no volume"),
      "linger: 17",
      problem("your files in memory are removed at logout"),
      "units: 17",
      problem("your units cannot use this Docker: "),
      "user: 17",
      problem("its hub runs as user 1000, who could not read a copy of user 4711"),
      "group: 10",
      expect.stringMatching(
        /^obstacle: process \d+ is a hub in a container, but this user may not/,
      ),
      "compose.yaml",
      "untouched",
    ]);
  }, 300_000);

  test("an override that compose does not read is removed, and the hub runs as before", async () => {
    const machine = await HeadlessMachine.make();
    const output = await machine.boot(`${begin}
    make_hub hivemind-json-db-plugin kitchen
    compose_hub
    echo "COMPOSE_FILE=$project/compose.yaml" >$HOME/other.env
    chmod -R a+rX $HOME
    COMPOSE_ENV_FILES=$HOME/other.env command setup ${options} >$HOME/setup.log 2>&1 || echo "code $?"
    grep -o "compose did not add .*" $HOME/setup.log
    is_composed_as_before
    json_names`);
    expect(output).toEqual([
      "code 17",
      "compose did not add /var/tmp/resident/hivemind-docker/compose.override.yaml to hivemind_listener",
      "compose.yaml",
      "kitchen",
    ]);
  }, 300_000);

  test("without its image, the hub runs as before, and the same command goes on", async () => {
    const machine = await HeadlessMachine.make();
    const output = await machine.boot(`${begin}
    make_hub hivemind-json-db-plugin kitchen
    compose_hub
    docker tag localhost/hub localhost/kept
    docker image rm --force localhost/hub >/dev/null
    command setup ${options} >$HOME/setup.log 2>&1 || echo "code $?"
    grep -o "compose did not create hivemind_listener" $HOME/setup.log
    wait_for_port
    in_container cat $home_inside/.config/hivemind-core/server.json | cmp - $config/server.json
    json_names
    docker tag localhost/kept localhost/hub
    command setup ${options} >$HOME/setup.log || { cat $HOME/setup.log; exit 1; }
    serves_encrypted
    names
    # An undo whose container cannot be created leaves the hub on the encrypted store.
    docker image rm --force localhost/hub >/dev/null
    command setup --undo --yes >$HOME/undo.log 2>&1 || echo "code $?"
    wait_for_port
    docker tag localhost/kept localhost/hub
    command setup --undo --yes >$HOME/undo.log 2>&1 || { cat $HOME/undo.log; exit 1; }
    is_composed_as_before
    json_names`);
    expect(output).toEqual([
      ...["code 15", "compose did not create hivemind_listener", "kitchen", "kitchen", "code 15"],
      ...["compose.yaml", "kitchen"],
    ]);
  }, 300_000);

  test("a hub that ends with the copy gets its container back", async () => {
    const machine = await HeadlessMachine.make();
    const output = await machine.boot(`${begin}
    make_hub hivemind-json-db-plugin kitchen
    # As a script that writes to the file, which is read-only then.
    sed -Ei 's|command: \\["(.*)", "listen"\\]|command: [sh, -c, "touch $$HOME/.config/hivemind-core/server.json \\&\\& exec \\1 listen"]|' $project/compose.yaml
    compose_hub
    command setup ${options} >$HOME/setup.log 2>&1 || echo "code $?"
    grep -o "the drop-in was removed, and hivemind_listener runs as before" $HOME/setup.log
    is_composed_as_before
    json_names`);
    expect(output).toEqual([
      "code 15",
      "the drop-in was removed, and hivemind_listener runs as before",
      ...["compose.yaml", "kitchen"],
    ]);
  }, 300_000);

  test("a Docker that maps users to others is named", async () => {
    const machine = await HeadlessMachine.make();
    const output = await machine.boot(`${scripts}
    install_login
    # Only without this mount the kernel lets a user's PID namespace have a /proc of its own.
    umount /proc/sys
    echo "$user:100000:65536" | tee -a /etc/subuid >>/etc/subgid
    install_docker --userns-remap=$user
    install_assistant
    start_enabled
    log_in
    make_hub hivemind-json-db-plugin kitchen
    # Docker's own user must reach the volumes.
    chmod -R a+rwX $user_home
    cp -p $project/compose.yaml $HOME/
    sed -i 's/network_mode: host/network_mode: none/' $project/compose.yaml
    compose up --detach >$HOME/compose.log 2>&1
    (command setup --dry-run ${options} 2>&1 || true) | grep -o "its hub runs as .*"
    cp -p $HOME/compose.yaml $project/
    sed -i 's/network_mode: host/&\\n    userns_mode: host/' $project/compose.yaml
    compose_hub
    command setup ${options} >$HOME/setup.log || { cat $HOME/setup.log; exit 1; }
    serves_encrypted`);
    expect(output).toEqual([
      expect.stringMatching(/^its hub runs as user 104711, .* Docker maps the users of containers/),
    ]);
  }, 300_000);
}
