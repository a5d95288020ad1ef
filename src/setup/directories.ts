/** Chooses the directories of backups and bundles, on other disks than the store's if possible. */
import { readFile, stat } from "node:fs/promises";
import { homedir } from "node:os";
import { join } from "node:path";
import { assertPlacement } from "../bundle/placement.js";
import { expandPath } from "../config/paths.js";
import type { Settings } from "../config/settings-file.js";
import { decodeField } from "../fs/mount.js";
import { findExistingAncestor, isWritable } from "./files.js";
import { findProblem, type Problem } from "./problem.js";

export interface Directories {
  readonly backups: string;
  readonly bundles: string;
  /** Why backups and bundles must not be there. */
  readonly problem: Problem | undefined;
  /** Advice for better directories. */
  readonly notices: readonly string[];
}

/** The file systems of disks and networks. Others are in memory, or interfaces of the kernel. */
const diskFileSystems =
  /^(?:ext[234]|xfs|btrfs|f2fs|zfs|jfs|vfat|exfat|ntfs3?|fuseblk|nfs4?|cifs|9p)$/;
const diskMountPoints = /^\/(?:media|mnt|run\/media|srv)(?:\/|$)/;

/**
 * Returns the directories in the options or else in the settings. A directory named in neither is
 * chosen on another disk than the store's: backups on one disk, and bundles on a second one. With
 * only one other disk it has both, because a bundle on the store's disk would be lost with the
 * store. Without another disk the home directory has both.
 */
export async function chooseDirectories({
  storePath,
  settings,
  to = settings.backup?.to,
  bundleTo = settings.backup?.bundle_to,
}: {
  storePath: string;
  settings: Settings;
  to?: string | undefined;
  bundleTo?: string | undefined;
}): Promise<Directories> {
  const areNamed = to !== undefined && bundleTo !== undefined;
  const table = await readFile("/proc/self/mountinfo", "utf8").catch(() => "");
  const disks = areNamed ? [] : await findOtherDisks(storePath, table);
  const [first = homedir(), second = first] = disks;
  const backups = to === undefined ? join(first, "hivemind-backups") : expandPath(to);
  const bundles = bundleTo === undefined ? join(second, "hivemind-bundles") : expandPath(bundleTo);
  const notices = areNamed ? [] : adviseOnDisks(disks.length);
  const reporter = { notice: (text: string) => notices.push(text) };
  const problem = await findProblem(() => assertPlacement(backups, bundles, reporter));
  return { backups, bundles, problem, notices };
}

function adviseOnDisks(count: number): string[] {
  if (count > 1) return [];
  return count === 0
    ? [
        "no other disk was found, so a failed disk would lose all: name directories on others with --to and --bundle-to",
      ]
    : ["only one other disk was found, for backups and bundles: name another with --bundle-to"];
}

/** Returns the disks in a table of mounts that this user can write to, without the store's. */
export async function findOtherDisks(storePath: string, table: string): Promise<string[]> {
  const own = await readDevice(storePath);
  const found: string[] = [];
  const devices = new Set([own]);
  for (const path of parseMountedDisks(table)) {
    // Excludes disks of other users, and disks that do not respond. Their metadata are not read.
    if (!(await isWritable(path))) continue;
    const device = await readDevice(path);
    if (devices.has(device)) continue;
    devices.add(device);
    found.push(path);
  }
  return found;
}

/** Returns the mount points of disks that a user may have attached, from `/proc/self/mountinfo`. */
export function parseMountedDisks(table: string): string[] {
  const paths = table.split("\n").flatMap((line) => {
    const [before = "", after = ""] = line.split(" - ");
    const path = decodeField(before.split(" ")[4]);
    return diskFileSystems.test(after.split(" ")[0] ?? "") && diskMountPoints.test(path)
      ? [path]
      : [];
  });
  return [...new Set(paths)].sort();
}

async function readDevice(path: string): Promise<number | undefined> {
  return (await stat(await findExistingAncestor(path))).dev;
}
