/** Inspects everything that a setup depends on, and changes nothing. */

import { dirname, join } from "node:path";
import { listBackups } from "../backup/listing.js";
import { findLastRestoreTests } from "../backup/restore-test.js";
import { listBundleFiles } from "../bundle/bundle.js";
import { isJsonObject } from "../client/json.js";
import { hubAccount, hubContainer, toMachine } from "../config/hub-account.js";
import type { Settings, SettingsSection } from "../config/settings-file.js";
import { isKind, StoreError } from "../errors.js";
import { assertFreeSpace } from "../fs/copy.js";
import { lstatIfExists, statIfExists } from "../fs/read.js";
import { isRoot } from "../fs/user.js";
import { currentAccount, findSystemUnitAccount } from "../hub/account.js";
import { findContainerOfService, findContainerPython } from "../hub/container-hub.js";
import { findHubPython, type HubPython } from "../hub/interpreter.js";
import { completesServerJson } from "../hub/probe.js";
import { readServerJson, type ServerJson, serverJsonPath } from "../hub/server-json.js";
import { inspectKeyring } from "../keys/inspect.js";
import { readFirstPassphrase } from "../keys/rotation-plan.js";
import { findSealingScope } from "../keys/sealed.js";
import { type PassphraseSource, readPassphrases } from "../keys/source.js";
import { Journal } from "../operation/journal.js";
import { inspectBoot, keyringUnitCommands } from "../service/boot.js";
import { lingerCommand } from "../service/linger.js";
import { assertSchedulable } from "../service/schedule.js";
import {
  readSchedule,
  resolveBackupTimes,
  type Schedule,
  scheduledCommand,
} from "../service/schedule-state.js";
import { type Manager, sudoPrefix } from "../service/systemctl.js";
import { type CipherCompatibility, identify, openEncrypted } from "../store/cipher.js";
import { type ContainerSurvey, surveyContainer } from "./container.js";
import { type DatabaseSurvey, surveyDatabase } from "./database-survey.js";
import { chooseDirectories, type Directories } from "./directories.js";
import { findExistingAncestor, isReplaceable } from "./files.js";
import { findOtherHub, type HubSurvey, surveyHubs } from "./hub-survey.js";
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
  const configHome = dirname(dirname(hub.pathInside));
  const container = await findContainerOfService(hub.unit);
  return {
    name: hub.name,
    packageList: toMachine(hub.mounts, join(configHome, "hivemind", "hivemind.list")),
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
