/** Chooses the directories of backups and bundles, on other disks than the store's if possible. */
import { readFile, stat } from "node:fs/promises";
import { homedir } from "node:os";
import { join } from "node:path";
import { assertPlacement } from "../bundle/placement.js";
import { expandPath } from "../config/paths.js";
import type { Settings } from "../config/settings-file.js";
import { StoreError } from "../errors.js";
import { findExistingAncestor, isWritable } from "./files.js";

export interface Directories {
  readonly backups: string;
  readonly bundles: string;
  /** Why backups and bundles must not be there. */
  readonly problem: { readonly message: string; readonly hint: string | undefined } | undefined;
  /** Advice for better directories. */
  readonly notices: readonly string[];
}

/** The file systems of disks and networks. Others are in memory, or interfaces of the kernel. */
const diskFileSystems =
  /^(?:ext[234]|xfs|btrfs|f2fs|zfs|jfs|vfat|exfat|ntfs3?|fuseblk|nfs4?|cifs|9p)$/;
const diskMountPoints = /^\/(?:media|mnt|run\/media|srv)(?:\/|$)/;

/**
 * Returns the directories in the options or the settings, or chooses directories: on two other
 * disks, one for backups and one for bundles; both on the only other disk, because a bundle on the
 * store's disk would be lost with it; or, without another disk, in the home directory.
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
  const named = { to: to && expandPath(to), bundleTo: bundleTo && expandPath(bundleTo) };
  const disks = named.to && named.bundleTo ? [] : await findOtherDisks(storePath);
  const [first = homedir(), second = first] = disks;
  const backups = named.to ?? join(first, "hivemind-backups");
  const bundles = named.bundleTo ?? join(second, "hivemind-bundles");
  const areNamed = named.to !== undefined && named.bundleTo !== undefined;
  const notices =
    areNamed || disks.length > 1
      ? []
      : [
          disks.length === 0
            ? "no other disk was found, so a failed disk would lose all: name directories on others with --to and --bundle-to"
            : "only one other disk was found, for backups and bundles: name another with --bundle-to",
        ];
  try {
    return {
      backups,
      bundles,
      problem: undefined,
      notices: [...notices, ...(await assertPlacement(backups, bundles))],
    };
  } catch (error) {
    if (!(error instanceof StoreError)) throw error;
    const { message, hint } = error;
    return { backups, bundles, problem: { message, hint }, notices };
  }
}

async function findOtherDisks(storePath: string): Promise<string[]> {
  const table = await readFile("/proc/self/mountinfo", "utf8").catch(() => "");
  const own = await readDevice(storePath);
  const found: string[] = [];
  const devices = new Set([own]);
  for (const path of parseMountedDisks(table)) {
    const device = await readDevice(path);
    if (devices.has(device) || !(await isWritable(path))) continue;
    devices.add(device);
    found.push(path);
  }
  return found;
}

/** Returns the mount points of disks that a user may have attached, from `/proc/self/mountinfo`. */
export function parseMountedDisks(table: string): string[] {
  const paths = table.split("\n").flatMap((line) => {
    const [before = "", after = ""] = line.split(" - ");
    const path = (before.split(" ")[4] ?? "").replace(/\\(\d{3})/g, (_, octal) =>
      String.fromCharCode(Number.parseInt(octal, 8)),
    );
    return diskFileSystems.test(after.split(" ")[0] ?? "") && diskMountPoints.test(path)
      ? [path]
      : [];
  });
  return [...new Set(paths)].sort();
}

async function readDevice(path: string): Promise<number | undefined> {
  return (await stat(await findExistingAncestor(path))).dev;
}
