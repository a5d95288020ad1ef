/**
 * Determines how the hub receives the store's passphrase. A change of the passphrase needs this
 * first, because the hub must receive the new one.
 */
import type { ContainerFiles } from "../config/hub-account.js";
import type { Environment } from "../config/paths.js";
import { ignoreKind, isKind, StoreError } from "../errors.js";
import { lstatIfExists } from "../fs/read.js";
import {
  describeSource,
  isSameSource,
  type PassphraseSource,
  parseSource,
} from "../keys/source.js";
import type { ResolvedService } from "../operation/service.js";
import type { Reporter } from "../reporter.js";
import { copyUnitOf } from "../service/copy-unit.js";
import { type Container, inspectContainer, isEngine } from "../service/engine.js";
import { expandScripts } from "../service/hub-units.js";
import { isManager, systemctlLine, type UnitName } from "../service/systemctl.js";
import { readCommands } from "../service/unit-commands.js";
import { shellQuote } from "../text/escape.js";
import type { InspectedHub } from "./container-hub.js";
import {
  type NamedStore,
  namedStore,
  namedStoreInContainer,
  readServerJson,
  serverJsonPath,
} from "./server-json.js";
import type { ServerJsonCopy } from "./server-json-copy.js";
import { readServiceHub, type ServiceHub } from "./service-hub.js";

/** `auto` detects the delivery. `none` states that no hub needs the passphrase. */
export type HubChoice = "auto" | "none";

export type PasswordDelivery =
  /**
   * `run` reads the passphrase whenever the service starts. For a container, `copy` is the file
   * that `run --prepare` has written, if it exists: the file must change together with the
   * passphrase. `source` is the passphrase source in the service's command line or variable;
   * without it, `run` reads the settings.
   */
  | { readonly how: "run"; readonly copy?: ServerJsonCopy; readonly source?: PassphraseSource }
  /** The hub reads the passphrase from `server.json`, where it is in plain text. */
  | { readonly how: "server.json"; readonly path: string }
  | { readonly how: "none" };

/**
 * Determines how the hub receives its passphrase now. Reads the `server.json` of the service's hub;
 * `Environment=` in its unit determines the path.
 *
 * @returns `none` if `run` does not start the hub, and its `server.json` is missing, names another
 *   store or contains no password
 * @throws {@link StoreError} refused - if `server.json` cannot be parsed
 * @throws {@link StoreError} io - if `server.json` cannot be read
 * @throws {@link StoreError} service - if the service manager or the engine does not respond
 */
export async function findPasswordDelivery(
  known: ResolvedService,
  hub: HubChoice,
): Promise<PasswordDelivery> {
  if (hub === "none") return { how: "none" };
  const service = await readServiceHub(known);
  if (startsByRun(service.args.join(" "))) return { how: "run", ...findNamedSource(service) };
  const { container } = service;
  if (container?.copy !== undefined) return deliveryByCopy(container, known.choice.storePath);
  const hubFile = await findServerJson(service);
  const named = await storeOf(hubFile).catch(ignoreKind("notFound", undefined));
  const isRead = named?.passwordSet && named.storePath === known.choice.storePath;
  return isRead ? { how: "server.json", path: hubFile.path } : { how: "none" };
}

async function deliveryByCopy(
  { copy: path, serverJson }: InspectedHub,
  storePath: string,
): Promise<PasswordDelivery> {
  const stats = path === undefined ? undefined : await lstatIfExists(path);
  const named = await findSourceOfCopyUnit(storePath);
  // After a reboot, the next `run --prepare` writes the copy, before the container starts.
  if (path === undefined || stats === undefined) return { how: "run", ...named };
  const owner = { uid: Number(stats.uid), gid: Number(stats.gid) };
  const original = serverJson === undefined ? undefined : { path: serverJson, ...owner };
  return { how: "run", ...named, copy: { path, ...(original && { original }) } };
}

/** Returns the passphrase source in the unit of the copy, if there is such a unit. */
async function findSourceOfCopyUnit(storePath: string): Promise<{ source?: PassphraseSource }> {
  const unit = copyUnitOf(storePath);
  const commands = await readCommands(unit).catch(ignoreKind("service", []));
  return findNamedSource({ args: expandScripts(commands), environment: {} });
}

