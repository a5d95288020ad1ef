/** Inspects everything that a setup depends on, and changes nothing. */
import { dirname, join } from "node:path";
import { listBackups } from "../backup/listing.js";
import { findLastRestoreTests } from "../backup/restore-test.js";
import { listBundleFiles } from "../bundle/bundle.js";
import { isRevoked } from "../client/client.js";
import { isJsonObject } from "../client/json.js";
import { hubAccount, hubContainer, toHub, toMachine } from "../config/hub-account.js";
import type { Settings, SettingsSection } from "../config/settings-file.js";
import { jsonFiles, jsonPluginName } from "../databases/json.js";
import { DatabaseFactory } from "../databases/registry.js";
import { isKind, StoreError } from "../errors.js";
import { assertFreeSpace } from "../fs/copy.js";
import { lstatIfExists, statIfExists } from "../fs/read.js";
import { isRoot } from "../fs/user.js";
import { currentAccount, findSystemUnitAccount } from "../hub/account.js";
import {
  findContainerOfService,
  findContainerPython,
  findHubContainers,
} from "../hub/container-hub.js";
import { findAllHubProcesses, findHubProcesses } from "../hub/find-hubs.js";
import { findHubPython, type HubPython } from "../hub/interpreter.js";
import { completesServerJson } from "../hub/probe.js";
import { hasBlacklist } from "../hub/schema.js";
import {
  databaseIn,
  namedStore,
  passwordIn,
  readServerJson,
  type ServerJson,
  serverJsonPath,
  sqliteModule,
} from "../hub/server-json.js";
import { inspectKeyring } from "../keys/inspect.js";
import { readFirstPassphrase } from "../keys/rotation-plan.js";
import { findSealingScope } from "../keys/sealed.js";
import { type PassphraseSource, readPassphrases } from "../keys/source.js";
import { Journal } from "../operation/journal.js";
import { inspectBoot, keyringUnitCommands } from "../service/boot.js";
import { findContainerOf } from "../service/find-container.js";
import { isInContainer } from "../service/origin.js";
import {
  assertSchedulable,
  lingerCommand,
  readSchedule,
  resolveBackupTimes,
  type Schedule,
  scheduledCommand,
} from "../service/schedule.js";
import { type Manager, sudoPrefix } from "../service/systemctl.js";
import { type CipherCompatibility, identify, openEncrypted } from "../store/cipher.js";
import { type ContainerSurvey, surveyContainer } from "./container.js";
import { chooseDirectories, type Directories } from "./directories.js";
import { findExistingAncestor, isReplaceable, readSize } from "./files.js";
import { type HubSurvey, surveyHubs } from "./hub-survey.js";
import { type PackagesSurvey, surveyPackages } from "./packages.js";
import { findProblem, type Problem, toProblem } from "./problem.js";
import { isHandedOver, readSetupRecord, type SetupRecord } from "./record.js";

/** The choices from the command line, the environment and the settings. */
export interface SetupChoice {
  readonly storePath: string;
  readonly settings: Settings;
  readonly settingsPath: string;
  readonly section: SettingsSection;
  readonly source: PassphraseSource;
  readonly unit: string | undefined;
  readonly manager: Manager | undefined;
  readonly hubPython: string | undefined;
  readonly to: string | undefined;
  readonly bundleTo: string | undefined;
  /** Whether the hub must start after a reboot without a login. */
  readonly isHeadless: boolean;
}

/** The database that the hub uses now. */
export interface DatabaseSurvey {
  /** `sqlite` is not encrypted, `sqlcipher` is. */
  readonly kind: "json" | "sqlite" | "sqlcipher" | "other" | "absent";
  readonly module: string;
  /** The file; the module for `other`. */
  readonly place: string;
  /**
   * The number of clients that are not revoked, of a JSON database. Undefined for SQLite: opening
   * the store could create files next to it.
   */
  readonly clientCount: number | undefined;
  /** Whether a client has a blacklist; undefined where `clientCount` is. */
  readonly hasBlacklists: boolean | undefined;
  /** Bytes. */
  readonly size: number;
  /** Whether `server.json` has a password for it. */
  readonly hasPassword: boolean;
  readonly problem: Problem | undefined;
}

