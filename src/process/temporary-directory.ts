/** Temporary directories. Those of killed processes are removed by the next call for their name. */
import { lstat, mkdtemp, readdir, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { systemError } from "../errors.js";
import { makeTemporaryDirectoryAs, removeDirectoryAs } from "./directories.js";
import { isAlive } from "./proc.js";
import type { Account } from "./run.js";

/** The user of this process. */
const ownAccount: Account = { environment: {} };

/**
 * Runs `use` with a new directory of mode 0700, and removes the directory.
 *
 * The directory's name contains the process id, by which a later call with the same `name` and
 * owner recognizes the directory of a killed process.
 *
 * @param options.owner - the user of a hub that needs the directory
 * @param options.parent - default: `$TMPDIR`, or /tmp for an owner with a `uid`
 * @throws {@link StoreError} io - if the directory cannot be created or removed
 */
export async function withTemporaryDirectory<Result>(
  name: string,
  use: (directory: string) => Promise<Result>,
  {
    owner = ownAccount,
    parent = owner.uid === undefined ? tmpdir() : "/tmp",
  }: { owner?: Account; parent?: string } = {},
): Promise<Result> {
  await removeLeftovers(parent, name, owner);
  const directory = await makeTemporary(parent, `${name}-${process.pid}-`, owner);
  try {
    return await use(directory);
  } finally {
    await removeTemporary(directory, owner);
  }
}

/**
 * Removes the owner's directories of killed processes. Ignores errors, because a directory that
 * stays does not prevent the work.
 */
async function removeLeftovers(parent: string, name: string, owner: Account): Promise<void> {
  const { uid = process.geteuid?.() } = owner;
  const pattern = new RegExp(`^${name}-(\\d+)-[^-]+$`);
  for (const entry of await readdir(parent).catch(() => [])) {
    const [, pid] = pattern.exec(entry) ?? [];
    if (pid === undefined || isAlive(Number(pid))) continue;
    const path = join(parent, entry);
    const found = await lstat(path).catch(() => undefined);
    if (!found?.isDirectory() || found.uid !== uid) continue;
    await removeTemporary(path, owner).catch(() => undefined);
  }
}

async function makeTemporary(parent: string, prefix: string, owner: Account): Promise<string> {
  if (owner.uid !== undefined) return makeTemporaryDirectoryAs(owner, parent, prefix);
  try {
    return await mkdtemp(join(parent, prefix));
  } catch (error) {
    throw systemError(error, `cannot create a directory in ${parent}`);
  }
}

async function removeTemporary(path: string, owner: Account): Promise<void> {
  if (owner.uid !== undefined) return removeDirectoryAs(owner, path);
  try {
    await rm(path, { recursive: true, force: true });
  } catch (error) {
    throw systemError(error, `cannot remove ${path}`);
  }
}
