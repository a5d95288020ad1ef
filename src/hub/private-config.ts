/**
 * Runs the hub with a configuration directory of its own, on systems without mount namespaces.
 *
 * The directory is in `$XDG_RUNTIME_DIR`, which is in memory and private. It holds a `server.json`
 * of its own and links to everything else. Its path never changes, since files of the hub may
 * record it. Files created in it are lost with it, so the hub's identity must exist before.
 */
import { type ChildProcess, spawn } from "node:child_process";
import { readdir, readFile, rm, stat, symlink } from "node:fs/promises";
import { isAbsolute, join } from "node:path";
import { configHome, type Environment } from "../config/paths.js";
import { hasCode, StoreError, systemError } from "../errors.js";
import { createFile, makeDirectory } from "../fs/atomic.js";
import { exitCodeOf, startOf, superviseHub } from "./child.js";
import { assertPrivateMemory } from "./memory.js";

/** Names the process that uses the directory: its id and start time. */
const ownerName = "config.owner";

/**
 * Runs `command` until it ends, with XDG_CONFIG_HOME set to a private directory whose `server.json`
 * has the given contents. The directory is removed afterwards; the next start removes what a killed
 * process left.
 *
 * @returns the hub's exit code
 * @throws {@link StoreError} refused - there is no directory in memory, or the hub has no identity
 *   yet
 * @throws {@link StoreError} inUse - another hub of this user runs in this way
 */
export async function runWithPrivateConfig({
  command,
  contents,
  environment,
}: {
  command: readonly string[];
  contents: string;
  environment: Environment;
}): Promise<number> {
  const real = configHome(environment);
  await assertIdentity(real);
  const folder = await runtimeFolder(environment);
  const config = join(folder, "config");
  await adoptSettings(folder);
  try {
    await makeConfig(real, config, contents);
    return await exitCodeOf(spawnHub(command, { ...environment, XDG_CONFIG_HOME: config }));
  } catch (error) {
    throw systemError(error, `cannot run with ${config}`);
  } finally {
    await rm(config, { recursive: true, force: true });
    await rm(join(folder, ownerName), { force: true });
  }
}

async function makeConfig(real: string, config: string, contents: string): Promise<void> {
  await makeDirectory(join(config, "hivemind-core"));
  await linkEntries(real, config, "hivemind-core");
  await linkEntries(join(real, "hivemind-core"), join(config, "hivemind-core"), "server.json");
  await createFile(join(config, "hivemind-core", "server.json"), contents, 0o400);
}

function spawnHub(command: readonly string[], environment: Environment): ChildProcess {
  if (process.platform !== "linux") {
    const [program = "", ...words] = command;
    return spawn(program, words, { env: environment, stdio: "inherit" });
  }
  const words = ["-c", superviseHub, "hivemind-sqlcipher", `${process.pid}`, ...command];
  return spawn("/bin/sh", words, { env: environment, stdio: "inherit" });
}

async function assertIdentity(real: string): Promise<void> {
  const identity = join(real, "hivemind", "_identity.json");
  if (await isThere(identity)) return;
  throw new StoreError("refused", `the hub has no identity yet at ${identity}`, {
    hint: "let it make one in its own place first: hivemind-core listen (without run), then stop it",
  });
}

async function runtimeFolder(environment: Environment): Promise<string> {
  const runtime = environment.XDG_RUNTIME_DIR;
  if (runtime === undefined || !isAbsolute(runtime)) {
    throw new StoreError("refused", "there is no XDG_RUNTIME_DIR to keep a private folder in", {
      hint: "it is set in a login session; for a service, log in once and run: loginctl enable-linger",
    });
  }
  await assertPrivateMemory(runtime);
  const folder = join(runtime, "hivemind-sqlcipher");
  await makeDirectory(folder);
  return folder;
}

/** Claims the directory and removes what an ended process has left in it. */
async function adoptSettings(folder: string): Promise<void> {
  const path = join(folder, ownerName);
  const owner = await readFile(path, "utf8").catch((error: unknown) => {
    if (hasCode(error, "ENOENT")) return "";
    throw systemError(error, `cannot read ${path}`);
  });
  const [pid = "", started] = owner.split(" ");
  if (pid !== "" && startOf(Number(pid)) === started) {
    throw new StoreError("inUse", `process ${pid} runs a hub with a private configuration`, {
      hint: "one user can run one hub this way at a time",
    });
  }
  await rm(path, { force: true });
  await rm(join(folder, "config"), { recursive: true, force: true });
  await createFile(path, `${process.pid} ${startOf(process.pid)}`);
}

async function linkEntries(from: string, to: string, except: string): Promise<void> {
  for (const name of await readdir(from)) {
    if (name !== except) await symlink(join(from, name), join(to, name));
  }
}

async function isThere(path: string): Promise<boolean> {
  return stat(path).then(
    () => true,
    () => false,
  );
}
