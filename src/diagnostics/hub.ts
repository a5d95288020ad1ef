/** Checks whether the hub can open the store, and whether `server.json` contains a password. */
import { stat } from "node:fs/promises";
import { basename, dirname } from "node:path";
import { isHiveMind4Schema, revokedKeyWarning } from "../client/permissions.js";
import { hubEnvironment } from "../config/hub-account.js";
import { dataHome } from "../config/paths.js";
import { isKind, StoreError } from "../errors.js";
import { dropInCommands, resolveHubUnit } from "../hub/existing-unit.js";
import { describePython, findHubPython } from "../hub/interpreter.js";
import { installLine, pluginRequirement, requirements, upgradeLine } from "../hub/packages.js";
import { cipherFormat, probePackages } from "../hub/probe.js";
import { blacklistProblem } from "../hub/schema.js";
import { namedStore, readServerJson, serverJsonPath, sqliteModule } from "../hub/server-json.js";
import { findServicePython, readServiceHub } from "../hub/service-hub.js";
import type { ServiceChoice } from "../service/select.js";
import type { Service } from "../service/service.js";
import type { CipherCompatibility } from "../store/cipher.js";
import { shellQuote } from "../text/escape.js";
import { type Check, checksNamed } from "./check.js";
import type { StoreLocations } from "./files.js";

/** The store's properties that the hub must support. */
export interface StoreFacts {
  readonly cipherCompatibility: CipherCompatibility;
  readonly schemaVersion: number;
  /** The number of revoked clients. */
  readonly revoked: number;
}

/**
 * Checks whether the hub's packages open encrypted stores. The packages are tried with a temporary
 * home directory.
 *
 * @param options - `store` is undefined if the store could not be opened
 */
export async function checkHub(options: {
  service: Service | undefined;
  choice: ServiceChoice;
  hubPython?: string | undefined;
  store: StoreFacts | undefined;
}): Promise<Check[]> {
  const { service, choice, hubPython, store } = options;
  const { good, error } = checksNamed("hub");
  const inUnit = service && (await readServiceHub({ service, choice }));
  const python = await (inUnit
    ? findServicePython(inUnit, hubPython)
    : findHubPython({ hubPython }));
  if (python === undefined) {
    const found = checkRevokedKey(
      store,
      "Upgrade the hub to HiveMind 5. If it is already, name its Python: hivemind-sqlcipher doctor --hub-python PYTHON",
    );
    if (found.length > 0) return found;
    return [good("no hivemind-core was found (name its Python with --hub-python)")];
  }
  const hub = await probePackages(python, inUnit);
  // HiveMind 4 enforces no blacklist in a store that the newer plugin has opened, so a fix that
  // updates the plugin also updates the hub.
  const isOldHub = hub.schemaVersion === null && hub.pluginManager !== null;
  const newerHub = isOldHub ? ["hivemind-core", "hivemind-plugin-manager"] : [];
  const newerPlugin = installLine(python[0], ...newerHub, ...requirements);
  const named = `hivemind-sqlite-database ${hub.sqlitePlugin ?? "is not installed"} in ${describePython(python)}`;
  if (!hub.takesPassword) {
    const why = hub.problem ?? "it accepts a password, ignores it and writes plain text";
    return [error(`${named} cannot use an encrypted store: ${why}`, newerPlugin)];
  }
  const found: Check[] = [];
  const hubFormat = cipherFormat(hub);
  if (store && hubFormat !== store.cipherCompatibility) {
    found.push(
      error(
        `the hub's SQLCipher (${hub.cipherVersion ?? "unknown version"}) reads format ${hubFormat}, but the store has format ${store.cipherCompatibility}`,
        hubFormat < store.cipherCompatibility
          ? newerPlugin
          : `hivemind-sqlcipher encrypt --cipher-compatibility ${hubFormat}`,
      ),
    );
  }
  const problem = blacklistProblem(hub);
  if (store && store.schemaVersion >= 2 && (hub.schemaVersion ?? 0) < store.schemaVersion) {
    found.push(
      error(
        `the store has schema ${store.schemaVersion}, which this hub (hivemind-plugin-manager ${hub.pluginManager}) does not know: it enforces no blacklist`,
        installLine(python[0], "hivemind-core", "hivemind-plugin-manager", pluginRequirement),
      ),
    );
  } else if (problem !== undefined) {
    found.push(error(`the hub enforces no blacklist: ${problem}`, upgradeLine(python[0])));
  }
  if (isHiveMind4Schema(hub.schemaVersion ?? 0)) {
    found.push(...checkRevokedKey(store, upgradeLine(python[0])));
  }
  if (found.length > 0) return found;
  return [good(`${named} opens encrypted stores, with SQLCipher ${hub.cipherVersion}`)];
}

