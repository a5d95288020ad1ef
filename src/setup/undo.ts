/**
 * `setup --undo`: brings the hub back to the database that it had, with the clients of now.
 *
 * The encrypted store is kept: in a last backup, and aside where the hub does not use its file.
 */
import { rm } from "node:fs/promises";
import { basename, dirname, join } from "node:path";
import { backup } from "../backup/backup.js";
import { loadSection } from "../config/settings.js";
import { jsonFiles } from "../databases/json.js";
import { sqlcipherPluginName } from "../databases/sqlite.js";
import { isKind, StoreError } from "../errors.js";
import { makeDirectory, moveFile, syncDirectory } from "../fs/atomic.js";
import { copyFile } from "../fs/copy.js";
import { lstatIfExists } from "../fs/read.js";
import { readServerJson, serverJsonPath } from "../hub/server-json.js";
import { restoreDatabase, setPassword } from "../hub/server-json-edit.js";
import { formatSource } from "../keys/source.js";
import { unlock, unlockStore } from "../keys/unlock.js";
import { type Endpoint, migrate } from "../migrate/migrate.js";
import { acquireLock } from "../operation/lock.js";
import { emitStep } from "../operation/step.js";
import { withOperation } from "../recovery/recover.js";
import { removeSchedule } from "../service/schedule.js";
import type { ServiceChoice } from "../service/select.js";
import { identify } from "../store/cipher.js";
import { installDropIn, removeDropIn } from "./drop-in.js";
import { surveyHubs } from "./hub-survey.js";
import { decryptStore } from "./plain-store.js";
import type { PlanStep } from "./plan.js";
import {
  isHandedOver,
  readSetupRecord,
  removeSetupRecord,
  type SetupRecord,
  setupRecordPath,
  writeSetupRecord,
} from "./record.js";
import type { Outage } from "./serving.js";
import type { SetupRequest } from "./set-up.js";
import { whileStopped } from "./window.js";

export interface UndoResult {
  readonly changed: boolean;
  readonly unit: string | null;
  /** The database that the hub uses now. */
  readonly database: string | null;
  /** Where the encrypted store is kept. */
  readonly kept: { readonly backup: string | null; readonly store: string | null };
  readonly outage: Outage | null;
}

export interface UndoPlan {
  readonly steps: readonly PlanStep[];
  readonly record: SetupRecord | undefined;
}

/** Returns what an undo would do. Changes nothing. */
export async function planUndo(request: SetupRequest): Promise<UndoPlan> {
  const record = await readSetupRecord(request.settingsPath, request.storePath);
  if (record === undefined) return { steps: [], record };
  const { unit, database, drop_in: dropIn } = record;
  const step = (id: PlanStep["id"], changes: string): PlanStep => ({
    ...{ id, state: "needed", changes, undo: "run setup again" },
  });
  const back = {
    json: `write ${database.place} with the clients of the encrypted store, in plain text, and move the store aside`,
    sqlite: `convert ${database.place} to plain SQLite`,
    sqlcipher: `write the password into ${serverJsonPath()}, in plain text`,
  };
  return {
    record,
    steps: [
      step("backup", "make a last encrypted backup"),
      step("store", back[database.kind]),
      ...(database.kind === "json"
        ? [step("server.json", `let ${serverJsonPath()} name the former database`)]
        : []),
      step("drop-in", `remove ${dropIn}`),
      step("restart", `restart ${unit.name}`),
      step("schedule", "remove the timer"),
    ],
  };
}

/**
 * Undoes a setup. Killed anywhere, the hub runs, and the same command goes on.
 *
 * @throws {@link StoreError} of every kind
 */
export async function undoSetup(request: SetupRequest, found: SetupRecord): Promise<UndoResult> {
  const { storePath, settingsPath, reporter } = request;
  await using _ = await acquireLock(setupRecordPath(settingsPath, storePath));
  const { format: __, version: ___, ...rest } = found;
  const wasHandedOver = await isHandedOver(storePath);
  const last = wasHandedOver ? await backUp(request, found) : null;
  const record = await writeSetupRecord(settingsPath, { ...rest, phase: "undoing" });
  emitStep("undo.recorded");
  const former = { json: undoJson, sqlite: undoSqlite, sqlcipher: undoSqlcipher };
  const work = await former[record.database.kind](request, record);
  const { kept, outage } = await withOperation(storePath, reporter, async (lock) => {
    let store: string | null = null;
    const away = await whileStopped({
      lock,
      service: serviceOf(request, record),
      recoveryCommand: request.recoveryCommand,
      reporter,
      signal: request.signal,
      work: async () => {
        store = await work();
        await removeDropIn(record.unit.manager, record.drop_in);
        emitStep("undo.drop-in");
      },
      putBack: () => putBack(request, record),
      isServing: async () => true,
      mayBeStopped: true,
    });
    return { kept: store, outage: away };
  });
  await removeTimer(storePath);
  emitStep("undo.schedule");
  await removeSetupRecord(settingsPath, storePath);
  const { unit, database } = record;
  return {
    ...{ changed: true, unit: unit.name, database: database.place, outage },
    kept: { backup: last, store: kept },
  };
}

