/**
 * Keeps bundles apart from backups: a copy of a directory with both would lack only the recovery
 * key to open the backups.
 */
import { stat } from "node:fs/promises";
import { dirname } from "node:path";
import { realPath } from "../config/paths.js";
import { hasCode, StoreError, systemError } from "../errors.js";
import type { Reporter } from "../reporter.js";

/**
 * Refuses a bundle directory equal to, above or below the backup directory, under any name.
 * The directories need not exist yet.
 *
 * @param reporter - receives a notice if both are on the same file system
 * @throws {@link StoreError} refused - for such a directory
 * @throws {@link StoreError} io - if a directory cannot be inspected
 */
export async function assertPlacement(
  backupDirectory: string,
  bundleDirectory: string,
  reporter?: Pick<Reporter, "notice">,
): Promise<void> {
  const backups = await ancestorsOf(backupDirectory);
  const bundles = await ancestorsOf(bundleDirectory);
  const backupsPath = backups[0]?.path ?? backupDirectory;
  const bundlesPath = bundles[0]?.path ?? bundleDirectory;
  const isBundleBelow = includesDirectory(bundles, backups[0]);
  const isBackupBelow = includesDirectory(backups, bundles[0]);
  if (isBundleBelow || isBackupBelow) {
    const relation =
      isBundleBelow && isBackupBelow
        ? `is the backup directory ${backupsPath}`
        : isBundleBelow
          ? `is inside the backup directory ${backupsPath}`
          : `contains the backup directory ${backupsPath}`;
    throw new StoreError("refused", `the bundle directory ${bundlesPath} ${relation}`, {
      hint: "A bundle helps to open the backups. Keep it elsewhere, best on another disk: --bundle-to DIRECTORY",
    });
  }
  if (deviceOf(backups) !== deviceOf(bundles)) return;
  reporter?.notice(
    `backups (${backupsPath}) and bundles (${bundlesPath}) are on the same file system, and are lost or copied together; keep bundles on another disk, or copy them to one`,
  );
}

interface Directory {
  readonly path: string;
  /**
   * Device and inode, which a bind mount does not change; undefined if the directory does not
   * exist.
   */
  readonly id: string | undefined;
  readonly device: number | undefined;
}

/** Returns a directory followed by its ancestors. */
async function ancestorsOf(directory: string): Promise<Directory[]> {
  const chain: Directory[] = [];
  for (let path = await realPath(directory); ; path = dirname(path)) {
    chain.push(await inspectDirectory(path));
    if (path === dirname(path)) return chain;
  }
}

async function inspectDirectory(path: string): Promise<Directory> {
  try {
    const { dev, ino } = await stat(path);
    return { path, id: `${dev}:${ino}`, device: dev };
  } catch (error) {
    if (hasCode(error, "ENOENT", "ENOTDIR")) return { path, id: undefined, device: undefined };
    throw systemError(error, `cannot inspect ${path}`);
  }
}

function includesDirectory(chain: Directory[], directory: Directory | undefined): boolean {
  return chain.some(
    ({ path, id }) => path === directory?.path || (id !== undefined && id === directory?.id),
  );
}

function deviceOf(chain: Directory[]): number | undefined {
  return chain.find(({ device }) => device !== undefined)?.device;
}
