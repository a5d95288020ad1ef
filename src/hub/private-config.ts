/**
 * Runs the hub with a private configuration directory, on systems without mount namespaces.
 *
 * The directory is in `$XDG_RUNTIME_DIR`, which must be in memory and private. It contains a
 * `server.json` and links to all other files of the real directory. Its path is the same at each
 * start, because files of the hub may record it. A file that the hub creates in the directory is
 * removed together with it, so the hub's identity must exist before the start.
 */
import { existsSync } from "node:fs";
import { readdir, rm, symlink } from "node:fs/promises";
import { isAbsolute, join } from "node:path";
import { configHome } from "../config/paths.js";
import { StoreError, systemError } from "../errors.js";
import { createFile, makeDirectory } from "../fs/atomic.js";
import { readTextIfExists } from "../fs/read.js";
import { readStartTime, runUntilExit } from "./child.js";
import { assertPrivateMemory } from "./memory.js";

/** The file that records the process that uses the directory: its id and start time. */
const ownerFile = "config.owner";

/**
 * Runs `command` until it ends, with XDG_CONFIG_HOME set to a private directory whose `server.json`
 * has the given contents. Then removes the directory. If this process is killed, the next start
 * removes the directory.
 *
 * @returns the hub's exit code, or 128 + n if signal n ended it
 * @throws {@link StoreError} refused - if there is no directory in memory, or the hub has no
 *   identity yet
 * @throws {@link StoreError} inUse - if another hub of this user runs this way
 */
export async function runWithPrivateConfig(
  command: readonly string[],
  contents: string,
): Promise<number> {
  const real = configHome();
  await assertIdentity(real);
  const directory = await runtimeDirectory();
  const config = join(directory, "config");
  await claimDirectory(directory);
  try {
    await makeConfig(real, config, contents);
    return await runUntilExit(command, { ...process.env, XDG_CONFIG_HOME: config });
  } catch (error) {
    throw systemError(error, `cannot run with ${config}`);
  } finally {
    await rm(config, { recursive: true, force: true });
    await rm(join(directory, ownerFile), { force: true });
  }
}

async function makeConfig(real: string, config: string, contents: string): Promise<void> {
  await makeDirectory(join(config, "hivemind-core"));
  await linkEntries(real, config, "hivemind-core");
  await linkEntries(join(real, "hivemind-core"), join(config, "hivemind-core"), "server.json");
  await createFile(join(config, "hivemind-core", "server.json"), contents, 0o400);
}

async function assertIdentity(real: string): Promise<void> {
  const identity = join(real, "hivemind", "_identity.json");
  if (existsSync(identity)) return;
  throw new StoreError("refused", `the hub has no identity yet at ${identity}`, {
    hint: "Let the hub create its identity: start hivemind-core listen once without run, then stop it.",
  });
}

async function runtimeDirectory(): Promise<string> {
  const runtime = process.env.XDG_RUNTIME_DIR;
  if (runtime === undefined || !isAbsolute(runtime)) {
    throw new StoreError("refused", "XDG_RUNTIME_DIR is not set to an absolute path", {
      hint: "Run this in a login session; for a service, log in once and run: loginctl enable-linger",
    });
  }
  await assertPrivateMemory(runtime);
  const directory = join(runtime, "hivemind-sqlcipher");
  await makeDirectory(directory);
  return directory;
}

/** Claims the directory for this process. Removes what a killed process has left there. */
async function claimDirectory(directory: string): Promise<void> {
  const path = join(directory, ownerFile);
  const owner = await readTextIfExists(path);
  const [pid = "", started] = (owner ?? "").split(" ");
  if (pid !== "" && readStartTime(Number(pid)) === started) {
    throw new StoreError("inUse", `process ${pid} runs a hub with a private configuration`, {
      hint: "Stop that hub first: a user can run only a single hub this way.",
    });
  }
  await rm(path, { force: true });
  await rm(join(directory, "config"), { recursive: true, force: true });
  await createFile(path, `${process.pid} ${readStartTime(process.pid)}`);
}

async function linkEntries(from: string, to: string, except: string): Promise<void> {
  for (const name of await readdir(from)) {
    if (name !== except) await symlink(join(from, name), join(to, name));
  }
}
