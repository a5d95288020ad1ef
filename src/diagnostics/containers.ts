/** Checks hubs in containers: their volumes, how they stop, and how they get the passphrase. */
import { dirname } from "node:path";
import { isKind } from "../errors.js";
import {
  copyOutLine,
  findHubContainers,
  findLosableIdentity,
  readContainerHub,
  toHost,
} from "../hub/container-hub.js";
import { namedStore, passwordIn, readServerJson } from "../hub/server-json.js";
import { isEngineSecret, type PassphraseSource } from "../keys/source.js";
import { ignoresStopSignal } from "../service/container-checks.js";
import { type Container, inspectContainer, isActive, isEngine } from "../service/engine.js";
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
    found.push(...(await checkVolume(container)), ...(await checkIdentity(container)));
  }
  const own =
    service && isEngine(service.kind)
      ? await inspectContainer(service.kind, service.name ?? "")
      : undefined;
  if (own) found.push(...checkStop(own), ...(await checkSecrets(own, storePath)));
  if (found.length > 0 || !own) return found;
  return [good(`${own.name} keeps its store on a volume, and stops when asked to`)];
}

/** Checks that the hub's store outlives its container. */
async function checkVolume(container: Container): Promise<Check[]> {
  const { engine, name: box } = container;
  const hub = await readContainerHub(container);
  let inside: string | undefined = `${hub.dataHome}/hivemind-core/clients.db`;
  if (hub.serverJson !== undefined) {
    try {
      const file = await readServerJson(hub.serverJson);
      inside = undefined;
      await namedStore(file, { XDG_DATA_HOME: hub.dataHome }, (path) => {
        inside = path;
        return path;
      });
    } catch (failure) {
      if (!isKind(failure, "notFound", "io", "refused")) throw failure;
    }
  }
  if (inside === undefined || toHost(container, inside) !== undefined) return [];
  const directory = dirname(inside);
  return [
    error(
      `the container ${box} keeps its store ${inside} on no volume: it is lost when the container is created again`,
      `Copy the directory out of the container, then create the container again with the copy, ~/${box}-store, mounted at ${directory}: ${engine} stop ${box} && ${copyOutLine(container, directory, `~/${box}-store`)}`,
    ),
  ];
}

/** Checks that the hub's identity outlives its container. */
async function checkIdentity(container: Container): Promise<Check[]> {
  const directory = await findLosableIdentity(container);
  if (directory === undefined) return [];
  const { name: box } = container;
  const target = `~/${box}-identity`;
  return [
    warning(
      `the container ${box} keeps the hub's identity ${directory} on no volume: when the container is created again, satellites refuse the hub`,
      `Copy the directory out of the container, then create the container again with the copy, ${target}, mounted at ${directory}: ${copyOutLine(container, directory, target)}`,
    ),
  ];
}

function checkStop(container: Container): Check[] {
  if (!isActive(container) || !ignoresStopSignal(container)) return [];
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
