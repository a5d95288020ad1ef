/**
 * Checks hubs in containers: their volumes, whether they run, how they stop, and how they get the
 * passphrase.
 */
import { dirname } from "node:path";
import { toMachine } from "../config/hub-account.js";
import { isKind } from "../errors.js";
import { lstatIfExists } from "../fs/read.js";
import {
  copyOutLine,
  existsInside,
  findLosableIdentity,
  type InspectedHub,
  readContainerHub,
} from "../hub/container-hub.js";
import {
  namedStoreInContainer,
  parseNamedStore,
  passwordIn,
  readServerJson,
  sqliteModule,
} from "../hub/server-json.js";
import { isEngineSecret, type PassphraseSource } from "../keys/source.js";
import { ignoresStopSignal } from "../service/container-checks.js";
import {
  type Container,
  inspectContainer,
  isContainerActive,
  isEngine,
} from "../service/engine.js";
import { findHubContainers } from "../service/find-container.js";
import type { Service } from "../service/service.js";
import { counted } from "../text/count.js";
import { type Check, checksNamed } from "./check.js";
import type { KnownSecret } from "./hub-unit.js";
import { renewCopyLine } from "./renewal.js";

const { good, warning, error } = checksNamed("container");

/** After a restart by its engine, a container counts as in a restart loop for this time. */
const crashLoopMs = 20_000;

/** The exit codes of a stopped container: 0, or 128 and the number of a signal. */
const endsOfStop = [0, 130, 137, 143];

/** Checks all hubs in containers, and the container of the store's service. */
export async function checkContainers(
  { storePath, source }: { storePath: string; source: PassphraseSource },
  service: Service | undefined,
  secret: KnownSecret,
): Promise<Check[]> {
  const found = [...checkSource(source)];
  for (const container of await findHubContainers()) {
    found.push(...(await checkVolumes(container)));
  }
  const own =
    service && isEngine(service.kind)
      ? await inspectContainer(service.kind, service.name ?? "")
      : undefined;
  if (own) {
    const { isEncrypted, passphrase } = secret;
    if (isEncrypted) found.push(...(await checkPassword(own, storePath, passphrase)));
    found.push(...checkState(own), ...checkStop(own));
  }
  if (found.length > 0 || !own) return found;
  return [good(`${own.name} keeps its store on a volume, and stops when asked to`)];
}

/** Checks that the hub's files outlive its container. */
async function checkVolumes(container: Container): Promise<Check[]> {
  const hub = await readContainerHub(container);
  const { serverJson, pathInside, mounts } = hub;
  const store = await findStoreInside(hub);
  const identity = await findLosableIdentity(container);
  return [
    ...(store === undefined || toMachine(mounts, store) !== undefined
      ? []
      : [error(...(await describeLoss(container, "store", store, dirname(store))))]),
    // With an encrypted store, the file can have its only password.
    ...(serverJson === undefined && (await existsInside(container, pathInside))
      ? [error(...(await describeLoss(container, "config", pathInside, dirname(pathInside))))]
      : []),
    // Satellites refuse a hub with another identity.
    ...(identity === undefined
      ? []
      : [warning(...(await describeLoss(container, "identity", identity, identity)))]),
  ];
}

/** Returns the hub's store as a path in its container; undefined for another database. */
async function findStoreInside({
  serverJson,
  dataHome,
}: InspectedHub): Promise<string | undefined> {
  const byDefault = `${dataHome}/hivemind-core/clients.db`;
  if (serverJson === undefined) return byDefault;
  try {
    return parseNamedStore(await readServerJson(serverJson), dataHome).pathInside;
  } catch (failure) {
    if (!isKind(failure, "notFound", "io", "refused")) throw failure;
    return byDefault;
  }
}

/** Returns the problem of a file on no volume, and its fix. */
async function describeLoss(
  container: Container,
  what: "store" | "config" | "identity",
  file: string,
  directory: string,
): Promise<[problem: string, fix: string]> {
  const { engine, name: box } = container;
  const target = `~/${box}-${what}`;
  const copy = await copyOutLine(container, directory, target);
  const part = { store: "its store", config: "its settings", identity: "the hub's identity" }[what];
  const loss =
    what === "identity"
      ? "satellites refuse the hub when the container is created again"
      : "it is lost when the container is created again";
  return [
    `the container ${box} keeps ${part} ${file} on no volume: ${loss}`,
    `Copy the directory out of the container, then create the container again with the copy, ${target}, mounted at ${directory}: ${engine} stop ${box} && ${copy}`,
  ];
}

