/** Checks the permissions of the files, and searches for other copies of the store. */
import { statfs } from "node:fs/promises";
import { homedir } from "node:os";
import { basename, dirname, join } from "node:path";
import { dataHome, type Environment } from "../config/paths.js";
import { isKind } from "../errors.js";
import { listDirectory, realPathIfExists, statIfExists } from "../fs/read.js";
import { sidecars } from "../fs/sidecars.js";
import { readContainerHub } from "../hub/container-hub.js";
import { findAllHubProcesses } from "../hub/find-hubs.js";
import { databaseIn, readServerJson, serverJsonPath } from "../hub/server-json.js";
import { journalPath } from "../operation/journal.js";
import { lockPath } from "../operation/lock.js";
import { mountsStore } from "../service/engine.js";
import { findHubContainers } from "../service/find-container.js";
import { listHubUnits } from "../service/hub-units.js";
import { identify } from "../store/cipher.js";
import { shellQuote } from "../text/escape.js";
import { type Check, checksNamed } from "./check.js";

/**
 * The statfs(2) types of file systems on which `chmod` has no effect, because all files have the
 * permissions of the mount: FAT, exFAT, NTFS (two drivers), FUSE (further drivers for NTFS and
 * exFAT), SMB (two versions).
 */
const fileSystemsWithoutModes: ReadonlySet<number> = new Set([
  0x4d44, 0x2011bab0, 0x5346544e, 0x7366746e, 0x65735546, 0xff534d42, 0xfe534d42,
]);

/** The statfs(2) types of network file systems, on which SQLite's locks may not work. */
const networkFileSystems: ReadonlyMap<number, string> = new Map([
  [0x6969, "NFS"],
  [0x01021997, "9p"],
  [0x6a656a63, "virtiofs"],
  [0xff534d42, "SMB"],
  [0xfe534d42, "SMB"],
]);

export interface StoreLocations {
  readonly storePath: string;
  readonly settingsPath: string;
  readonly backupFolder: string | undefined;
  readonly bundleFolder: string | undefined;
}

/**
 * Checks whether the store is on a disk of this machine. SQLite's write-ahead log needs memory that
 * all programs with the store open share, and programs on two machines share none.
 *
 * @param readType - replaces statfs(2) in tests
 */
export async function checkFileSystem(
  storePath: string,
  readType = readFileSystemType,
): Promise<Check[]> {
  const name = networkFileSystems.get(await readType(dirname(storePath)).catch(() => 0));
  if (name === undefined) return [];
  return [
    checksNamed("file-system").warning(
      `${dirname(storePath)} is on ${name}: SQLite's locks and its write-ahead log do not work between machines there`,
      "Move the store to a disk of the machine that runs the hub, and only back up to the other machine.",
    ),
  ];
}

/**
 * Checks that other users have no access to the store, the backups and the bundles, and cannot
 * replace the store or the settings.
 *
 * @param readType - replaces statfs(2) in tests
 */
export async function checkPermissions(
  locations: StoreLocations,
  readType = readFileSystemType,
): Promise<Check> {
  const { storePath, settingsPath, backupFolder, bundleFolder } = locations;
  const { good, warning } = checksNamed("permissions");
  const wrong: string[] = [];
  const fixes: string[] = [];
  const fixedByMount: string[] = [];
  const check = async (
    path: string | undefined,
    forbidden: number,
    mode: string,
    problem: string,
  ) => {
    const current = path === undefined ? undefined : (await statIfExists(path))?.mode;
    if (path === undefined || current === undefined || (current & forbidden) === 0) return;
    if (fileSystemsWithoutModes.has(await readType(path))) {
      fixedByMount.push(path);
      return;
    }
    wrong.push(`${problem}: ${path} (mode ${(current & 0o777).toString(8)})`);
    fixes.push(`chmod ${mode} ${shellQuote(path)}`);
  };
  for (const suffix of ["", ...sidecars]) {
    await check(storePath + suffix, 0o077, "600", "other users can access");
  }
  await check(dirname(storePath), 0o022, "go-w", "other users can replace files in");
  await check(settingsPath, 0o022, "go-w", "other users can change");
  await check(backupFolder, 0o077, "700", "other users can access");
  await check(bundleFolder, 0o077, "700", "other users can access");
  if (wrong.length === 0) {
    const exception =
      fixedByMount.length === 0
        ? ""
        : `, except by the permissions of the mount, which chmod cannot change: ${fixedByMount.join(", ")}`;
    return good(`only their owner can access the files${exception}`);
  }
  return warning(wrong.join("; "), fixes.join(" && "));
}

async function readFileSystemType(path: string): Promise<number> {
  return (await statfs(path)).type;
}

/** Names of plaintext credential files from HiveMind and its operators. */
const plainNames = ["clients.json", "clients.db.bak", "hivemind_clients.csv"];