export interface ServerJsonSurvey {
  readonly path: string;
  readonly problem: Problem | undefined;
  /** Whether it can be replaced. */
  readonly isWritable: boolean;
  /** Whether the hub would complete the file at its start. Under `run`, the file is read-only. */
  readonly isIncomplete: boolean;
}

/** The container of a quadlet or a compose file, which setup can change. */
export interface HubContainerSurvey {
  readonly name: string;
  /**
   * The file on this machine with the packages that an image of HiveMind installs when it starts;
   * undefined if it is on no volume.
   */
  readonly packageList: string | undefined;
  /** The names of the engine's secrets in it. */
  readonly secrets: readonly string[];
}

export interface BootProblem {
  readonly problem: string;
  /** The commands that solve it. */
  readonly fixes: readonly string[];
}

/** The findings of a survey. They contain no secret. */
export interface Survey {
  readonly storePath: string;
  readonly settingsPath: string;
  readonly record: SetupRecord | undefined;
  /** The units that may be the hub: none, one or several. */
  readonly hubs: readonly HubSurvey[];
  /** The unit that the user or the settings name. */
  readonly wantedUnit: string | undefined;
  /** A hub without a unit of this user. */
  readonly otherHub: Problem | undefined;
  /** A hub in a container, if no unit starts one. */
  readonly container: ContainerSurvey | undefined;
  readonly packages: PackagesSurvey | undefined;
  /** Undefined if setup does not work on the hub of a container. */
  readonly hubContainer?: HubContainerSurvey | undefined;
  readonly server: ServerJsonSurvey;
  readonly database: DatabaseSurvey | undefined;
  /** The format of the file at the store's path. */
  readonly store: "absent" | "plaintext" | "sqlcipher" | "unknown";
  /** Whether a setup in progress has made the store, for the clients of a JSON database. */
  readonly hasOwnStore: boolean;
  /** The SQLCipher format of such a store until the hub uses it; undefined if it is not known. */
  readonly ownStoreFormat: CipherCompatibility | undefined;
  /** Whether the JSON database that setup copied still exists. */
  readonly hasPlainCopy: boolean;
  /** Whether a bundle for the encrypted store exists. */
  readonly hasBundle: boolean;
  /** Whether `server.json` names the encrypted store without a password. */
  readonly isHandedOver: boolean;
  /** Why the source of the passphrase cannot be used. */
  readonly keysProblem: Problem | undefined;
  readonly source: PassphraseSource;
  readonly isRoot: boolean;
  /** Why root must not change the files of the hub. */
  readonly ownerProblem: string | undefined;
  /** Why the hub could not read its passphrase after a reboot. */
  readonly boot: BootProblem | undefined;
  readonly recipients: readonly string[];
  readonly directories: Directories;
  /** Why the free space does not suffice or cannot be determined. */
  readonly spaceProblem: Problem | undefined;
  /** The operation that was interrupted or is in progress. */
  readonly operation: string | undefined;
  readonly schedule: Schedule | undefined;
  /** The command line in the service of the timer. */
  readonly installedCommand: string | undefined;
  /** Why no timer can be installed. */
  readonly scheduleProblem: string | undefined;
  /** The newest backup of the store as it is encrypted now, with its bundle. */
  readonly lastBackup: { readonly path: string; readonly bundle: string } | undefined;
  /** Whether a backup with the store's key was opened with its bundle. */
  readonly isRestoreTested: boolean;
}

