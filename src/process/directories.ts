/** Creates, fills and removes directories as the user of a hub, if this process is root. */
import { stat } from "node:fs/promises";
import { basename, dirname, join } from "node:path";
import { StoreError } from "../errors.js";
import { makeDirectory, syncDirectory } from "../fs/atomic.js";
import { statIfExists } from "../fs/read.js";
import { isRoot } from "../fs/user.js";
import { type Account, type Outcome, run } from "./run.js";

/** The time limit for inspecting, creating or removing a directory by a program. */
const directoryLimitMs = 60_000;
/** A slow card may have to write gigabytes of other programs. */
const syncLimitMs = 600_000;
/** Adds time for large files. A slow card reads and writes 2 MB/s at the same time. */
const slowestBytesPerMs = 2_000;

export async function makeTemporaryDirectoryAs(
  hub: Account,
  parent: string,
  prefix: string,
): Promise<string> {
  const template = join(parent, `${prefix}XXXXXXXX`);
  return (await runAs(hub, parent, ["mktemp", "-d", template])).trim();
}

/** Copies a file as the user of a hub, into a directory of this user. */
export async function copyFileAs(hub: Account, from: string, to: string): Promise<void> {
  const size = (await statIfExists(from))?.size ?? 0;
  const timeoutMs = directoryLimitMs + size / slowestBytesPerMs;
  await runAs(hub, dirname(to), ["cp", "--", from, basename(to)], timeoutMs);
}

export async function makeDirectoryAs(hub: Account, path: string): Promise<void> {
  await runAs(hub, dirname(path), ["mkdir", "-m", "700", "--", basename(path)]);
}

/**
 * Creates a directory for a database and its missing parents, with mode 0700. Leaves an existing
 * directory unchanged.
 *
 * For root, each directory is created by a process of the parent directory's owner: the owner's hub
 * could not use a directory of root. A chown by root would be unsafe, because the owner can replace
 * the new directory by a link.
 *
 * @throws {@link StoreError} io - if the path is not a directory, or the system fails
 */
export async function makeHubDirectory(path: string): Promise<void> {
  if (!isRoot() || (await statIfExists(path))) return makeDirectory(path);
  const parent = dirname(path);
  await makeHubDirectory(parent);
  const { uid, gid } = await stat(parent);
  if (uid === 0) return makeDirectory(path);
  await makeDirectoryAs({ uid, gid, environment: {} }, path);
  await syncDirectory(parent);
}

/**
 * Removes a directory, with its contents, as the user of a hub. Root could remove files of another
 * user, because the hub's user can replace a subdirectory with a link during the removal.
 */
export async function removeDirectoryAs(hub: Account, path: string): Promise<void> {
  await runAs(hub, dirname(path), ["rm", "-rf", "--", basename(path)]);
}

export async function canWriteAs(hub: Account, path: string): Promise<boolean> {
  return (await tryAs(hub, "/", ["test", "-w", path])).code === 0;
}

/** Syncs the file system of a directory, into which another program has written files. */
export async function syncFileSystemAs(hub: Account, directory: string): Promise<void> {
  await runAs(hub, directory, ["sync", "-f", "."], syncLimitMs);
}

/**
 * Runs a program as the user of a hub in a directory. The user of a container's hub may not be
 * permitted to enter the directories above it.
 */
function tryAs(
  { uid, gid }: Account,
  directory: string,
  [program, ...args]: readonly [string, ...string[]],
  timeoutMs = directoryLimitMs,
): Promise<Outcome> {
  const account = { uid, gid, environment: {} };
  return run(program, args, { timeoutMs, account, directory });
}

async function runAs(
  hub: Account,
  directory: string,
  command: readonly [string, ...string[]],
  timeoutMs?: number,
): Promise<string> {
  const outcome = await tryAs(hub, directory, command, timeoutMs);
  if (outcome.code === 0) return outcome.stdout;
  const why = outcome.stderr || outcome.failure || `exit code ${outcome.code}`;
  throw new StoreError("io", `${command[0]} failed on ${command.at(-1)} in ${directory}: ${why}`);
}
