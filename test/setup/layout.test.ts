/**
 * A machine as ovos-installer leaves it, in a session of its own: its unit, its Python, clients in
 * the JSON database, and a satellite. One command moves the hub to the encrypted store, another
 * command returns it, and the satellite reconnects by itself each time.
 */
import { execFile } from "node:child_process";
import { mkdir, writeFile } from "node:fs/promises";
import { dirname, join } from "node:path";
import { promisify } from "node:util";
import { expect, test } from "vitest";
import { requirements } from "../../src/hub/packages.js";
import { root } from "../built.js";
import { hubScript, opening } from "../hub/support.js";
import { temporaryFolder } from "../store/temporary.js";
import { installHiveMind4 } from "./hub.js";

const exec = promisify(execFile);

const tools = `${root}test/setup`;

type Line = "HiveMind 4" | "HiveMind 5";

/** Runs a script on a machine: as an ordinary user in the user scope, as root in the other. */
async function onMachine(scope: "user" | "system", line: Line, script: string): Promise<string> {
  const home = join(await temporaryFolder(), "home");
  await mkdir(join(home, "bin"), { recursive: true });
  const program = `#!/bin/sh\nexec ${process.execPath} ${root}dist/cli/main.js "$@"\n`;
  await writeFile(join(home, "bin", "hivemind-sqlcipher"), program, { mode: 0o755 });
  const hub =
    line === "HiveMind 4"
      ? await installHiveMind4(join(home, "hivemind-4"), requirements)
      : await hubScript("development");
  const variables = `SCOPE=${scope} TOOLS=${tools} HUB_ENVIRONMENT=${dirname(dirname(hub))}`;
  const file = join(home, "script.log");
  const lines = [
    "set -euo pipefail",
    "ulimit -c 0",
    `export ${variables}`,
    'export PATH="$HOME/bin:$PATH"',
    `. ${tools}/installed.sh`,
    script,
  ];
  await writeFile(file, lines.join("\n"));
  const asResident = [
    "set -euo pipefail",
    "ulimit -c 0",
    await opening(hub),
    `. ${tools}/ordinary-user.sh`,
    "make_user",
    "start_manager",
    "unlock_keyring",
    `cp -r ${home}/bin ${file} $user_home/`,
    "mkdir -m 700 /dev/shm/bundles && chown $uid:$uid /dev/shm/bundles",
    "as_user bash $user_home/script.log",
  ];
  await writeFile(join(home, "user.log"), asResident.join("\n"));
  const session = join(root, "scripts/private-session");
  const main = scope === "user" ? join(home, "user.log") : file;
  try {
    const { stdout } = await exec(session, ["--system", home, "bash", main]);
    return stdout;
  } catch (error) {
    const { stdout, stderr } = error as { stdout: string; stderr: string };
    throw new Error(`${stdout}\n${stderr}`);
  }
}

