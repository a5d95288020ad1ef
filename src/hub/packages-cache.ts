/**
 * Caches the result of `probePackages` until the interpreter or a package changes.
 *
 * `probePackages` starts a second Python that imports all packages of the hub. It would add more
 * than a second to each start on a PC, and several seconds on a small board.
 */
import { readdir, readFile, realpath, stat } from "node:fs/promises";
import type { Environment } from "../config/paths.js";
import { statePath, writeState } from "../config/store-record.js";
import { sha256Hex } from "../fs/read.js";
import type { Account } from "../process/run.js";
import * as z from "../schema.js";
import { resolvePythonAccount } from "./account.js";
import { type HubPython, runsInContainer } from "./interpreter.js";
import { type HubPackages, packagesSchema, probePackages } from "./probe.js";

const format = "hivemind-sqlcipher hub packages";

const recordSchema = z.object({
  format: z.literal(format),
  version: z.literal(1),
  /** Python's `sys.path`, the directories of the packages. */
  paths: z.array(z.string()),
  fingerprint: z.string(),
  packages: packagesSchema,
});

/** Metadata directories of the packages that the hub needs, with versions in their names. */
const packageMetadata = /^(?:hivemind|sqlcipher3|ovos|json_database).*\.(?:dist-info|egg-info)$/i;

/**
 * Returns the result of `probePackages`, cached if the interpreter and the packages are unchanged.
 * Caches only a success, so packages that were repaired are tested again. Caches nothing for a
 * container or for another user's hub.
 *
 * @param options.remember - false to read the cache, but not to write it
 * @throws {@link StoreError} failed - if the interpreter fails
 */
export async function probePackagesCached(
  python: HubPython,
  account: Account,
  { remember = true } = {},
): Promise<HubPackages> {
  // The packages of a container are not in directories of this machine.
  if (runsInContainer(python)) return probePackages(python, account);
  const hub = await resolvePythonAccount(python[0], account);
  const { environment } = hub;
  const path = statePath("hub-packages", JSON.stringify(python), environment);
  const known = await readRecord(path);
  if (known && known.fingerprint === (await fingerprint(python, known.paths, environment))) {
    return known.packages;
  }
  const packages = await probePackages(python, hub);
  const { paths } = packages;
  if (remember && !isOtherUser(hub) && packages.takesPassword && packages.problem === null) {
    const found = await fingerprint(python, paths, environment);
    await writeState(path, { format, version: 1, paths, fingerprint: found, packages });
  }
  return packages;
}

/** Root writes nothing into the home directory of the hub's user. */
function isOtherUser({ uid }: Account): boolean {
  return uid !== undefined && uid !== process.geteuid?.();
}

async function readRecord(path: string): Promise<z.infer<typeof recordSchema> | undefined> {
  try {
    return recordSchema.safeParse(JSON.parse(await readFile(path, "utf8"))).data;
  } catch {
    return undefined; // absent, unreadable or damaged: the packages are tested again
  }
}

/**
 * Returns a digest of the interpreter, of the directories and versions of the packages, and of the
 * variables that determine the directories.
 */
async function fingerprint(
  [program]: HubPython,
  paths: readonly string[],
  environment: Environment,
): Promise<string> {
  const variables = ["PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV"].map((name) => environment[name]);
  const parts = [
    variables,
    await describeFile(program),
    ...(await Promise.all(paths.map(listVersions))),
  ];
  return sha256Hex(JSON.stringify(parts));
}

async function describeFile(path: string): Promise<unknown> {
  try {
    const file = await realpath(path);
    const { mtimeMs, size } = await stat(file);
    return [file, mtimeMs, size];
  } catch {
    return [path];
  }
}

async function listVersions(directory: string): Promise<unknown> {
  const names = await readdir(directory).catch(() => []);
  return [
    ...((await describeFile(directory)) as unknown[]),
    ...names.filter((name) => packageMetadata.test(name)).sort(),
  ];
}
