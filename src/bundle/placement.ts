/**
 * A bundle in the backups' folder is a key taped to the lock: who copies the folder has both.
 */
import { stat } from "node:fs/promises";
import { dirname } from "node:path";
import { realPath } from "../config/paths.js";
import { hasCode, StoreError, systemError } from "../errors.js";

/**
 * Refuses a bundle folder that is the backups' folder, below it, or above it, by whatever names; the folders need not
 * exist yet.
 *
 * @returns notices for the user: that both are on one file system, if they are.
 * @throws StoreError `refused`; `io` if one cannot be looked at.
 */
export async function assertPlacement(
  backupFolder: string,
  bundleFolder: string,
): Promise<string[]> {
  const backups = await chainOf(backupFolder);
  const bundles = await chainOf(bundleFolder);
  const backupsPath = backups[0]?.path ?? backupFolder;
  const bundlesPath = bundles[0]?.path ?? bundleFolder;
  const bundleIsBelow = reaches(bundles, backups[0]);
  const backupIsBelow = reaches(backups, bundles[0]);
  if (bundleIsBelow || backupIsBelow) {
    const how =
      bundleIsBelow && backupIsBelow
        ? `is the backups' folder ${backupsPath}`
        : bundleIsBelow
          ? `is inside the backups' folder ${backupsPath}`
          : `contains the backups' folder ${backupsPath}`;
    throw new StoreError("refused", `the bundle's folder ${bundlesPath} ${how}`, {
      hint: "a bundle lets its holder open the backups: keep it elsewhere, at best on another disk: --bundle-to DIR",
    });
  }
  if (deviceOf(backups) !== deviceOf(bundles)) return [];
  return [
    `backups (${backupsPath}) and bundles (${bundlesPath}) are on the same file system: a disk that dies takes both, and who copies it has both; the bundle is better kept on another disk, or copied to one`,
  ];
}

interface Folder {
  readonly path: string;
  /** Device and inode: nothing for a folder that does not exist. A bind mount has another path, but these in common. */
  readonly id: string | undefined;
  readonly device: number | undefined;
}

/** A folder and all the folders above it. */
async function chainOf(folder: string): Promise<Folder[]> {
  const chain: Folder[] = [];
  for (let path = await realPath(folder); ; path = dirname(path)) {
    chain.push(await look(path));
    if (path === dirname(path)) return chain;
  }
}

async function look(path: string): Promise<Folder> {
  try {
    const { dev, ino } = await stat(path);
    return { path, id: `${dev}:${ino}`, device: dev };
  } catch (error) {
    if (hasCode(error, "ENOENT", "ENOTDIR")) return { path, id: undefined, device: undefined };
    throw systemError(error, `cannot look at ${path}`);
  }
}

function reaches(chain: Folder[], folder: Folder | undefined): boolean {
  return chain.some(
    ({ path, id }) => path === folder?.path || (id !== undefined && id === folder?.id),
  );
}

function deviceOf(chain: Folder[]): number | undefined {
  return chain.find(({ device }) => device !== undefined)?.device;
}
