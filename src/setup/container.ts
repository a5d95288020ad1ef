/**
 * A hub in a container. For a quadlet, setup writes a drop-in, and for a compose file an override.
 * For any other container it prints the steps, which depend on the present database of the hub.
 */
import { dirname, join } from "node:path";
import { hubContainer, type ManagedContainer } from "../config/hub-account.js";
import { resolveStorePath, unresolvedStorePath } from "../config/paths.js";
import { jsonFiles, jsonPluginName } from "../databases/json.js";
import { isKind } from "../errors.js";
import { statIfExists } from "../fs/read.js";
import { isRoot } from "../fs/user.js";
import { readContainerHub } from "../hub/container-hub.js";
import { startsByRun } from "../hub/password-delivery.js";
import {
  databaseIn,
  namedStore,
  namedStoreInContainer,
  readServerJson,
  sqliteModule,
} from "../hub/server-json.js";
import { resolveSealedPath } from "../keys/reseal.js";
import { findComposeService } from "../service/compose.js";
import { copyUnitOf } from "../service/copy-unit.js";
import {
  type ComposeLabels,
  type Container,
  type ContainerName,
  mountsStore,
} from "../service/engine.js";
import { findHubContainers, findUnitOfContainer } from "../service/find-container.js";
import { findQuadlet, quadletVersion, readsDropIns } from "../service/quadlet.js";
import {
  fullUnitName,
  serviceOptions,
  systemctlLine,
  type UnitName,
} from "../service/systemctl.js";
import { readCommands } from "../service/unit-commands.js";
import { identify } from "../store/cipher.js";
import { shellQuote } from "../text/escape.js";
import { dockerUserLine, findComposeProblem } from "./composed.js";
import type { Directories } from "./directories.js";

export interface ContainerSurvey extends ContainerName {
  readonly database: "sqlite" | "sqlcipher" | "other";
  /** Whether the hub's `server.json` is on a volume. */
  readonly hasServerJson: boolean;
  /** The path of the store on this machine; undefined if it is on no volume. */
  readonly store: string | undefined;
  readonly hasPassword: boolean;
  readonly hasCopy: boolean;
  /** The unit that starts the container. */
  readonly unit: UnitName | undefined;
  /** That unit, if Podman generates it from a quadlet. */
  readonly quadletUnit: UnitName | undefined;
  /** Root's passphrase source, because root has no keyring at boot; undefined for other users. */
  readonly source: string | undefined;
  /** Why setup cannot let the container mount a copy of `server.json`. */
  readonly problem: string | undefined;
}

/**
 * Returns the hub's container: the one with the named unit or of this name, the one that mounts the
 * store, or else the only one with a hub.
 */
async function findContainer(path: string, named?: string): Promise<Container | undefined> {
  const hubs = await findHubContainers();
  const wanted = hubs.find(
    ({ name, unit }) => named !== undefined && (name === named || unit === fullUnitName(named)),
  );
  const own = wanted ?? hubs.find((each) => mountsStore(each, path));
  return own ?? (hubs.length === 1 ? hubs[0] : undefined);
}

/** Returns the hub in a container, if setup can change the quadlet or compose file. */
export async function findContainerHub(
  path: string,
  named: string | undefined,
): Promise<ManagedContainer | undefined> {
  const container = await findContainer(path, named);
  return container && (await inspectContainerHub(container)).hub;
}

interface Inspection {
  /** The unit of a quadlet. */
  readonly unit?: UnitName;
  /** Another unit that starts the container. */
  readonly otherUnit?: UnitName;
  readonly hub?: ManagedContainer;
  readonly problem?: string;
}

/** Returns the hub in a container, or why setup cannot let the container mount a copy. */
async function inspectContainerHub(container: Container): Promise<Inspection> {
  const unit = await findUnitOfContainer(container);
  if (unit !== undefined) return inspectQuadlet(container, unit);
  if (container.compose !== undefined) return inspectCompose(container, container.compose);
  return { problem: `no quadlet or compose file describes it, and ${unmountable}` };
}

