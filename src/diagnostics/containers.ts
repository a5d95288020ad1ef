/** Checks hubs in containers: their volumes, how they stop, and how they get the passphrase. */
import { dirname } from "node:path";
import { isKind } from "../errors.js";
import {
  type ContainerHub,
  copyOutLine,
  existsInside,
  findHubContainers,
  findLosableIdentity,
  readContainerHub,
  toHost,
} from "../hub/container-hub.js";
import { namedStore, passwordIn, readServerJson } from "../hub/server-json.js";
import { isEngineSecret, type PassphraseSource } from "../keys/source.js";
import { ignoresStopSignal } from "../service/container-checks.js";
import {
  type Container,
  inspectContainer,
  isContainerActive,
  isEngine,
} from "../service/engine.js";
import type { Service } from "../service/service.js";
import { type Check, checksNamed } from "./check.js";

const { good, warning, error } = checksNamed("container");

/** Checks all hubs in containers, and the container of the store's service. */
export async function checkContainers(
  { storePath, source }: { storePath: string; source: PassphraseSource },
  service: Service | undefined,
): Promise<Check[]> {
  const found = [...checkSource(source)];
  for (const container of await findHubContainers()) {
    found.push(...(await checkVolumes(container)));
  }
  const own =
    service && isEngine(service.kind)
      ? await inspectContainer(service.kind, service.name ?? "")
      : undefined;
  if (own) found.push(...checkStop(own), ...(await checkSecrets(own, storePath)));
  if (found.length > 0 || !own) return found;
  return [good(`${own.name} keeps its store on a volume, and stops when asked to`)];
}

/** Checks that the hub's files outlive its container. */
async function checkVolumes(container: Container): Promise<Check[]> {
  const hub = await readContainerHub(container);
  const store = await findStoreInside(hub);
  const identity = await findLosableIdentity(container);
  return [
    ...(store === undefined || toHost(container, store) !== undefined
      ? []
      : [error(...(await describeLoss(container, "store", store, dirname(store))))]),
    // With an encrypted store, the file can have its only password.
    ...(hub.serverJson === undefined && (await existsInside(container, hub.path))
      ? [error(...(await describeLoss(container, "config", hub.path, dirname(hub.path))))]
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
}: ContainerHub): Promise<string | undefined> {
  const byDefault = `${dataHome}/hivemind-core/clients.db`;
  if (serverJson === undefined) return byDefault;
  try {
    let inside: string | undefined;
    await namedStore(await readServerJson(serverJson), { XDG_DATA_HOME: dataHome }, (path) => {
      inside = path;
      return path;
    });
    return inside;
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

/** Checks whether a secret of the engine is the only way for the hub to get its passphrase. */
async function checkSecrets(container: Container, storePath: string): Promise<Check[]> {
  const { engine, name: box, secrets } = container;
  const { copy, serverJson } = await readContainerHub(container);
  if (secrets.length === 0 || copy !== undefined) return [];
  const file = serverJson && (await readServerJson(serverJson).catch(() => undefined));
  if (file && passwordIn(file) !== undefined) return [];
  return [
    error(
      `the container ${box} has secrets of ${engine} (${secrets.join(", ")}), which are on the disk unencrypted, and no copy of server.json in memory for ${storePath}`,
      `Mount a copy instead (hivemind-sqlcipher run --print-unit compose --container ${box} prints how), remove the secret with ${engine} secret rm, then: hivemind-sqlcipher rotate`,
    ),
  ];
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
