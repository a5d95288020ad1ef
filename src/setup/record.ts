/**
 * The record of a setup: the changes, and everything that an undo needs.
 *
 * Each store has a record, next to the settings file, without secrets. Until its phase is
 * `complete`, the unit's drop-in starts the hub on the database named in `server.json`, so the hub
 * starts at every instant of a setup, also after a power failure.
 */
import { dirname, join } from "node:path";
import { isDeepStrictEqual } from "node:util";
import { hubContainer, workForContainer } from "../config/hub-account.js";
import { StoreError } from "../errors.js";
import { sha256Hex } from "../fs/read.js";
import { readRecord, removeRecord, writeRecord } from "../fs/record-file.js";
import { namedStore, readServerJson, serverJsonPath } from "../hub/server-json.js";
import * as z from "../schema.js";
import { isEngine } from "../service/engine.js";
import { identify } from "../store/cipher.js";

const format = "hivemind-sqlcipher setup";

const recordSchema = z.strictObject({
  format: z.literal(format),
  version: z.literal(1),
  /** The store's resolved path. */
  store: z.string(),
  phase: z.enum(["setting-up", "complete", "undoing"]),
  started_at: z.iso.datetime(),
  /** The unit of the hub, or its container if compose has created it. */
  unit: z.strictObject({
    manager: z.enum(["systemd-user", "systemd", "podman", "docker"]),
    name: z.string(),
  }),
  /** The drop-in that setup wrote, or the override of the compose file. */
  drop_in: z.string(),
  /** The container of a quadlet or compose file. Podman removes that of a quadlet when it stops. */
  container: z.optional(
    z.strictObject({
      name: z.string(),
      server_json: z.string(),
      inside: z.string(),
      data_home: z.string(),
      mounts: z.array(z.strictObject({ source: z.string(), destination: z.string() })),
      compose: z.optional(
        z.strictObject({ project: z.string(), directory: z.string(), service: z.string() }),
      ),
    }),
  ),
  /** The former database of the hub. */
  database: z.strictObject({
    kind: z.enum(["json", "sqlite", "sqlcipher"]),
    /** The file of the database. */
    place: z.string(),
    /** `database` in `server.json` without secrets: its module, and the SQLite block as JSON. */
    module: z.nullable(z.string()),
    sqlite_block: z.nullable(z.string()),
    /** Whether `server.json` had a block `database`. */
    had_block: z.boolean(),
    /** The checksum of a JSON database when it was copied. */
    checksum: z.optional(z.string()),
  }),
  /** The file that the recovery key was or is being written to. */
  recovery_key_file: z.nullable(z.string()),
  /** Whether the JSON database was kept, because it has changed since it was copied. */
  plain_copy_kept: z.optional(z.boolean()),
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
  return readRecord(
    setupRecordPath(settingsPath, storePath),
    (json) => recordSchema.parse(json),
    "a record of a setup",
    "Move it away; setup --undo is not possible then.",
  );
}

/** Lets this process work on the container of a record, if it has one. */
export function workForRecord({ unit, container, drop_in: override }: SetupRecord): void {
  if (container === undefined) return;
  const { name, server_json: serverJson, data_home: dataHome, mounts } = container;
  const { manager: engine } = unit;
  const compose =
    container.compose && isEngine(engine) ? { ...container.compose, engine, override } : undefined;
  const pathInside = container.inside;
  workForContainer({ name, unit, serverJson, pathInside, dataHome, mounts, compose });
}

/** Returns the container that this process works for, as a record has it. */
export function recordedContainer(): Pick<NewSetupRecord, "container"> {
  const container = hubContainer();
  if (container === undefined) return {};
  const { name, serverJson: server_json, dataHome: data_home, mounts } = container;
  const inside = container.pathInside;
  const known = { name, server_json, inside, data_home, mounts: [...mounts] };
  if (container.compose === undefined) return { container: known };
  const { engine: _, override: __, ...compose } = container.compose;
  return { container: { ...known, compose } };
}

/** Writes and syncs the record. */
export async function writeSetupRecord(
  settingsPath: string,
  record: NewSetupRecord,
): Promise<SetupRecord> {
  const whole = recordSchema.parse({ format, version: 1, ...record });
  await writeRecord(setupRecordPath(settingsPath, record.store), whole);
  return whole;
}

/**
 * Changes fields of the record.
 *
 * @throws {@link StoreError} notFound - if the record was removed during the setup
 */
export async function updateSetupRecord(
  settingsPath: string,
  storePath: string,
  change: (record: SetupRecord) => Partial<NewSetupRecord>,
): Promise<SetupRecord> {
  const record = await readSetupRecord(settingsPath, storePath);
  if (record === undefined) {
    const path = setupRecordPath(settingsPath, storePath);
    throw new StoreError("notFound", `no such file: the record of the setup, ${path}`);
  }
  const { format: _, version: __, ...fields } = record;
  return writeSetupRecord(settingsPath, { ...fields, ...change(record) });
}

export async function removeSetupRecord(settingsPath: string, storePath: string): Promise<void> {
  await removeRecord(setupRecordPath(settingsPath, storePath));
}

/**
 * Checks under the record's lock that no other setup or undo has run since the plan was made: the
 * user may confirm it much later.
 *
 * @throws {@link StoreError} refused - if the record differs from that of the plan
 */
export async function assertSameRecord(
  settingsPath: string,
  storePath: string,
  planned: SetupRecord | undefined,
): Promise<void> {
  const record = await readSetupRecord(settingsPath, storePath);
  if (!isDeepStrictEqual(record, planned)) throw outdatedPlanError();
}

export function outdatedPlanError(): StoreError {
  return new StoreError("refused", "the hub was changed since the plan was made", {
    hint: "Run the same command again: it makes a new plan.",
  });
}

/**
 * Returns whether `run` must start the hub without a passphrase, as its unit did before setup.
 *
 * This is the case while setup or its undo is in progress and the hub does not use the encrypted
 * store: `server.json` names the former database or has the password, or the store is not
 * encrypted.
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
    hint: "Run setup again, which inspects the hub again. Nothing was removed.",
  });
}

/**
 * Checks that the hub uses the store as setup, or a killed undo, has left it.
 *
 * @throws {@link StoreError} refused - if undo would remove a store that the hub uses, or convert a
 *   store that the hub does not use
 */
export async function assertUndoable({ store, database }: SetupRecord): Promise<void> {
  const path = serverJsonPath();
  const named = await namedStore(await readServerJson(path));
  const isNamed = named.storePath === store;
  const isEncrypted = (await identify(store)).format === "sqlcipher";
  const problem = {
    json: isNamed && (named.passwordSet || !isEncrypted),
    sqlite: !isNamed || named.passwordSet,
    sqlcipher: !isNamed || !isEncrypted,
  }[database.kind];
  if (!problem) return;
  const how = named.passwordSet
    ? ", with a password"
    : isEncrypted
      ? ""
      : ", which is plain SQLite";
  const what = isNamed ? `names ${store}${how}` : `does not name ${store}`;
  throw new StoreError("refused", `${path} ${what}: the hub was changed since its setup`, {
    hint: isNamed
      ? "Run hivemind-sqlcipher setup, which takes the store over as it is; setup --undo is possible then."
      : "Let server.json name the store again, then run setup --undo.",
  });
}

/**
 * Returns whether `server.json` names this store without a password, and the store is encrypted.
 */
export async function isHandedOver(storePath: string): Promise<boolean> {
  const named = await namedStore(await readServerJson(serverJsonPath()));
  if (named.storePath !== storePath || named.passwordSet) return false;
  return (await identify(storePath)).format === "sqlcipher";
}
