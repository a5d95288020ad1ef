import { type ChildProcess, execFile, spawn } from "node:child_process";
import { once } from "node:events";
import { readdirSync, readFileSync, statSync } from "node:fs";
import { chown, mkdir, mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { setTimeout as delay } from "node:timers/promises";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import { ClientStore } from "../../src/store/client-store.js";

const exec = promisify(execFile);
const top = fileURLToPath(new URL("../..", import.meta.url));

export const plugin = "hivemind-sqlite-db-plugin";
export const passphrase = 'a pass\'phrase "for" tests-é';

/** Returns the real `hivemind-core` command of HiveMind 4 or 5. */
export async function hubScript(line: "released" | "development"): Promise<string> {
  const { stdout } = await exec(join(top, "scripts/python-peers"));
  const folder = stdout.split("\n").find((path) => path.endsWith(`/${line}`));
  return join(folder ?? "", "bin/hivemind-core");
}

/**
 * Creates a home directory with an encrypted store and its `server.json`, owned by `user` if given.
 * The network is loopback, so that no other host reaches a listening hub.
 */
export async function makeHome(
  options: { settings?: object; user?: number; parent?: string } = {},
) {
  const home = await mkdtemp(join(options.parent ?? tmpdir(), "hub-"));
  const serverJson = join(home, ".config/hivemind-core/server.json");
  const storePath = join(home, ".local/share/hivemind-core/clients.db");
  const runtime = await mkdtemp("/dev/shm/hub-");
  await mkdir(dirname(serverJson), { recursive: true });
  await mkdir(dirname(storePath), { recursive: true });
  const settings = {
    network_protocol: {},
    database: { module: plugin, [plugin]: { name: "clients", subfolder: "hivemind-core" } },
    ...options.settings,
  };
  await writeFile(serverJson, `// the hub's\n${JSON.stringify(settings, null, 2)}\n`);
  await (await ClientStore.create(storePath, passphrase)).close();
  if (options.user !== undefined) {
    await giveAway(home, options.user);
    await chown(runtime, options.user, options.user);
  }
  const environment: Record<string, string> = {
    PATH: process.env.PATH ?? "",
    HOME: home,
    XDG_RUNTIME_DIR: runtime,
  };
  const remove = async () => {
    await rm(home, { recursive: true, force: true });
    await rm(runtime, { recursive: true, force: true });
  };
  return { home, serverJson, storePath, runtime, environment, remove };
}

/**
 * Creates a home for a hub that listens on loopback and connects to the message bus at `busPort`.
 */
export async function makeListeningHome(
  busPort: number,
  options: { user?: number; parent?: string } = {},
): Promise<Home> {
  return makeHome({
    ...options,
    settings: {
      network_protocol: {
        "hivemind-websocket-plugin": { host: "127.0.0.1", port: await freePort(), ssl: false },
      },
      agent_protocol: {
        module: "hivemind-ovos-agent-plugin",
        "hivemind-ovos-agent-plugin": { host: "127.0.0.1", port: busPort },
      },
      presence: { enabled: false },
    },
  });
}

export async function freePort(): Promise<number> {
  const server = createServer();
  await new Promise<void>((done) => server.listen(0, "127.0.0.1", done));
  const address = server.address();
  await new Promise((done) => server.close(done));
  return typeof address === "object" && address !== null ? address.port : 0;
}

export type Home = Awaited<ReturnType<typeof makeHome>>;

async function giveAway(path: string, user: number): Promise<void> {
  await chown(path, user, user);
  for (const entry of readdirSync(path, { recursive: true, encoding: "utf8" })) {
    await chown(join(path, entry), user, user);
  }
}

/** The compiled command. */
export const cli = [process.execPath, join(top, "dist/cli/main.js")];

/** A program that calls `runHub` and prints its error, in a process that a test may kill. */
const runner = `
import { readFileSync, rmSync } from "node:fs";
import { runHub } from ${JSON.stringify(join(top, "dist/hub/run.js"))};
const options = JSON.parse(readFileSync(process.argv[2], "utf8"));
rmSync(process.argv[2]);
const reporter = { notice: (text) => console.error("notice: " + text) };
try {
  process.exitCode = await runHub({ ...options, reporter });
} catch (error) {
  console.error(error.kind === undefined ? error : error.kind + ": " + error.message + " | " + error.hint);
  process.exitCode = error.exitCode ?? 99;
}
`;

export interface Running {
  child: ChildProcess;
  stdout: () => string;
  stderr: () => string;
  ended: Promise<number>;
}

/**
 * Starts `runHub` in a process. Passes the passphrase in a file, which the process removes at once.
 */
export async function startRun(
  home: Home,
  command: readonly string[],
  options: {
    wrap?: (line: string[]) => string[];
    input?: string;
    user?: number;
    [key: string]: unknown;
  } = {},
): Promise<Running> {
  const { wrap = (line) => line, input, user, ...more } = options;
  const file = join(home.home, "options.json");
  const { storePath } = home;
  await writeFile(file, JSON.stringify({ command, storePath, passphrase, ...more }), {
    mode: 0o600,
  });
  if (user !== undefined) await chown(file, user, user);
  const script = join(home.home, "runner.mjs");
  await writeFile(script, runner);
  const [program = "", ...words] = wrap([process.execPath, script, file]);
  const child = spawn(program, words, { env: home.environment, cwd: "/" });
  let [stdout, stderr] = ["", ""];
  child.stdout.setEncoding("utf8").on("data", (text: string) => {
    stdout += text;
  });
  child.stderr.setEncoding("utf8").on("data", (text: string) => {
    stderr += text;
  });
  if (input !== undefined) child.stdin.end(input);
  const ended = new Promise<number>((done, failed) => {
    child.once("error", failed);
    child.once("close", (code, signal) => done(code ?? (signal === null ? -1 : -2)));
  });
  return { child, stdout: () => stdout, stderr: () => stderr, ended };
}

/**
 * Returns shell lines that make the hub, its interpreter and this project readable to others in a
 * closed directory, such as root's home. They need a mount namespace.
 */
export async function opening(hub: string): Promise<string> {
  const python = join(dirname(hub), "python");
  const { stdout } = await exec(python, ["-c", "import sys; print(sys.base_prefix)"]);
  const needed = [stdout.trim(), top, dirname(dirname(process.execPath))];
  const closed = new Set(needed.flatMap((path) => ancestors(path).filter(isClosed)));
  const hold = (path: string) => `mkdir -p "$hold${path}" && mount --bind "${path}" "$hold${path}"`;
  const open = (path: string) => [
    `mount -t tmpfs -o mode=755 none "${path}"`,
    ...needed
      .filter((each) => each.startsWith(`${path}/`))
      .map((each) => `mkdir -p "${each}" && mount --bind "$hold${each}" "${each}"`),
  ];
  return ["hold=$(mktemp -d)", ...needed.map(hold), ...[...closed].flatMap(open)].join("\n");
}

/**
 * Returns the arguments before a command that run it as an ordinary user with read access to the
 * hub.
 */
export async function asOrdinaryUser(user: number, hub: string): Promise<string[]> {
  const become = `exec setpriv --reuid=${user} --regid=${user} --clear-groups -- "$@"`;
  return ["unshare", "--mount", "/bin/sh", "-ec", `${await opening(hub)}\n${become}`, "sh"];
}

function ancestors(path: string): string[] {
  const parent = dirname(path);
  return parent === path ? [] : [...ancestors(parent), parent];
}

function isClosed(path: string): boolean {
  return (statSync(path).mode & 0o001) === 0;
}

/** Waits until the condition holds, at most until the test's time limit. */
export async function until(condition: () => boolean): Promise<void> {
  while (!condition()) await delay(20);
}

/** Starts a message bus with just enough functions for the hub to become ready. */
export async function startBus(hub: string, port: number): Promise<ChildProcess> {
  const [program, ...words] = busCommand(hub, port);
  const bus = spawn(program, words, { stdio: ["ignore", "pipe", "inherit"] });
  await once(bus.stdout, "data");
  return bus;
}

export function busCommand(hub: string, port: number): [string, ...string[]] {
  const script = `
import asyncio, sys, tornado.web, tornado.websocket
async def main():
    tornado.web.Application([("/core", tornado.websocket.WebSocketHandler)]).listen(int(sys.argv[1]), "127.0.0.1")
    print("listening", flush=True)
    await asyncio.Event().wait()
tornado.websocket.WebSocketHandler.on_message = lambda self, message: None
asyncio.run(main())`;
  return [join(dirname(hub), "python"), "-c", script, `${port}`];
}

/** Returns every file below these directories with the passphrase in it, raw or as JSON. */
export function filesWithPassphrase(...folders: string[]): string[] {
  const forms = [passphrase, JSON.stringify(passphrase).slice(1, -1), "a pass'phrase"].map((text) =>
    Buffer.from(text),
  );
  return folders
    .flatMap((folder) =>
      readdirSync(folder, { recursive: true, encoding: "utf8" }).map((name) => join(folder, name)),
    )
    .filter((path) => {
      try {
        const text = statSync(path).isFile() ? readFileSync(path) : Buffer.alloc(0);
        return forms.some((form) => text.includes(form));
      } catch {
        return false;
      }
    });
}

/** Returns the processes with the passphrase in their arguments or environment. */
export function processesWithPassphrase(): string[] {
  return readdirSync("/proc").filter((pid) => {
    if (!/^\d+$/.test(pid)) return false;
    try {
      const shown = ["cmdline", "environ"].map((name) =>
        readFileSync(`/proc/${pid}/${name}`, "utf8"),
      );
      return shown.some((text) => text.includes("a pass'phrase"));
    } catch {
      return false;
    }
  });
}

/** Returns the children of a process. */
export async function childrenOf(pid: number): Promise<number[]> {
  const text = await readFile(`/proc/${pid}/task/${pid}/children`, "utf8").catch(() => "");
  return text.trim().split(" ").filter(Boolean).map(Number);
}

/**
 * Returns whether a process has a handler for SIGTERM. The hub reports that it is ready before
 * that.
 */
export function catchesTerm(pid: number): boolean {
  const mask = /^SigCgt:\s*([0-9a-f]+)/m.exec(readFileSync(`/proc/${pid}/status`, "utf8"))?.[1];
  return (BigInt(`0x${mask ?? "0"}`) & (1n << 14n)) !== 0n;
}

export function isAlive(pid: number): boolean {
  try {
    // A zombie has ended, even if its parent has not waited for it.
    return !/^State:\s*Z/m.test(readFileSync(`/proc/${pid}/status`, "utf8"));
  } catch {
    return false;
  }
}