/** Inspects everything. Problems are in the result; only an unexpected error is thrown. */
export async function survey(choice: SetupChoice): Promise<Survey> {
  const { storePath, settingsPath, source, settings } = choice;
  const record = await readSetupRecord(settingsPath, storePath);
  const hubs = await surveyHubs(choice, record?.unit);
  const [hub, ...others] = hubs;
  const only = others.length === 0 ? hub : undefined;
  const python = await findPython(choice, only);
  const account =
    isRoot() && only?.systemUser !== undefined
      ? await findSystemUnitAccount(only.name)
      : currentAccount();
  const { file, problem } = await readServerJsonIfValid();
  const identity = await identify(storePath);
  const database = file && (await surveyDatabase(file, storePath));
  const directories = await chooseDirectories(choice);
  const hasOwnStore = record?.database.kind === "json" && record.phase === "setting-up";
  const isUsed = file !== undefined && (await isHandedOver(storePath));
  const bundles = identity.keyId
    ? await listBundleFiles(directories.bundles, identity.keyId).catch(() => [])
    : [];
  return {
    storePath,
    settingsPath,
    record,
    hubs,
    wantedUnit: choice.unit,
    otherHub: hub === undefined ? await findOtherHub() : undefined,
    container: hub === undefined ? await surveyContainer(storePath, choice.unit) : undefined,
    packages: python && (await surveyPackages(python, account)),
    hubContainer: await surveyHubContainer(),
    server: {
      path: serverJsonPath(),
      problem,
      isWritable: file !== undefined && (await isReplaceable(file.file)),
      isIncomplete:
        file !== undefined &&
        python !== undefined &&
        !isJsonObject(file.settings.network_protocol) &&
        (await completesServerJson(python, account).catch(() => false)),
    },
    database,
    store: identity.format,
    hasOwnStore,
    ownStoreFormat: hasOwnStore && !isUsed ? await findStoreFormat(choice) : undefined,
    hasPlainCopy:
      record?.database.kind === "json" &&
      (await lstatIfExists(record.database.place)) !== undefined,
    hasBundle: bundles.length > 0,
    isHandedOver: isUsed,
    keysProblem: await findKeysProblem(source, storePath, isUsed),
    source,
    isRoot: isRoot(),
    ownerProblem: await findOwnerProblem([file?.file, dirname(storePath), database?.place]),
    boot: await findBootProblem(choice, only),
    recipients: settings.recipients ?? [],
    directories,
    spaceProblem: await findSpaceProblem(storePath, directories, database?.size ?? 0),
    operation: (await Journal.read(storePath).catch(() => undefined))?.entry.operation,
    schedule: await readSchedule(storePath, "backup").catch(() => undefined),
    installedCommand: await scheduledCommand(storePath, "backup").catch(() => undefined),
    scheduleProblem: (
      await findProblem(async () => {
        const times = await resolveBackupTimes(storePath);
        await assertSchedulable({ storePath, job: "backup", ...times });
      })
    )?.message,
    lastBackup: await findLastBackup(identity.keyId, directories, choice),
    isRestoreTested: (await findLastRestoreTests(storePath)).withBundle?.key_id === identity.keyId,
  };
}

async function findPython(
  { hubPython }: SetupChoice,
  hub: HubSurvey | undefined,
): Promise<HubPython | undefined> {
  if (hub === undefined && hubPython === undefined) return undefined;
  if (hub !== undefined && hubContainer() !== undefined) {
    const container = await findContainerOfService(hub);
    return container && findContainerPython(container);
  }
  return findHubPython({ hubPython, args: hub?.command });
}

async function surveyHubContainer(): Promise<HubContainerSurvey | undefined> {
  const hub = hubContainer();
  if (hub === undefined) return undefined;
  const configHome = dirname(dirname(hub.inside));
  const container = await findContainerOfService(hub.unit);
  return {
    name: hub.name,
    packageList: toMachine(join(configHome, "hivemind", "hivemind.list")),
    secrets: container?.secrets ?? [],
  };
}

async function readServerJsonIfValid(): Promise<{
  file: ServerJson | undefined;
  problem: Problem | undefined;
}> {
  try {
    return { file: await readServerJson(serverJsonPath()), problem: undefined };
  } catch (error) {
    if (!(error instanceof StoreError)) throw error;
    return { file: undefined, problem: toProblem(error) };
  }
}