function serviceOf({ storePath }: SetupRequest, { unit }: SetupRecord): ServiceChoice {
  return { service: unit.manager, unit: unit.name.replace(/\.service$/, ""), storePath };
}

async function backUp(request: SetupRequest, record: SetupRecord): Promise<string | null> {
  const { storePath, source, section, recoveryCommand, signal, reporter } = request;
  const { backup: directories, recipients = [] } = (await loadSection(section)) ?? {};
  const { to, bundle_to: bundleTo } = directories ?? {};
  if (to === undefined || bundleTo === undefined) {
    throw new StoreError("usage", "the settings name no directories for a last backup", {
      hint: "Make one: hivemind-sqlcipher backup --to DIRECTORY --bundle-to OTHER-DIRECTORY.",
    });
  }
  const made = await withOperation(storePath, reporter, (lock) =>
    backup({
      ...{ lock, source, to, bundleTo, knownDirectories: [to, bundleTo], recipients },
      // The hub is restarted once, when it is handed back.
      ...{ service: serviceOf(request, record), online: true },
      ...{ recoveryCommand, signal, reporter },
    }),
  );
  emitStep("undo.backed-up");
  return made.backup.path;
}

/** Work while the hub is stopped. @returns where the encrypted store is kept, or null */
type Work = () => Promise<string | null>;

async function undoJson(request: SetupRequest, record: SetupRecord): Promise<Work> {
  const { storePath, source } = request;
  const { database } = record;
  return async () => {
    if (await isHandedOver(storePath)) {
      await writeJson(request, database.place, database.module ?? "hivemind-json-db-plugin");
      emitStep("undo.copied");
      await restoreDatabase(serverJsonPath(), database);
      emitStep("undo.switched");
    }
    if ((await identify(storePath)).format !== "sqlcipher") return null;
    // The last connection that closes writes the log into the file.
    await (await unlockStore(storePath, source, { mode: "readwrite" })).close();
    const time = new Date()
      .toISOString()
      .replace(/\.\d+Z$/, "Z")
      .replaceAll(":", "-");
    const aside = `${storePath}.undone.${time}`;
    await moveFile(storePath, aside);
    await syncDirectory(dirname(storePath));
    emitStep("undo.moved");
    return aside;
  };
}

/** Writes the JSON database under another name, and renames it when it is complete. */
async function writeJson(
  { storePath, source, signal }: SetupRequest,
  place: string,
  module: string,
): Promise<void> {
  const { settings } = await readServerJson(serverJsonPath());
  const block = (settings.database as Record<string, unknown> | undefined)?.[module];
  const config = (block ?? {}) as Endpoint["config"];
  const former = await jsonFiles(config);
  const directory = join(dirname(place), ".hivemind-sqlcipher-undo");
  await rm(directory, { recursive: true, force: true });
  await makeDirectory(directory);
  const staged = { ...config, subfolder: directory };
  const files = await jsonFiles(staged);
  if (await lstatIfExists(former.version)) await copyFile(former.version, files.version);
  const from = {
    name: sqlcipherPluginName,
    config: { db_path: storePath, password_source: formatSource(source) },
  };
  await migrate({ from, to: { name: module, config: staged }, signal });
  await moveFile(files.store, join(dirname(place), basename(former.store)));
  await syncDirectory(dirname(place));
  await rm(directory, { recursive: true, force: true });
}

/** Converts the store before the window: the operation stops and starts the hub itself. */
async function undoSqlite(request: SetupRequest, record: SetupRecord): Promise<Work> {
  if ((await identify(request.storePath)).format === "sqlcipher") {
    await decryptStore(request, serviceOf(request, record));
    emitStep("undo.decrypted");
  }
  return async () => null;
}

async function undoSqlcipher({ storePath, source }: SetupRequest): Promise<Work> {
  const { connection, passphrase } = await unlock(storePath, source, { mode: "readwrite" });
  await connection.close();
  return async () => {
    await setPassword(serverJsonPath(), passphrase);
    emitStep("undo.switched");
    return null;
  };
}

/** Lets the unit start through `run` again, on whichever database `server.json` names. */
async function putBack(request: SetupRequest, record: SetupRecord): Promise<undefined> {
  const { manager } = record.unit;
  const [hub] = await surveyHubs({ ...request, unit: record.unit.name, manager }, record.unit);
  if (hub === undefined || hub.startsByRun) return undefined;
  const run = request.ownCommand("run");
  await installDropIn(manager, record.drop_in, { run, hub: hub.command });
  return undefined;
}

async function removeTimer(storePath: string): Promise<void> {
  try {
    await removeSchedule(storePath);
  } catch (error) {
    if (!isKind(error, "notFound")) throw error;
  }
}