/** The system scope leaves out what does not depend on the scope. */
const wholeLife = `
install_units
prepare_boot
start_hub kitchen hall bath attic cellar
choose_satellite kitchen
mkdir -p ~/safe; mkdir -p -m 700 /dev/shm/bundles
cp "$config/server.json" "$units/$unit" ~/
before=$(digest)
hivemind-sqlcipher setup --dry-run --to ~/backups --bundle-to /dev/shm/bundles >~/dry.log
equal "$(digest)" "$before"
grep -q "copy 5 clients from ~/.local/share/hivemind-core/clients.json" ~/dry.log

start_satellite
hivemind-sqlcipher setup --yes --recovery-key-file ~/safe/key.txt --to ~/backups --bundle-to /dev/shm/bundles >~/done.log
wait_for_replies
echo "the satellite had no reply for $(longest_pause) s"
stop_satellite
[[ $(sed '1,/^note: each/d' ~/done.log | wc -l) -le 15 ]]
[[ ! -e $data/clients.json ]]
equal "$(hivemind-sqlcipher list-clients --json | python3 -c 'import json,sys; print(*sorted(c["name"] for c in json.load(sys.stdin)["clients"]))')" "attic bath cellar hall kitchen"
wait_for_port
sed '1,/^note: each/d' ~/done.log
hivemind-sqlcipher doctor --json >~/doctor.log || true
python3 -c 'import json,sys; print("findings:", *[c["name"] for c in json.load(open(sys.argv[1]))["checks"] if not c["ok"] and c["name"] != "swap"])' ~/doctor.log

done=$(digest)
hivemind-sqlcipher setup --yes --recovery-key-file ~/safe/key.txt
equal "$(digest)" "$done"

if [[ $SCOPE == user || -n "\${PROVE:-}" ]]; then
  hivemind-sqlcipher schedule install --random-delay 1h >/dev/null
  hivemind-sqlcipher setup --yes --online-backups >~/online.log
  grep -qx RandomizedDelaySec=1h ~/.config/systemd/user/hivemind-sqlcipher-backup-*.timer
  grep -q "at its times, run this program's backup without stopping the hub" ~/online.log
  grep -q "backups .*, daily, without stopping the hub" ~/online.log
  grep -q "backup --online" ~/.config/systemd/user/hivemind-sqlcipher-backup-*.service
  hivemind-sqlcipher setup --yes | grep -q "^Nothing to do"
fi

hivemind-sqlcipher add-client --name garage >/dev/null
hivemind-sqlcipher delete-client 2
[[ $SCOPE == system ]] || start_satellite
hivemind-sqlcipher setup --undo --yes
equal "$(names "$data/clients.json")" "attic bath cellar garage kitchen"
wait_for_port
[[ $SCOPE == system ]] || { wait_for_replies; stop_satellite; }
cmp "$config/server.json" ~/server.json
cmp "$units/$unit" ~/$unit
[[ ! -e $units/$unit.d ]]
[[ $("\${manager[@]}" show --property=ExecStart $unit) != *hivemind-sqlcipher* ]]
ls "$data" ~/.config/systemd/user
hivemind-sqlcipher setup --undo --yes
[[ $SCOPE == user ]] || exit 0
hivemind-sqlcipher setup --yes --recovery-key-file ~/safe/key2.txt >/dev/null
equal "$(hivemind-sqlcipher list-clients --json | python3 -c 'import json,sys; print(*sorted(c["name"] for c in json.load(sys.stdin)["clients"]))')" "attic bath cellar garage kitchen"

# The hub asks for a client's record when it connects.
id=$(hivemind-sqlcipher find-client --by name kitchen --json | python3 -c 'import json,sys; print(json.load(sys.stdin)["clients"][0]["client_id"])')
wait_for_port
start_satellite
hivemind-sqlcipher delete-client "$id"
"\${manager[@]}" restart $unit
wait_for_port
before=$(wc -l <~/replies.log)
sleep 12
equal "$(wc -l <~/replies.log)" "$before"
echo "the revoked satellite gets no reply"
`;

const layouts: readonly (readonly ["user" | "system", Line])[] = [
  ["user", "HiveMind 5"],
  ["system", "HiveMind 5"],
  ...(process.env.PROVE ? ([["user", "HiveMind 4"]] as const) : []),
];

test.each(layouts)(
  "ovos-installer's hub in %s scope, %s: set up, again, undone",
  async (scope, line) => {
    const output = await onMachine(scope, line, wholeLife);
    // HiveMind 4 enforces no blacklist in a store that the newer plugin has opened.
    expect(output).toContain(line === "HiveMind 4" ? "findings: hub\n" : "findings:\n");
    expect(output).toMatch(/^the satellite had no reply for [\d.]+ s$/m);
    expect(output).toMatch(
      /^Nothing to do: hivemind-listener\.service runs on the encrypted store/m,
    );
    expect(output).toMatch(/^hivemind-listener\.service runs on .*clients\.json again$/m);
    expect(output).toMatch(/^Nothing to undo/m);
    expect(output.includes("the revoked satellite gets no reply")).toBe(scope === "user");
  },
  600_000,
);
