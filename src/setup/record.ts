/**
 * The record of a setup: what `setup` changed, with enough to undo it.
 *
 * It is kept next to the settings file, one for each store, and holds no secret. Until it says
 * `complete`, the unit's drop-in starts the hub on whichever database `server.json` names, so the
 * hub starts at every instant of a setup, also after a power failure.
 */
import { readFile } from "node:fs/promises";
import { dirname, join } from "node:path";
import { hasCode, StoreError, systemError } from "../errors.js";
import { makeDirectory, removeFile, replaceFile, syncDirectory } from "../fs/atomic.js";
import { sha256Hex } from "../fs/read.js";
import { namedStore, readServerJson, serverJsonPath } from "../hub/server-json.js";
import * as z from "../schema.js";
import { identify } from "../store/cipher.js";

const format = "hivemind-sqlcipher setup";

const recordSchema = z.strictObject({
  format: z.literal(format),
  version: z.literal(1),
  /** The store's resolved path. */
  store: z.string(),
  phase: z.enum(["setting-up", "complete", "undoing"]),
  started_at: z.iso.datetime(),
  unit: z.strictObject({ manager: z.enum(["systemd-user", "systemd"]), name: z.string() }),
  /** The drop-in that setup wrote. */
  drop_in: z.string(),
  /** What the hub used before. */
  database: z.strictObject({
    kind: z.enum(["json", "sqlite", "sqlcipher"]),
    /** The file of the database. */
    place: z.string(),
    /** `database` in `server.json` without secrets: its module, and the SQLite block as JSON. */
    module: z.nullable(z.string()),
    sqlite_block: z.nullable(z.string()),
    /** Whether `server.json` had a block `database` at all. */
    had_block: z.boolean(),
    /** The checksum of a JSON database when it was copied. */
    checksum: z.optional(z.string()),
  }),
  /** The file that the recovery key was or is being written to. */
  recovery_key_file: z.nullable(z.string()),
});

export type SetupRecord = z.infer<typeof recordSchema>;

export type NewSetupRecord = Omit<SetupRecord, "format" | "version">;

/** Returns the path of a store's record. */
export function setupRecordPath(settingsPath: string, storePath: string): string {
  const name = `setup-${sha256Hex(storePath).slice(0, 8)}.json`;
  return join(dirname(settingsPath), name);
}

/**
 * Reads the record of a store's setup; returns undefined if there is none.
 *
 * @throws {@link StoreError} corrupted - if the file is not a record of this version
 */
export async function readSetupRecord(
  settingsPath: string,
  storePath: string,
): Promise<SetupRecord | undefined> {
  const path = setupRecordPath(settingsPath, storePath);
  let text: string;
  try {
    text = await readFile(path, "utf8");
  } catch (error) {
    if (hasCode(error, "ENOENT", "ENOTDIR")) return undefined;
    throw systemError(error, `cannot read ${path}`);
  }
  try {
    return recordSchema.parse(JSON.parse(text));
  } catch (error) {
    throw new StoreError("corrupted", `${path} is not a record of a setup`, {
      hint: "Move it away; setup --undo is not possible then.",
      cause: error,
    });
  }
}

/** Writes and syncs the record. */
export async function writeSetupRecord(
  settingsPath: string,
  record: NewSetupRecord,
): Promise<SetupRecord> {
  const path = setupRecordPath(settingsPath, record.store);
  const whole = recordSchema.parse({ format, version: 1, ...record });
  await makeDirectory(dirname(path));
  await replaceFile(path, `${JSON.stringify(whole, undefined, 2)}\n`);
  return whole;
}

export async function removeSetupRecord(settingsPath: string, storePath: string): Promise<void> {
  const path = setupRecordPath(settingsPath, storePath);
  await removeFile(path);
  await syncDirectory(dirname(path));
}

/**
 * Returns whether a hub that `run` starts is to be started as its unit did before, without a
 * passphrase: setup or its undo is in progress, and `server.json` still names the other database,
 * or the store still has its password there, or is not encrypted.
 */
export async function startsUnchanged(settingsPath: string, storePath: string): Promise<boolean> {
  const record = await readSetupRecord(settingsPath, storePath).catch(() => undefined);
  if (record === undefined || record.phase === "complete") return false;
  return !(await isHandedOver(storePath));
}

/**
 * Checks that no hub opens the store by `server.json`, before its clients or its file are removed.
 *
 * @throws {@link StoreError} refused - if `server.json` names the store, with or without a password
 */
export async function assertNotNamed(storePath: string): Promise<void> {
  const path = serverJsonPath();
  if ((await namedStore(await readServerJson(path))).storePath !== storePath) return;
  throw new StoreError("refused", `${path} names ${storePath}, so a hub may use the store`, {
    hint: "Nothing was removed. Run setup again, which looks at the hub again.",
  });
}

/** Returns whether by `server.json` the hub opens this store, encrypted and without a password. */
export async function isHandedOver(storePath: string): Promise<boolean> {
  const named = await namedStore(await readServerJson(serverJsonPath()));
  if (named.storePath !== storePath || named.passwordSet) return false;
  return (await identify(storePath)).format === "sqlcipher";
}
