/** Returns the hub to its former database, for `setup --undo`. */
import { basename, dirname, join } from "node:path";
import { toHub } from "../config/hub-account.js";
import { jsonFiles, jsonPluginName } from "../databases/json.js";
import type { Endpoint } from "../databases/plugin.js";
import { StoreError } from "../errors.js";
import {
  assertReplaceable,
  moveFile,
  removeFile,
  replacedName,
  syncDirectory,
} from "../fs/atomic.js";
import { copyFile } from "../fs/copy.js";
import { copyMetadata } from "../fs/metadata.js";
import { lstatIfExists, sha256File, statIfExists } from "../fs/read.js";
import { currentAccount } from "../hub/account.js";
import { readServerJson, serverJsonPath } from "../hub/server-json.js";
import {
  removePassword,
  restoreDatabase,
  setPassword,
  switchModule,
} from "../hub/server-json-edit.js";
import { openWithSource, unlockSecret } from "../keys/unlock.js";
import { copyDatabase } from "../migrate/copy-database.js";
import { resolveHubDatabase } from "../migrate/hub-database.js";
import { assertNoHolders } from "../operation/service.js";
import { emitStep } from "../operation/step.js";
import { makeDirectoryAs, removeDirectoryAs } from "../process/directories.js";
import { withOperation } from "../recovery/recover.js";
import { identify } from "../store/cipher.js";
import { isHandedOver, type SetupRecord, updateSetupRecord } from "./record.js";
import { choiceOfUnit, type SetupRequest } from "./request.js";
import { decryptStore, encryptedStore } from "./store.js";

/** The parts of an undo that depend on the former database. */
export interface UndoStrategy {
  /** Removes the leftovers of a killed undo, and checks in advance what can fail. */
  check?(): Promise<void>;
  /** Runs before the hub is stopped for `work`. */
  beforeStop?(): Promise<void>;
  /** Returns whether the hub still uses the encrypted store. */
  isPending(): Promise<boolean>;
  /** Returns the hub to its former database while it is stopped. */
  work?(): Promise<void>;
  /**
   * Returns the hub to the encrypted store, if it does not work on its former database.
   *
   * @returns the state, for the error message; undefined if nothing was changed
   */
  revert?(): Promise<string | undefined>;
  /**
   * Moves the encrypted store away, which no hub uses any more.
   *
   * @returns its new path; null if it was moved earlier
   */
  afterStart?(): Promise<string | null>;
}

export function chooseUndoStrategy(request: SetupRequest, record: SetupRecord): UndoStrategy {
  const kinds = { json: undoJson, sqlite: undoSqlite, sqlcipher: undoSqlcipher };
  return kinds[record.database.kind](request, record);
}

/** Converts the store in place, by an operation that stops and starts the hub itself. */
function undoSqlite(request: SetupRequest, { unit }: SetupRecord): UndoStrategy {
  const { storePath } = request;
  const isEncrypted = async () => (await identify(storePath)).format === "sqlcipher";
  return {
    beforeStop: async () => {
      if (!(await isEncrypted())) return;
      await decryptStore(request, choiceOfUnit(storePath, unit));
      emitStep("undo.decrypted");
    },
    isPending: isEncrypted,
  };
}

/** Writes the password into `server.json` again. */
function undoSqlcipher(request: SetupRequest): UndoStrategy {
  const { storePath } = request;
  const path = serverJsonPath();
  let isWritten = false;
  return {
    check: async () => assertReplaceable((await readServerJson(path)).file),
    isPending: () => isHandedOver(storePath),
    work: async () => {
      const { passphrase } = await unlockSecret(storePath, request.source);
      isWritten = true;
      await setPassword(path, passphrase);
      emitStep("undo.switched");
    },
    revert: async () => {
      if (!isWritten) return undefined;
      await removePassword(path);
      return "the hub gets its passphrase from run again";
    },
  };
}

