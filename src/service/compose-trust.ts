/**
 * Checks that root may use a project of compose. The files of a project determine what root starts,
 * and which files of this machine it mounts.
 *
 * Root and the user who called sudo are trusted: through this program's hooks, anyone allowed to
 * run it as root can already run any program as root.
 */
import type { BigIntStats } from "node:fs";
import { readlink } from "node:fs/promises";
import { basename, dirname, join, resolve } from "node:path";
import { realPath } from "../config/paths.js";
import { StoreError } from "../errors.js";
import { hasAccessList } from "../fs/metadata.js";
import { listDirectory, lstatIfExists, readTextIfExists } from "../fs/read.js";
import { isRoot } from "../fs/user.js";

/** The files in the directory of a project read by compose itself. */
const readByCompose = /^(?:\.env|(?:docker-)?compose(?:\.override)?\.ya?ml)$/;

/** Keys with other files, from which compose reads services. */
const naming =
  /(?:^\uFEFF?|[{,?]|---)[ \t]*(?:[&!][^\s{},?]{0,99}[ \t]+){0,2}["']?(include|extends)["']?[ \t]*:/m;

/**
 * Checks a project. An ordinary user may use any.
 *
 * @param directory - the directory of the project
 * @throws {@link StoreError} refused - if another user can change what root would start, or if a
 *   compose file names other files, which are not checked
 */
export async function assertTrusted(directory: string): Promise<void> {
  if (!isRoot()) return;
  const names = (await listDirectory(directory)) ?? [];
  const files = names
    .filter((name) => readByCompose.test(name))
    .map((name) => join(directory, name));
  const project = await realPath(directory);
  const passed = new Map<string, BigIntStats>();
  for (const path of [directory, ...files]) await collectPassed(path, passed);
  for (const [path, stats] of passed) {
    const who = await findOther(path, stats, path !== project);
    if (who === undefined) continue;
    throw new StoreError("refused", `${who} can change ${path}, and with it what root starts`, {
      hint: "Take the access away, or run this as the owner of the project.",
    });
  }
  for (const path of files) {
    const [, key] = naming.exec((await readTextIfExists(path)) ?? "") ?? [];
    if (key === undefined) continue;
    throw new StoreError("refused", `${path} has ${key}, which may name files of other users`, {
      hint: "Put the services into one file, or run this as an ordinary user.",
    });
  }
}

/** Collects the directories, links and files that the lookup of a path passes. */
async function collectPassed(path: string, passed: Map<string, BigIntStats>): Promise<void> {
  if (passed.has(path)) return;
  if (basename(path) !== "") await collectPassed(dirname(path), passed);
  const stats = await lstatIfExists(path);
  if (stats === undefined) return;
  passed.set(path, stats);
  if (!stats.isSymbolicLink()) return;
  await collectPassed(resolve(dirname(path), await readlink(path)), passed);
}

/** Names the untrusted users with the right to replace a file; undefined if there are none. */
async function findOther(
  path: string,
  stats: BigIntStats,
  mayBeSticky: boolean,
): Promise<string | undefined> {
  if (!isTrusted(stats.uid)) return `user ${stats.uid}`;
  const mode = Number(stats.mode);
  // In a sticky directory, others can create files, but not replace the files of root.
  if (stats.isSymbolicLink() || (mayBeSticky && (mode & 0o1000) !== 0)) return undefined;
  const isOpen = (mode & 0o002) !== 0;
  const isOpenToGroup = (mode & 0o020) !== 0 && !isPrivateGroup(stats.gid);
  const others = "other users";
  if (isOpen || isOpenToGroup) return others;
  return (await hasAccessList(path, stats)) && (mode & 0o020) !== 0 ? others : undefined;
}

function isTrusted(uid: bigint): boolean {
  return uid === 0n || `${uid}` === process.env.SUDO_UID;
}

/** Returns whether a group is root's, or is named after sudo's user, as most distributions do. */
function isPrivateGroup(gid: bigint): boolean {
  const { SUDO_UID, SUDO_GID } = process.env;
  return gid === 0n || (SUDO_UID === SUDO_GID && `${gid}` === SUDO_GID);
}