const unmountable = "a mount cannot be added to an existing container";

async function inspectQuadlet(container: Container, unit: UnitName): Promise<Inspection> {
  if ((await findQuadlet(unit)) === undefined) {
    return { otherUnit: unit, problem: `no quadlet generates ${unit.name}, and ${unmountable}` };
  }
  const version = await quadletVersion(unit.manager);
  if (!readsDropIns(version) && !(await hasRunCommand(unit))) {
    const problem = `Podman ${version ?? "without a generator"} reads no drop-ins for quadlets; versions since 5.0 do`;
    return { unit, problem };
  }
  return { unit, ...(await readHub(container, { unit }, "UserNS=keep-id:uid=1000,gid=1000")) };
}

/** Returns the hub of a compose file, or why setup cannot let its container mount a copy. */
async function inspectCompose(container: Container, labels: ComposeLabels): Promise<Inspection> {
  const { engine, name } = container;
  try {
    const compose = findComposeService(engine, labels);
    const problem = await findComposeProblem(container, compose);
    if (problem !== undefined) return { problem };
    const mapping =
      engine === "docker"
        ? await dockerUserLine(container)
        : 'userns_mode: "keep-id:uid=1000,gid=1000"';
    return await readHub(container, { unit: { manager: engine, name }, compose }, mapping);
  } catch (error) {
    if (!isKind(error, "refused", "service")) throw error;
    return { problem: error.message };
  }
}

/** Returns the hub with its paths, or why setup cannot change its `server.json`. */
async function readHub(
  container: Container,
  started: Pick<ManagedContainer, "unit" | "compose">,
  mapping: string,
): Promise<Pick<Inspection, "hub" | "problem">> {
  const { pathInside, serverJson, dataHome, mounts } = await readContainerHub(container);
  if (serverJson === undefined) {
    return { problem: `it has no volume with its server.json, ${pathInside}` };
  }
  const other = await findOtherOwner(serverJson);
  if (other !== undefined) {
    return {
      problem: `${serverJson} belongs to user ${other}: map the hub's user to you (${mapping})`,
    };
  }
  const { name } = container;
  return { hub: { name, ...started, serverJson, pathInside, dataHome, mounts } };
}

/** Returns whether a unit, with its drop-ins, starts the hub through `run`. */
export async function hasRunCommand(unit: UnitName): Promise<boolean> {
  return startsByRun((await readCommands(unit)).flatMap(({ args }) => args).join(" "));
}

/**
 * Returns the uid of a file's owner if it is another user than this user. Without a mapping of
 * users, the files of a rootless container belong to a subordinate uid.
 */
async function findOtherOwner(path: string): Promise<number | undefined> {
  const own = process.geteuid?.();
  const owner = (await statIfExists(path))?.uid;
  return own === 0 || owner === own ? undefined : owner;
}

/**
 * Returns the path of the store for the hub in a container: the path in its `server.json`, or that
 * of a new store next to its JSON database; undefined for any other database.
 */
export async function resolveContainerStorePath(): Promise<string | undefined> {
  const hub = hubContainer();
  if (hub === undefined) return undefined;
  const file = await readServerJson(hub.serverJson);
  const { module = jsonPluginName, settings } = databaseIn(file);
  if (module === sqliteModule) return (await namedStore(file)).storePath;
  if (module !== jsonPluginName) return undefined;
  const path = join(dirname((await jsonFiles(settings)).store), "clients.db");
  return resolveStorePath({ path });
}