/** Writes the JSON database again, and names it in `server.json`. */
function undoJson(request: SetupRequest, record: SetupRecord): UndoStrategy {
  const { storePath, signal } = request;
  const { database } = record;
  const path = serverJsonPath();
  let isSwitched = false;
  return {
    check: async () => {
      await removeDirectoryAs(currentAccount(), stagingDirectory(database.place));
      if (!(await isHandedOver(storePath))) return;
      await assertReplaceable((await readServerJson(path)).file);
      await assertReplaceable(database.place);
      const to = { name: jsonModule(record), config: await readStagedConfig(record) };
      await copyDatabase({ from: encryptedStore(request), to, dryRun: true, signal });
    },
    isPending: () => isHandedOver(storePath),
    work: async () => {
      if (!(await isHandedOver(storePath))) return;
      await moveChangedAside(request, record);
      await writeJson(request, record);
      emitStep("undo.copied");
      isSwitched = true;
      await restoreDatabase(path, database);
      emitStep("undo.switched");
    },
    revert: async () => {
      if (!isSwitched) return undefined;
      const { module, settings } = resolveHubDatabase(encryptedStore(request));
      await switchModule(path, module, settings);
      await removeFile(database.place);
      return "the hub uses the encrypted store again";
    },
    afterStart: () => moveStoreAside(request),
  };
}

function jsonModule({ database }: SetupRecord): string {
  return database.module ?? jsonPluginName;
}

/** The directory in which the JSON database is written: on its disk, so that it can be renamed. */
const stagingDirectory = (place: string) => join(dirname(place), ".hivemind-sqlcipher-undo");

/** Returns the settings of the JSON database in `server.json`. */
async function readJsonConfig(record: SetupRecord): Promise<Endpoint["config"]> {
  const { settings } = await readServerJson(serverJsonPath());
  const block = (settings.database as Record<string, unknown> | undefined)?.[jsonModule(record)];
  return (block ?? {}) as Endpoint["config"];
}

async function readStagedConfig(record: SetupRecord): Promise<Endpoint["config"]> {
  const directory = stagingDirectory(record.database.place);
  return { ...(await readJsonConfig(record)), subfolder: toHub(directory) ?? directory };
}

/** Moves away a JSON database that has changed since it was copied: the store lacks the change. */
async function moveChangedAside(
  { reporter }: SetupRequest,
  { database: { place, checksum } }: SetupRecord,
): Promise<void> {
  if (!(await lstatIfExists(place)) || (await sha256File(place)) === checksum) return;
  const kept = await replacedName(place, "changed");
  await moveFile(place, kept);
  await syncDirectory(dirname(place));
  reporter.notice(
    `${place} was changed after setup had copied it; it is now ${kept}, with its keys in plain text`,
  );
}

/** Writes the JSON database under another name, and renames it when it is complete. */
async function writeJson(request: SetupRequest, record: SetupRecord): Promise<void> {
  const { settingsPath, storePath, signal } = request;
  const { place } = record.database;
  const directory = stagingDirectory(place);
  const config = await readStagedConfig(record);
  const former = await jsonFiles(await readJsonConfig(record));
  const staged = await jsonFiles(config);
  try {
    await makeDirectoryAs(currentAccount(), directory);
    if (await lstatIfExists(former.version)) await copyFile(former.version, staged.version);
    const to = { name: jsonModule(record), config };
    await copyDatabase({ from: encryptedStore(request), to, signal });
    // By this checksum, the next undo recognizes the file as its own, and overwrites it.
    const checksum = await sha256File(staged.store);
    await updateSetupRecord(settingsPath, storePath, ({ database }) => ({
      database: { ...database, checksum },
    }));
    await copyMetadata(place, staged.store);
    await moveFile(staged.store, join(dirname(place), basename(former.store)));
    await syncDirectory(dirname(place));
  } finally {
    // It has the clients' keys in plain text.
    await removeDirectoryAs(currentAccount(), directory);
  }
}

async function moveStoreAside({
  storePath,
  source,
  reporter,
}: SetupRequest): Promise<string | null> {
  return withOperation(storePath, reporter, async () => {
    if ((await identify(storePath)).format !== "sqlcipher") return null;
    // The last connection that closes writes the log into the file.
    await (await openWithSource(storePath, source, { mode: "readwrite" })).close();
    await assertNoHolders(storePath);
    if (((await statIfExists(`${storePath}-wal`))?.size ?? 0) > 0) {
      throw new StoreError("inUse", `${storePath}-wal is not empty: the store is in use`, {
        hint: "End the program that uses the store, then run setup --undo again.",
      });
    }
    const kept = await replacedName(storePath, "undone");
    await moveFile(storePath, kept);
    await syncDirectory(dirname(storePath));
    emitStep("undo.moved");
    return kept;
  });
}