/** Returns the passphrase source that the arguments or the environment of a unit name. */
export function findNamedSource({ args, environment }: Pick<ServiceHub, "args" | "environment">): {
  source?: PassphraseSource;
} {
  const option = args.indexOf("--passphrase-source");
  const text =
    (option === -1 ? undefined : args[option + 1]) ??
    // In an argument of a shell, or with an equals sign.
    /--passphrase-source[ =]+["']?([^\s"']+)/.exec(args.join(" "))?.[1] ??
    environment.HIVEMIND_SQLCIPHER_PASSPHRASE_SOURCE;
  try {
    return text ? { source: parseSource(text) } : {};
  } catch (error) {
    if (!isKind(error, "usage")) throw error;
    return {}; // a variable of a script
  }
}

/**
 * Checks whether a hub started by `run` reads a changed passphrase.
 *
 * @param sources - of the present and of the new passphrase
 * @throws {@link StoreError} refused - if its command line or variable names another source
 */
export function assertReadsSource(
  { service, choice }: Pick<ResolvedService, "service" | "choice">,
  delivery: PasswordDelivery,
  { from, to }: { readonly from: PassphraseSource; readonly to: PassphraseSource },
): void {
  if (delivery.how !== "run" || delivery.source === undefined) return;
  const { source: named } = delivery;
  if (isSameSource(named, to)) return;
  if (isSameSource(from, to) && mayReadSame(named, to)) return;
  const { kind, name } = service;
  const isUnit = isManager(kind);
  const copyUnit = copyUnitOf(choice.storePath);
  const manager = isUnit ? kind : copyUnit.manager;
  const unit = isUnit ? (name ?? "the hub") : copyUnit.name;
  throw new StoreError(
    "refused",
    `${unit} reads the passphrase from ${describeSource(named)}, but the source of the new one is ${describeSource(to)}`,
    {
      hint: `Let ${unit} read the source in the settings: name it there (passphrase_source), remove --passphrase-source and HIVEMIND_SQLCIPHER_PASSPHRASE_SOURCE from ${unit}, and run ${systemctlLine(manager, "daemon-reload")}`,
    },
  );
}

/** Returns whether the source in a unit may read the passphrase of another source. */
function mayReadSame(named: PassphraseSource, other: PassphraseSource): boolean {
  if (named.kind === "command") return true;
  // A credential can be the same file, usually a sealed one.
  const isCredential = named.kind === "credential";
  return (isCredential || isPathOfStart(named)) && other.kind !== "keyring";
}

/**
 * Returns whether the path of a source is known only when the hub starts: in a credential of
 * systemd (`%d/NAME` in the unit), a secret of an engine, or a variable of a shell.
 */
function isPathOfStart(source: PassphraseSource): boolean {
  return (
    "path" in source && /\/credentials\/[^/]+\.service\/|^\/run\/secrets\/|\$/.test(source.path)
  );
}

/**
 * A hub's `server.json` on this machine, and the environment or container in which the hub reads
 * it. Without both, the file is of the hub that this process works for.
 */
export interface HubFile {
  readonly path: string;
  readonly environment?: Environment;
  readonly container?: ContainerFiles;
}

/**
 * Returns the `server.json` of a service's hub. If it does not exist or cannot be found, returns
 * the `server.json` of the hub that this process works for.
 */
export async function findServerJson({
  environment,
  container,
}: Pick<ServiceHub, "environment" | "container">): Promise<HubFile> {
  const path = container === undefined ? serverJsonPath(environment) : container.serverJson;
  if (path !== undefined && (await lstatIfExists(path).catch(() => undefined))) {
    return container === undefined ? { path, environment } : { path, container };
  }
  return { path: serverJsonPath() };
}

/** Returns the store in a hub's `server.json`, as a path of this machine. */
export async function storeOf({ path, environment, container }: HubFile): Promise<NamedStore> {
  const file = await readServerJson(path);
  return container === undefined
    ? namedStore(file, environment)
    : namedStoreInContainer(file, container);
}

/**
 * Determines how the hub will receive a passphrase that changes or is needed for the first time.
 *
 * @returns `none` only if `hub` is `none`
 * @throws {@link StoreError} refused - if the delivery cannot be determined
 * @throws {@link StoreError} service - if the service manager or the engine does not respond
 */
export async function resolvePasswordDelivery(
  known: ResolvedService,
  hub: HubChoice,
): Promise<PasswordDelivery> {
  const delivery = await findPasswordDelivery(known, hub);
  if (delivery.how !== "none" || hub === "none") return delivery;
  const { service } = known;
  const refusal = `cannot determine how ${service.name ?? "the hub"} would get the new passphrase`;
  if (isEngine(service.kind)) {
    const container = await inspectContainer(service.kind, service.name ?? "");
    throw new StoreError("refused", refusal, {
      hint: [
        ...secretsHint(container),
        mountCopyHint(service.name ?? "", known.choice.storePath),
      ].join("\n"),
    });
  }
  throw new StoreError("refused", refusal, {
    hint: `${startHint(service)}\n${withoutHubHint}`,
  });
}

const withoutHubHint =
  "Or add --hub none if no hub uses this store, or if you will update its passphrase manually.";

/** Returns the advice to let a service start the hub through `run`. */
export function startHint({ kind, name }: ResolvedService["service"]): string {
  if (!isManager(kind) || name === null) {
    return "Let the service start the hub through run: hivemind-sqlcipher run -- hivemind-core listen";
  }
  const print = printDropInLine({ manager: kind, name });
  return `Let ${name} start the hub through run: add the drop-in that ${print} prints, then run ${systemctlLine(kind, "daemon-reload")}`;
}

/**
 * Returns the command line that prints the drop-in for a unit.
 *
 * @param isSealed - whether the drop-in names a sealed credential
 */
export function printDropInLine(
  { manager, name }: UnitName,
  isSealed = manager === "systemd",
): string {
  const sealed = isSealed ? " --credential-file FILE" : "";
  return `hivemind-sqlcipher run --print-unit dropin --unit ${shellQuote(name)}${sealed}`;
}

function secretsHint(container: Container | undefined): string[] {
  if (container === undefined || container.secrets.length === 0) return [];
  const { engine, name, secrets } = container;
  return [
    `If the hub gets its passphrase from a secret of ${engine} (${name} has ${secrets.join(", ")}): a secret does not change with the passphrase, and is on the disk unencrypted. Remove the secret after the next steps: ${engine} secret rm NAME`,
  ];
}

/** Returns the steps by which a user lets a container's hub read its password from a copy. */
function mountCopyHint(container: string, storePath: string): string {
  return [
    `Write a copy of server.json into memory: hivemind-sqlcipher run --prepare ${shellQuote(copyUnitOf(storePath).copy)} --container ${shellQuote(container)}`,
    `Create the container again with this copy mounted over the hub's server.json. This prints the lines (or with quadlet): hivemind-sqlcipher run --print-unit compose --container ${shellQuote(container)}`,
    withoutHubHint,
  ].join("\n");
}

/**
 * Returns the file in which a changed passphrase replaces the hub's password: `server.json`, or its
 * copy in memory; undefined if there is none. Prints a notice about a password on the disk.
 */
export function findPasswordFile(
  delivery: PasswordDelivery,
  reporter: Pick<Reporter, "notice">,
): (ServerJsonCopy & { remove: false }) | undefined {
  if (delivery.how === "run" && delivery.copy) return { ...delivery.copy, remove: false };
  if (delivery.how !== "server.json") return undefined;
  reporter.notice(`the plaintext password in ${delivery.path} is replaced as well`);
  return { path: delivery.path, remove: false };
}

/** Returns whether a unit's command line starts this program's `run`, by any path. */
export function startsByRun(commandLine: string): boolean {
  return /(?:^|[\s/=])(?:hivemind-sqlcipher(?:\.[cm]?js)?|cli\/main\.js)["']?(?:\s+\S+)*?\s+run(?:\s|$)/.test(
    commandLine,
  );
}