async function surveyDatabase(file: ServerJson, storePath: string): Promise<DatabaseSurvey> {
  const { module = jsonPluginName, settings } = databaseIn(file);
  const none = {
    module,
    clientCount: undefined,
    hasBlacklists: undefined,
    size: 0,
    hasPassword: false,
    problem: undefined,
  };
  const problem = findVolumeProblem(storePath);
  if (problem !== undefined) return { ...none, kind: "other", place: module, problem };
  try {
    const hasPassword = passwordIn(file, module) !== undefined;
    if (module === jsonPluginName) {
      const place = (await jsonFiles(settings)).store;
      const counted = await countClients(module, settings);
      return { ...none, ...counted, kind: "json", place, size: await readSize(place), hasPassword };
    }
    if (module === sqliteModule) {
      const { storePath: named } = await namedStore(file);
      if (named !== storePath) {
        const message = `the hub uses ${named ?? "no file"}, not ${storePath}`;
        const hint = "Leave out --db, or correct name and subfolder in server.json.";
        return { ...none, kind: "other", place: module, problem: { message, hint } };
      }
      const { format } = await identify(storePath);
      const kind = format === "plaintext" ? "sqlite" : format === "sqlcipher" ? format : "absent";
      return { ...none, kind, place: storePath, size: await readSize(storePath), hasPassword };
    }
    return { ...none, kind: "other", place: module };
  } catch (error) {
    if (!(error instanceof StoreError)) throw error;
    return { ...none, kind: "other", place: module, problem: toProblem(error) };
  }
}

/** Returns why the hub of a container could not use the store; undefined if it could. */
function findVolumeProblem(storePath: string): Problem | undefined {
  const container = hubContainer();
  if (container === undefined) return undefined;
  const hint = "Mount its directory: docs/guide/containers.md shows how.";
  if (toHub(storePath) === undefined) {
    return { message: `the container ${container.name} has no volume with ${storePath}`, hint };
  }
  if (container.mounts.every(({ source }) => source !== storePath)) return undefined;
  return { message: `the container ${container.name} mounts only the file ${storePath}`, hint };
}

async function countClients(name: string, config: ReturnType<typeof databaseIn>["settings"]) {
  try {
    await using database = await DatabaseFactory.create(name, config, { mode: "readonly" });
    let clientCount = 0;
    let hasBlacklists = false;
    for await (const client of database) {
      if (isRevoked(client)) continue;
      clientCount += 1;
      hasBlacklists ||= hasBlacklist(client);
    }
    return { clientCount, hasBlacklists };
  } catch (error) {
    // A hub without clients has not written the file yet.
    if (isKind(error, "notFound")) return { clientCount: 0, hasBlacklists: false };
    throw error;
  }
}

async function findKeysProblem(
  source: PassphraseSource,
  storePath: string,
  isUsed: boolean,
): Promise<Problem | undefined> {
  if (source.kind === "keyring") {
    const { problem } = await inspectKeyring(storePath);
    return problem && toProblem(problem);
  }
  return findProblem(async () => {
    // Setup will seal a passphrase.
    const isNew = !isUsed && source.kind === "sealed" && !(await lstatIfExists(source.path));
    await (isNew ? findSealingScope() : readFirstPassphrase(source, storePath));
  });
}

/** Returns the SQLCipher format of a store; undefined if no passphrase of the source opens it. */
async function findStoreFormat({
  storePath,
  source,
}: SetupChoice): Promise<CipherCompatibility | undefined> {
  try {
    for await (const { passphrase } of readPassphrases(source, storePath)) {
      const opened = await openEncrypted(storePath, passphrase, { mode: "readonly" }).catch(
        (error: unknown) => {
          if (!isKind(error, "wrongPassphrase")) throw error;
        },
      );
      if (opened === undefined) continue;
      await opened.connection.close();
      return opened.key.cipherCompatibility;
    }
  } catch (error) {
    // The survey reports these errors in `keysProblem` and `store`.
    if (!(error instanceof StoreError)) throw error;
  }
  return undefined;
}

/**
 * Returns why root must not change the files of the hub's user: through a symbolic link, root would
 * change a file of another user.
 */