/** Searches the usual directories for forgotten copies of the store, encrypted or not. */
export async function checkCopies(locations: StoreLocations): Promise<Check[]> {
  const { plain, encrypted } = await findCopies(locations);
  const directory = dirname(locations.storePath);
  const quoted = (paths: string[]) => paths.map(shellQuote).join(" ");
  const json = plain.filter((path) => isJsonStore(path, directory));
  const move = json.length > 0 ? await findMoveOfJson(directory) : undefined;
  const left = move === undefined ? plain : plain.filter((path) => !json.includes(path));
  const plaintext = checksNamed("plaintext");
  const copies = checksNamed("copies");
  const checks =
    move === undefined
      ? []
      : json.map((path) =>
          plaintext.error(`the hub keeps its clients in plain text: ${path}`, move),
        );
  if (left.length > 0) {
    const fix = `If no hub uses them: shred -u ${quoted(left)}`;
    checks.push(plaintext.error(`credentials in plain text: ${left.join(", ")}`, fix));
  }
  if (plain.length === 0) {
    checks.push(plaintext.good("no credentials in plain text in the usual directories"));
  }
  if (encrypted.length === 0)
    return [...checks, copies.good("no other copy of the store next to it")];
  const detail = `older copies of the store, with the clients of that time: ${encrypted.join(", ")}`;
  return [...checks, copies.warning(detail, `If no hub uses them: rm ${quoted(encrypted)}`)];
}

/** Finds files with credentials in plain text, and encrypted copies next to the store. */
async function findCopies({
  storePath,
  backupFolder,
}: StoreLocations): Promise<{ plain: string[]; encrypted: string[] }> {
  const directory = dirname(storePath);
  const storeFiles = ["", ...sidecars].map((suffix) => storePath + suffix);
  const own = [...storeFiles, lockPath(storePath), journalPath(storePath)];
  const isPlainName = (name: string) => plainNames.includes(name);
  const candidates = [
    ...(await listPaths(
      directory,
      (name) => isPlainName(name) || name.includes(basename(storePath)),
    )),
    ...(await listPaths(homedir(), isPlainName)),
    ...(backupFolder
      ? await listPaths(backupFolder, (name) => !name.endsWith(".manifest.json"))
      : []),
  ];
  const plain: string[] = [];
  const encrypted: string[] = [];
  for (const path of candidates.filter((each) => !own.includes(each))) {
    const name = basename(path);
    const { format } = await identify(path);
    if (format === "sqlcipher") {
      if (dirname(path) === directory && isCopyName(name, storePath)) encrypted.push(path);
    } else if (format === "plaintext" || (isPlainName(name) && (await isFile(path)))) {
      plain.push(path);
    }
  }
  return { plain, encrypted };
}

async function listPaths(
  directory: string,
  isCandidate: (name: string) => boolean,
): Promise<string[]> {
  const names = (await listDirectory(directory)) ?? [];
  return names.filter(isCandidate).map((name) => join(directory, name));
}

/**
 * Returns whether an encrypted file may be a copy of the store: `clients.db.bak`, but not
 * `guest-clients.db`, the store of another hub.
 */
function isCopyName(name: string, storePath: string): boolean {
  const store = basename(storePath);
  return name.startsWith(store) && /^[^a-z0-9]/i.test(name.slice(store.length));
}

async function isFile(path: string): Promise<boolean> {
  return (await statIfExists(path))?.isFile() === true;
}

function isJsonStore(path: string, directory: string): boolean {
  return basename(path) === "clients.json" && dirname(path) === directory;
}

/**
 * Returns the command that moves the clients out of `clients.json`; undefined if no hub uses the
 * file. Deleting the file of a hub would lose all its clients.
 *
 * @param directory - the directory of the file
 */
async function findMoveOfJson(directory: string): Promise<string | undefined> {
  if (await mayUseJson(serverJsonPath())) {
    return "hivemind-sqlcipher migrate --from hivemind-json-db-plugin --to hivemind-sqlcipher-db-plugin --switch";
  }
  for (const serverJson of await findServerJsons(directory)) {
    if (serverJson === undefined || (await mayUseJson(serverJson))) {
      return "hivemind-sqlcipher setup";
    }
  }
  return undefined;
}

/**
 * Returns whether a hub may use the JSON database, because its `server.json` names it or leaves the
 * choice to the hub's defaults.
 */
async function mayUseJson(serverJson: string): Promise<boolean> {
  try {
    const { module } = databaseIn(await readServerJson(serverJson));
    return module === undefined || module === "hivemind-json-db-plugin";
  } catch (error) {
    // Without a server.json, no hub has run here. If the file does not parse, the hub uses its
    // defaults.
    return !isKind(error, "notFound");
  }
}

/**
 * Finds the hubs of all users with databases in a directory. Returns the path of the `server.json`
 * of each; undefined for a container without a volume for it.
 */
async function findServerJsons(directory: string): Promise<(string | undefined)[]> {
  const hubs = [...(await findAllHubProcesses()), ...(await listHubUnits())];
  const isThere = (environment: Environment) =>
    realPathIfExists(join(dataHome(environment), "hivemind-core")) === directory;
  const containers = await findHubContainers();
  return [
    ...hubs
      .filter(({ environment }) => isThere(environment))
      .map(({ environment }) => serverJsonPath(environment)),
    ...(await Promise.all(
      containers
        .filter((each) => mountsStore(each, join(directory, "clients.json")))
        .map(async (each) => (await readContainerHub(each)).serverJson),
    )),
  ];
}