export async function surveyContainer(
  path: string,
  named: string | undefined,
): Promise<ContainerSurvey | undefined> {
  const container = await findContainer(path, named);
  if (container === undefined) return undefined;
  const { engine, name } = container;
  const hub = await readContainerHub(container);
  const { serverJson, copy } = hub;
  const { unit: quadletUnit, otherUnit, problem } = await inspectContainerHub(container);
  const unit = quadletUnit ?? otherUnit;
  const unknown = {
    engine,
    name,
    hasCopy: copy !== undefined,
    hasServerJson: serverJson !== undefined,
    unit,
    quadletUnit,
    problem,
  } as const;
  const none = { database: "other", store: undefined, hasPassword: false } as const;
  const other = { ...unknown, ...none, source: undefined };
  if (serverJson === undefined) return other;
  try {
    const file = await readServerJson(serverJson);
    if (databaseIn(file).module !== sqliteModule) return other;
    const named = await namedStoreInContainer(file, hub);
    const { storePath: store, passwordSet: hasPassword } = named;
    const isEncrypted = store !== undefined && (await identify(store)).format === "sqlcipher";
    const database = isEncrypted ? "sqlcipher" : "sqlite";
    const isRoots = isRoot() && store !== undefined;
    const source = isRoots ? `sealed:${await resolveSealedPath(store)}` : undefined;
    return { ...unknown, database, store, hasPassword, source };
  } catch (error) {
    if (!isKind(error, "notFound", "io", "refused")) throw error;
    return other;
  }
}

/** Returns the beginning of a command line for a store. */
export function programLineFor(store: string, source: string | undefined): string {
  return [
    "hivemind-sqlcipher",
    ...(store === unresolvedStorePath({}) ? [] : ["--db", shellQuote(store)]),
    ...(source === undefined ? [] : ["--passphrase-source", shellQuote(source)]),
  ].join(" ");
}

/** Returns the steps that encrypt the store of a container, one on a line. */
export function containerSteps(
  container: ContainerSurvey,
  { backups, bundles }: Directories,
): string {
  const { engine, name, database, store, hasPassword, hasCopy, unit, quadletUnit, source } =
    container;
  const guide = "docs/guide/containers.md explains the steps.";
  if (!container.hasServerJson) {
    return `Put its settings onto a volume first: hivemind-sqlcipher doctor names the commands. ${guide}`;
  }
  if (database === "other") {
    return `Let the hub use a SQLite store first (docs/guide/other-databases.md), on a volume. ${guide}`;
  }
  if (store === undefined) {
    return `Put the store onto a volume first: hivemind-sqlcipher doctor names the commands. ${guide}`;
  }
  const own = programLineFor(store, source);
  const service = unit === undefined ? `--service ${engine} --unit ${name}` : serviceOptions(unit);
  const bundleTo = `--bundle-to ${shellQuote(bundles)}`;
  const adopt = `${own} init --adopt ${service} ${bundleTo}`;
  // A copy that is mounted already has the passphrase from its source.
  const isUnknown = database === "sqlcipher" && !hasPassword && !hasCopy;
  const mount = quadletUnit
    ? [
        `${own} run --print-unit quadlet --container ${name}`,
        `Add these lines to the quadlet, then: ${systemctlLine(quadletUnit.manager, "daemon-reload")} && ${systemctlLine(quadletUnit.manager, `restart ${quadletUnit.name}`)}`,
      ]
    : [
        `${own} run --prepare ${shellQuote(copyUnitOf(store).copy)} --container ${name}`,
        `${own} run --print-unit compose --container ${name}`,
        "Enable the unit that this prints, and create the container again with the lines for its compose file.",
      ];
  return [
    `${guide} They are:`,
    `mkdir -p -m 700 ${shellQuote(backups)} ${shellQuote(bundles)}`,
    ...(database === "sqlcipher" && hasPassword ? [adopt] : []),
    ...(isUnknown ? [`${adopt} --passphrase-file FILE`] : []),
    ...(hasCopy ? [] : mount),
    ...(database === "sqlite" ? [`${own} encrypt ${service} ${bundleTo}`] : []),
    ...(database === "sqlcipher" && hasPassword
      ? [`${adopt} --remove-password`, `${own} rotate ${service} ${bundleTo}`]
      : []),
    `${own} backup ${service} --to ${shellQuote(backups)} ${bundleTo}`,
    `${own} schedule install`,
  ].join("\n");
}