async function findOwnerProblem(
  paths: readonly (string | undefined)[],
): Promise<string | undefined> {
  const { uid } = hubAccount() ?? {};
  if (uid === undefined || uid === 0) return undefined;
  for (const path of paths) {
    const owner = path?.startsWith("/") ? await statIfExists(path) : undefined;
    if (owner !== undefined && Number(owner.uid) !== uid) {
      return `${path} belongs to user ${owner.uid}, and the hub runs as user ${uid}`;
    }
  }
  return undefined;
}

/** A keyring must be unlocked after a reboot; for a user unit, the user's manager must start. */
async function findBootProblem(
  { source: { kind }, isHeadless }: SetupChoice,
  hub: HubSurvey | undefined,
): Promise<BootProblem | undefined> {
  const isOfUser = kind === "sealed" && hub?.manager === "systemd-user";
  if (kind !== "keyring" && !isOfUser) return undefined;
  const { hasDesktop, lingers, ...boot } = await inspectBoot();
  if (hasDesktop && !isHeadless) return undefined;
  const hasKeyringUnit = boot.hasKeyringUnit || kind !== "keyring";
  const problems = [
    ...(lingers ? [] : [`your systemd does not start at boot (${lingerCommand()})`]),
    ...(hasKeyringUnit ? [] : ["no unit unlocks the keyring (docs/guide/headless.md)"]),
  ];
  if (problems.length === 0) return undefined;
  const fixes = [
    ...(lingers ? [] : [sudoPrefix() + lingerCommand()]),
    ...(hasKeyringUnit ? [] : keyringUnitCommands()),
  ];
  return { problem: problems.join(", and "), fixes };
}

/** Bytes in addition to the size of the database: the new store's overhead, and SQLite's log. */
const spareBytes = 8 << 20;

const spaceHint = "Free some space, or name other directories with --to and --bundle-to.";

async function findSpaceProblem(
  storePath: string,
  { backups, bundles }: Directories,
  size: number,
): Promise<Problem | undefined> {
  return findProblem(async () => {
    for (const [path, needed, what] of [
      [dirname(storePath), 2 * size + spareBytes, "the store"],
      [backups, size + spareBytes, "the first backup"],
      [bundles, 1 << 20, "the bundle"],
    ] as const) {
      await assertFreeSpace(await findExistingAncestor(path), needed, what, spaceHint);
    }
  });
}

async function findLastBackup(
  keyId: string | undefined,
  { backups, bundles }: Directories,
  { storePath, source }: SetupChoice,
): Promise<Survey["lastBackup"]> {
  if (keyId === undefined) return undefined;
  try {
    const options = { folder: backups, storePath, source, bundleFolder: bundles };
    const { backups: found } = await listBackups(options);
    const newest = found.find((each) => each.keyId === keyId && each.present && each.bundle);
    return newest?.bundle ? { path: newest.path, bundle: newest.bundle } : undefined;
  } catch (error) {
    if (error instanceof StoreError) return undefined;
    throw error;
  }
}

/** A hub in a container may use this `server.json` at another path. */
async function findOtherHub(): Promise<Problem | undefined> {
  const [own] = await findHubProcesses(serverJsonPath());
  if (own !== undefined && !isInContainer(own.pid)) {
    return { message: `process ${own.pid} is a hub that no unit of yours starts`, hint: undefined };
  }
  const hub = (await findAllHubProcesses()).find(({ pid }) => isInContainer(pid));
  if (hub === undefined) return undefined;
  const names = (await findHubContainers()).map(({ name }) => name);
  if (names.length > 1) {
    return {
      message: `several containers have a hub: ${names.join(", ")}`,
      hint: `Name one: --unit ${names.join(", or --unit ")}; with --db for the store of a second hub.`,
    };
  }
  const message = `process ${hub.pid} is a hub in a container`;
  const problem = await findProblem(() => findContainerOf(hub.pid));
  return problem
    ? { message: `${message}, but ${problem.message}`, hint: problem.hint }
    : { message, hint: undefined };
}
