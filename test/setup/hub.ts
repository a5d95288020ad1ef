/** A hub as an installer leaves it: a unit of the session, its database and its server.json. */
import { execFile } from "node:child_process";
import { mkdir, readFile, rm, writeFile } from "node:fs/promises";
import { dirname, join } from "node:path";
import { setTimeout as delay } from "node:timers/promises";
import { promisify } from "node:util";
import { expect, onTestFinished } from "vitest";
import { newClient } from "../../src/client/client.js";
import { DatabaseFactory } from "../../src/databases/registry.js";
import { root } from "../built.js";
import { type Answer, Machine } from "../cli/machine.js";
import { freePort, hubScript, plugin, startBus } from "../hub/support.js";
import { removeUnits, systemctl, uniqueName, writeUnits } from "../service/units.js";

export const jsonModule = "hivemind-json-db-plugin";

export type Layout = "json" | "sqlite" | "sqlcipher";

const exec = promisify(execFile);

const hiveMind4 = [
  ...["hivemind-core==4.0.0", "hivemind-plugin-manager==0.5.0"],
  ...["hivemind-json-db-plugin==0.0.2", "bitstring==4.4.0"],
];

/**
 * Makes ovos-installer's Python environment, without a plugin for SQLite and without SQLCipher, but
 * with further packages. Returns the path of its `hivemind-core`.
 */
export async function installHiveMind4(
  folder: string,
  packages: readonly string[] = [],
): Promise<string> {
  await exec("python3", ["-m", "venv", folder]);
  await exec(join(folder, "bin", "pip"), ["install", "--quiet", ...hiveMind4, ...packages]);
  return join(folder, "bin", "hivemind-core");
}

export interface InstalledHub {
  readonly machine: Machine;
  /** With ".service". */
  readonly unit: string;
  readonly server: string;
  readonly script: string;
  /** Options for an unattended setup, with directories of this test. */
  readonly options: string[];
  readonly recoveryKey: string;
}

export interface HubOptions {
  readonly layout?: Layout;
  readonly clients?: number;
  readonly line?: "released" | "development";
  /** The real `hivemind-core` to use instead of that of `line`. */
  readonly script?: string;
  /** Whether the real hub runs; default: a program that opens the same database in its place. */
  readonly isReal?: boolean;
  /** Further lines of the unit, which may name files in the machine's directory. */
  readonly unitLines?: string | ((folder: string) => string);
  readonly isStarted?: boolean;
}

/** The password of a store in the layout `sqlcipher`. */
export const formerPassword = "in 'plain' text";

/** Makes the hub, with `clients` clients in its database, and starts it. */
export async function installHub(options: HubOptions = {}): Promise<InstalledHub> {
  const { layout = "json", clients = 5, line = "development", isStarted = true } = options;
  const machine = await Machine.make();
  const real = options.script ?? (await hubScript(line));
  const busPort = await freePort();
  if (options.isReal) {
    const bus = await startBus(real, busPort);
    onTestFinished(() => void bus.kill("SIGKILL"));
  }
  const script = options.isReal ? real : await writeStandIn(machine, real);
  const server = machine.path("config", "hivemind-core", "server.json");
  await mkdir(dirname(server), { recursive: true });
  const settings = await serverSettings(layout, busPort);
  await writeFile(server, `// the hub's\n${JSON.stringify(settings, null, 2)}\n`);
  await addClients(machine, layout, clients);
  const unit = `${uniqueName()}.service`;
  const { unitLines } = options;
  const more = typeof unitLines === "function" ? unitLines(machine.folder) : unitLines;
  await writeUnits({ [unit]: unitText(machine, script, more) });
  onTestFinished(async () => {
    await rm(join(process.env.HOME ?? "", ".config/systemd/user", `${unit}.d`), {
      recursive: true,
      force: true,
    });
    await removeUnits(unit);
  });
  if (isStarted) await systemctl("start", unit);
  if (isStarted && !options.isReal) await statusOf(machine);
  const recoveryKey = machine.path("safe", "recovery-key.txt");
  await mkdir(dirname(recoveryKey));
  return {
    ...{ machine, unit, server, script, recoveryKey },
    options: [
      ...["--yes", "--recovery-key-file", recoveryKey, "--unit", unit],
      ...["--to", machine.path("backups"), "--bundle-to", machine.path("bundles")],
    ],
  };
}

/** Installs test/setup/stand-in-hub.py as the `hivemind-core` of the real hub's Python. */
async function writeStandIn(machine: Machine, real: string): Promise<string> {
  const script = machine.path("hivemind-core");
  const text = await readFile(join(import.meta.dirname, "stand-in-hub.py"), "utf8");
  await writeFile(script, `#!${join(dirname(real), "python")}\n${text}`, { mode: 0o755 });
  return script;
}