function checkStop(container: Container): Check[] {
  if (!isContainerActive(container) || !ignoresStopSignal(container)) return [];
  const { name: box, stopTimeoutMs } = container;
  return [
    warning(
      `the main process of the container ${box} ignores the signal to stop: each backup takes ${stopTimeoutMs / 1000} s longer, and the hub is killed`,
      "Create the container again with --init (compose: init: true), or start the hub with exec in its script. Until then: hivemind-sqlcipher backup --online",
    ),
  ];
}

/** Checks whether the container runs, or was stopped on purpose. */
function checkState(container: Container): Check[] {
  const { engine, name: box, status, exitCode, restartCount, startedAt } = container;
  const isRestarted = restartCount > 0 && Date.now() - startedAt < crashLoopMs;
  const how =
    status === "restarting" || (status === "running" && isRestarted)
      ? `is in a restart loop (${counted(restartCount, "restart")})`
      : !isContainerActive(container) && !endsOfStop.includes(exitCode)
        ? `has ended with exit code ${exitCode}`
        : undefined;
  if (how === undefined) return [];
  return [
    error(
      `the container ${box} ${how}: the hub does not run`,
      `Remove the cause, which ${engine} logs ${box} shows; then: ${engine} restart ${box}`,
    ),
  ];
}

/** Checks whether the hub of the container gets the passphrase of an encrypted store. */
async function checkPassword(
  container: Container,
  storePath: string,
  passphrase: string | undefined,
): Promise<Check[]> {
  const hub = await readContainerHub(container);
  const { engine, name: box, secrets } = container;
  const path = hub.copy ?? hub.serverJson;
  const closed = "its hub cannot open the encrypted store";
  if (hub.copy !== undefined && (await lstatIfExists(hub.copy)) === undefined) {
    const problem = `the container ${box} mounts ${path}, which does not exist: it cannot be started again`;
    return [error(problem, `${renewCopyLine(hub, storePath)} && ${engine} start ${box}`)];
  }
  const read = await readPassword(hub, path, storePath);
  if (read.password !== undefined && [undefined, read.password].includes(passphrase)) return [];
  if (read.password !== undefined && hub.copy !== undefined) {
    const problem = `the container ${box} gets another password, from ${path}: ${closed}`;
    return [error(problem, `${renewCopyLine(hub, storePath)} && ${engine} restart ${box}`)];
  }
  if (secrets.length > 0 && read.password === undefined && hub.copy === undefined) {
    return [
      error(
        `the container ${box} has secrets of ${engine} (${secrets.join(", ")}), which are on the disk unencrypted, and no copy of server.json in memory for ${storePath}`,
        `Mount a copy instead (hivemind-sqlcipher run --print-unit compose --container ${box} prints how), remove the secret with ${engine} secret rm, then: hivemind-sqlcipher rotate`,
      ),
    ];
  }
  if (!read.isOfStore) return [];
  const how = read.password === undefined ? "no password" : `another password, from ${path}`;
  return [
    error(
      `the container ${box} gets ${how}: ${closed}`,
      `Create the container again with a copy of server.json that has the password; this prints the unit and the lines for it: hivemind-sqlcipher run --print-unit compose --container ${box}`,
    ),
  ];
}

/** Returns the password in the hub's file, if the file names the store. */
async function readPassword(
  hub: InspectedHub,
  path: string | undefined,
  storePath: string,
): Promise<{ readonly isOfStore: boolean; readonly password?: string | undefined }> {
  if (path === undefined) return { isOfStore: false };
  try {
    const file = await readServerJson(path);
    const named = await namedStoreInContainer(file, hub);
    const isOfStore = named.module === sqliteModule && named.storePath === storePath;
    return { isOfStore, password: isOfStore ? passwordIn(file) : undefined };
  } catch (failure) {
    // Another check reports this error.
    if (!isKind(failure, "notFound", "io", "refused")) throw failure;
    return { isOfStore: false };
  }
}

/** Checks whether the passphrase is read from an engine's store of secrets. */
function checkSource(source: PassphraseSource): Check[] {
  if (!isEngineSecret(source)) return [];
  return [
    error(
      "the passphrase is read from a container engine's secrets, which are on the disk unencrypted",
      "Move the passphrase to the keyring, then remove the secret and run hivemind-sqlcipher rotate. To move it: hivemind-sqlcipher bundle import BUNDLE --passphrase-source keyring --identity RECOVERY-KEY",
    ),
  ];
}
