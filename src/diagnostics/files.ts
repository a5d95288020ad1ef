/** Who may touch the files, and what else is lying about. */
import { stat, statfs } from "node:fs/promises";
import { homedir } from "node:os";
import { basename, dirname, join } from "node:path";
import { hasCode, systemError } from "../errors.js";
import { listDirectory } from "../fs/read.js";
import { sidecars } from "../fs/sidecars.js";
import { journalPath } from "../operation/journal.js";
import { lockPath } from "../operation/lock.js";
import { identify } from "../store/cipher.js";
import { shellQuote } from "../text/escape.js";
import { type Check, finding, good } from "./check.js";

/** File systems that have no modes, by their number (statfs(2)): FAT and exFAT. */
const withoutModes: readonly number[] = [0x4d44, 0x2011bab0];

export interface StoreLocations {
  readonly storePath: string;
  readonly settingsPath: string;
  readonly backupFolder: string | undefined;
  readonly bundleFolder: string | undefined;
}

export async function checkPermissions(places: StoreLocations): Promise<Check[]> {
  const { storePath, settingsPath, backupFolder, bundleFolder } = places;
  const wrong: string[] = [];
  const mends: string[] = [];
  const look = async (path: string | undefined, forbidden: number, fix: string, what: string) => {
    const mode = path === undefined ? undefined : await modeOf(path);
    if (path === undefined || mode === undefined || (mode & forbidden) === 0) return;
    wrong.push(`${what}: ${path} (${(mode & 0o777).toString(8)})`);
    mends.push(`chmod ${fix} ${shellQuote(path)}`);
  };
  for (const suffix of ["", ...sidecars]) {
    await look(storePath + suffix, 0o077, "600", "others than its owner may use");
  }
  await look(dirname(storePath), 0o022, "go-w", "others may replace what is in");
  await look(settingsPath, 0o022, "go-w", "others may change");
  await look(backupFolder, 0o077, "700", "others may look into");
  await look(bundleFolder, 0o077, "700", "others may look into");
  if (wrong.length === 0) return [good("permissions", "only their owner may use the files")];
  return [finding("permissions", "warning", wrong.join("; "), mends.join(" && "))];
}

/** The permission bits; undefined if there is no such file, or if its file system has none. */
async function modeOf(path: string): Promise<number | undefined> {
  try {
    const { mode } = await stat(path);
    return withoutModes.includes((await statfs(path)).type) ? undefined : mode;
  } catch (error) {
    if (hasCode(error, "ENOENT", "ENOTDIR")) return undefined;
    throw systemError(error, `cannot look at ${path}`);
  }
}

/** What HiveMind and its owner leave that holds credentials in plain text. */
const plainNames = ["clients.json", "clients.db.bak", "hivemind_clients.csv"];

/** Copies of the store, encrypted or not, in the places where they are usually forgotten. */
export async function checkCopies({ storePath, backupFolder }: StoreLocations): Promise<Check[]> {
  const folder = dirname(storePath);
  const plain: string[] = [];
  const encrypted: string[] = [];
  const beside = ["", ...sidecars].map((suffix) => storePath + suffix);
  const own = [...beside, lockPath(storePath), journalPath(storePath)].map((path) =>
    basename(path),
  );
  const look = async (path: string, byName: boolean) => {
    const { format } = await identify(path);
    if (format === "plaintext" || (byName && format !== "sqlcipher" && (await isFile(path)))) {
      plain.push(path);
    } else if (format === "sqlcipher" && dirname(path) === folder) encrypted.push(path);
  };
  for (const name of (await listDirectory(folder)) ?? []) {
    if (own.includes(name)) continue;
    const byName = plainNames.includes(name);
    if (byName || name.includes(basename(storePath))) await look(join(folder, name), byName);
  }
  for (const name of (await listDirectory(homedir())) ?? []) {
    if (plainNames.includes(name)) await look(join(homedir(), name), true);
  }
  for (const name of (backupFolder && (await listDirectory(backupFolder))) || []) {
    if (backupFolder !== undefined && !name.endsWith(".manifest.json")) {
      await look(join(backupFolder, name), plainNames.includes(name));
    }
  }
  const words = (paths: string[]) => paths.map(shellQuote).join(" ");
  return [
    plain.length === 0
      ? good("plaintext", "no credentials in plain text in the usual places")
      : finding(
          "plaintext",
          "error",
          `credentials in plain text: ${plain.join(", ")}`,
          `if nothing uses it any more: shred -u ${words(plain)} (flash storage may keep it all the same; then give the clients new credentials)`,
        ),
    encrypted.length === 0
      ? good("copies", "no other copy of the store beside it")
      : finding(
          "copies",
          "warning",
          `other copies of the store, with the clients it had: ${encrypted.join(", ")}`,
          `once they are not needed: rm ${words(encrypted)}`,
        ),
  ];
}

async function isFile(path: string): Promise<boolean> {
  return (await stat(path)).isFile();
}