/** Waits until the stand-in has opened its database: "MODULE CLIENTS". */
export async function statusOf(machine: Machine): Promise<string> {
  for (let tries = 0; tries < 300; tries++) {
    const text = await readFile(machine.path("status"), "utf8").catch(() => "");
    if (text !== "") return text.trim();
    await delay(100);
  }
  return "not started";
}

/** Lets the stand-in exit on a database, or open it late. */
export async function breakHub(
  { machine }: InstalledHub,
  fault: "encrypted exit" | "encrypted wait" | "former exit",
): Promise<void> {
  await writeFile(machine.path("fault"), fault);
}

export async function repairHub({ machine }: InstalledHub): Promise<void> {
  await rm(machine.path("fault"));
}

/** Starts the unit again, as after a power failure, and returns what its hub has opened. */
export async function restarted({ machine, unit }: InstalledHub): Promise<string> {
  await rm(machine.path("status"), { force: true });
  await systemctl("restart", unit);
  return statusOf(machine);
}

/** As ovos-installer's template has it, without the units that it depends on. */
function unitText(machine: Machine, script: string, more = ""): string {
  const { environment } = machine;
  const variables = ["XDG_DATA_HOME", "XDG_CONFIG_HOME", "XDG_STATE_HOME"];
  return `[Unit]
Description=HiveMind Listener
# Tests start it more often than five times in ten seconds.
StartLimitIntervalSec=0

[Service]
${variables.map((name) => `Environment=${name}=${environment[name]}`).join("\n")}
Environment=HUB_STATUS=${machine.path("status")}
Environment=HUB_FAULT=${machine.path("fault")}
ExecStart=${script} listen
ExecReload=/bin/kill -s HUP $MAINPID
Restart=on-failure
RestartSec=1s
${more}
[Install]
WantedBy=default.target
`;
}

async function serverSettings(layout: Layout, busPort: number): Promise<object> {
  const module = layout === "json" ? jsonModule : plugin;
  const password = layout === "sqlcipher" ? { password: formerPassword } : {};
  return {
    network_protocol: {
      "hivemind-websocket-plugin": { host: "127.0.0.1", port: await freePort(), ssl: false },
    },
    agent_protocol: {
      module: "hivemind-ovos-agent-plugin",
      "hivemind-ovos-agent-plugin": { host: "127.0.0.1", port: busPort },
    },
    presence: { enabled: false },
    database: {
      module,
      [module]: { name: "clients", subfolder: "hivemind-core", ...password },
    },
  };
}

async function addClients(machine: Machine, layout: Layout, count: number): Promise<void> {
  const subfolder = dirname(machine.store);
  await using database =
    layout === "json"
      ? await DatabaseFactory.create(jsonModule, { subfolder })
      : layout === "sqlite"
        ? await DatabaseFactory.create(plugin, { subfolder })
        : await DatabaseFactory.create("hivemind-sqlcipher-db-plugin", {
            db_path: machine.store,
            password: formerPassword,
          });
  await database.addItems(
    Array.from({ length: count }, (_, index) =>
      newClient({ client_id: index + 1, api_key: `key-${index + 1}`, name: `room ${index + 1}` }),
    ),
  );
}

/** Returns the environment in which a command runs shell commands, or is killed, at steps. */
export function atSteps(commands: Record<string, string>) {
  return {
    NODE_OPTIONS: `--import=${root}test/faults/at-step.mjs`,
    HIVEMIND_TEST_AT_STEP: JSON.stringify(commands),
  };
}

export async function killAt(
  { machine }: InstalledHub,
  step: string,
  args: string[],
): Promise<void> {
  const { code, stderr } = await machine.run(args, { env: atSteps({ [step]: "kill" }) });
  expect(code, `${step} was not reached: ${stderr}`).toBeNull();
}

/** What setup and its operations report if nothing is wrong, also after a kill. */
const expectedNotices = [
  /^creating the directory \//,
  /^Recovery key: \/\S+\. Move it off this machine/,
  /^the hub of \/\S+ is the unit /,
  /^backups \(\S+\) and bundles \(\S+\) are on the same file system/,
  /^started \S+, which an interrupted setup had stopped$/,
];

/** Checks that a command has done its work, without a warning or an unexpected notice. */
export function expectDone({ code, stderr }: Answer): void {
  const unexpected = stderr
    .split("\n")
    .filter((line) => line !== "" && !expectedNotices.some((notice) => notice.test(line)));
  expect([code, unexpected]).toEqual([0, []]);
}