/** Reports the revoked clients in a store of HiveMind 4. */
function checkRevokedKey(store: StoreFacts | undefined, fix: string): Check[] {
  if (!store?.revoked || !isHiveMind4Schema(store.schemaVersion)) return [];
  return [checksNamed("hub").error(revokedKeyWarning, fix)];
}

/** Checks whether the hub uses this store, and whether `server.json` contains a password. */
export async function checkServerJson({
  storePath,
  bundleFolder,
}: Pick<StoreLocations, "storePath" | "bundleFolder">): Promise<Check[]> {
  const { good, warning, error: unusable } = checksNamed("server.json");
  const path = serverJsonPath();
  let file: Awaited<ReturnType<typeof readServerJson>>;
  try {
    file = await readServerJson(path);
  } catch (error) {
    if (!(error instanceof StoreError)) throw error;
    if (error.kind === "notFound") {
      return [good(`${path} does not exist: no hub has run here`)];
    }
    return [unusable(error.message, error.hint ?? "Correct the file.")];
  }
  const { module, storePath: named, passwordSet } = await namedStore(file);
  const found: Check[] = [];
  if (module !== sqliteModule) {
    const other = module === undefined ? "its default, the JSON database" : module;
    found.push(
      warning(
        `the hub uses ${other}, not this store, according to ${path}`,
        // Setting only the module would leave the hub without the clients of its present database.
        `To move its clients here: hivemind-sqlcipher migrate --from ${module ?? "hivemind-json-db-plugin"} --to hivemind-sqlcipher-db-plugin --switch`,
      ),
    );
  } else if (named !== storePath) {
    found.push(
      warning(
        `the hub uses ${named ?? "no file"}, not ${storePath}, according to ${path}`,
        `${describeStoreSettings(storePath)} in that file, without "db_path"${named === undefined ? "" : `, or name the hub's store: --db ${shellQuote(named)}`}`,
      ),
    );
  }
  if (passwordSet) {
    const { mode } = await stat(file.file);
    const password = checksNamed("password");
    const detail = `the passphrase is in ${path} in plain text`;
    const fix = `chmod 600 ${shellQuote(file.file)}`;
    found.push(
      (mode & 0o077) !== 0
        ? password.error(`${detail}, and other users can read it`, fix)
        : password.warning(detail, await removePasswordCommand(bundleFolder)),
    );
  }
  if (found.length > 0) return found;
  return [good("the hub uses this store, and there is no password in the file")];
}

/**
 * Returns the instruction to name a store in `server.json`. An absolute subfolder replaces the data
 * home.
 */
function describeStoreSettings(storePath: string): string {
  const directory = dirname(storePath);
  const subfolder =
    dirname(directory) === dataHome(hubEnvironment()) ? basename(directory) : directory;
  return `Set "name" to ${JSON.stringify(basename(storePath, ".db"))} and "subfolder" to ${JSON.stringify(subfolder)}`;
}

/**
 * Returns the command line that removes the passphrase from `server.json` and starts the hub
 * through `run`. The hub is restarted after its passphrase is in the keyring. The last command is
 * `rotate`, because the passphrase may be in a backup of `server.json`.
 */
async function removePasswordCommand(bundleFolder: string | undefined): Promise<string> {
  const directory = bundleFolder === undefined ? "DIRECTORY" : shellQuote(bundleFolder);
  const adopt = `hivemind-sqlcipher init --adopt --remove-password --bundle-to ${directory}`;
  const rotate = "hivemind-sqlcipher rotate";
  try {
    const { install, restart } = await dropInCommands(await resolveHubUnit());
    return [...install, adopt, restart, rotate].join(" && ");
  } catch (error) {
    if (!isKind(error, "notFound", "refused")) throw error;
    return `Start the hub through run (hivemind-sqlcipher run -- hivemind-core listen), then: ${adopt} && ${rotate}`;
  }
}
