/**
 * The table of clients in its versions.
 *
 * `PRAGMA user_version` is the schema version. Schemas 0 and 1 store three blacklists in columns.
 * Schema 2 stores the blacklists of intents and skills in `metadata` and has no blacklist of
 * messages. HiveMind 4's table lacks `metadata` and the newest plugin's lacks `crypto_key`, so the
 * columns are read from the table itself.
 */
import { blacklistKeys } from "../client/client.js";
import {
  formatJson,
  isJsonObject,
  type JsonObject,
  type JsonValue,
  parseJson,
  sameJson,
} from "../client/json.js";
import { StoreError } from "../errors.js";
import type { Connection } from "./connection.js";

/** The newest supported version. */
export const newestSchema = 2;

const requiredColumns = [
  "client_id",
  "api_key",
  "name",
  "description",
  "is_admin",
  "last_seen",
  "allowed_types",
  "password",
  "can_broadcast",
  "can_escalate",
  "can_propagate",
] as const;
const optionalColumns = [...blacklistKeys, "crypto_key", "metadata"] as const;

export type Column = (typeof requiredColumns)[number] | (typeof optionalColumns)[number];

export const knownColumns: readonly Column[] = [...requiredColumns, ...optionalColumns];

/** The shape of a store's table. */
export interface Schema {
  version: number;
  /** The known columns of the table. Other columns are not changed. */
  columns: ReadonlySet<Column>;
}

/**
 * Creates the table with all known columns, and its index, in an empty database.
 *
 * @param version - 2, or 0 for HiveMind 4, which enforces only blacklists in columns
 */
export async function createSchema(connection: Connection, version: 0 | 2): Promise<void> {
  await connection.transaction(() =>
    connection.exec(`
      CREATE TABLE clients (
        client_id INTEGER PRIMARY KEY,
        api_key VARCHAR(255) NOT NULL,
        name VARCHAR(255),
        description VARCHAR(255),
        is_admin BOOLEAN DEFAULT FALSE,
        last_seen REAL DEFAULT -1,
        intent_blacklist TEXT,
        skill_blacklist TEXT,
        message_blacklist TEXT,
        allowed_types TEXT,
        crypto_key VARCHAR(16),
        password TEXT,
        can_broadcast BOOLEAN DEFAULT TRUE,
        can_escalate BOOLEAN DEFAULT TRUE,
        can_propagate BOOLEAN DEFAULT TRUE,
        metadata TEXT
      );
      CREATE INDEX idx_clients_api_key ON clients(api_key);
      PRAGMA user_version = ${version};
    `),
  );
}

/** Returns the schema version, which is 0 in a store without a version. */
export async function readSchemaVersion(connection: Connection): Promise<number> {
  const row = await connection.get<{ user_version: number }>("PRAGMA user_version");
  return row?.user_version ?? 0;
}

/**
 * Returns the schema version.
 *
 * @throws {@link StoreError} newerVersion - if this program does not support it
 */
export async function readKnownSchemaVersion(connection: Connection): Promise<number> {
  const version = await readSchemaVersion(connection);
  if (version <= newestSchema) return version;
  throw new StoreError(
    "newerVersion",
    `${connection.path} has schema ${version}; this program supports schemas up to ${newestSchema}`,
    { hint: "Install a newer hivemind-sqlcipher." },
  );
}

/**
 * Reads the shape of the table. Writes nothing.
 *
 * @throws {@link StoreError} newerVersion - if this program does not support the schema
 * @throws {@link StoreError} notFound - if the database has no table of clients
 * @throws {@link StoreError} refused - if the table is not HiveMind's
 */
export async function readSchema(connection: Connection): Promise<Schema> {
  const version = await readKnownSchemaVersion(connection);
  const found = await connection.all<{ name: string }>("PRAGMA table_info(clients)");
  if (found.length === 0) {
    throw new StoreError(
      "notFound",
      `${connection.path} is a database, but not a HiveMind store: no such table: clients`,
    );
  }
  const names = new Set(found.map((column) => column.name));
  const missing = requiredColumns.filter((name) => !names.has(name));
  if (missing.length > 0) {
    throw new StoreError(
      "refused",
      `${connection.path}: no such column in the table of clients: ${missing.join(", ")}`,
    );
  }
  return { version, columns: new Set(knownColumns.filter((name) => names.has(name))) };
}

/** Adds the column that HiveMind 4's table lacks. */
export async function addMetadataColumn(connection: Connection): Promise<void> {
  await connection.run("ALTER TABLE clients ADD COLUMN metadata TEXT");
}

/**
 * Rows in a page, a few hundred kilobytes. Larger pages are slower: V8 moves their rows to the old
 * generation.
 */
export const pageRows = 200;

/**
 * Yields all rows in the order of their ids, a page at a time, in constant memory. No read stays
 * open between two pages, so writers are not blocked.
 *
 * @param columns - a list of columns in SQL with `CAST(client_id AS TEXT) AS exact_id`, because
 *   large ids lose precision as numbers
 */
export async function* readRowPages<Row extends { exact_id: string }>(
  connection: Connection,
  columns: string,
): AsyncGenerator<Row[]> {
  const select = `SELECT ${columns} FROM clients`;
  const order = `ORDER BY client_id LIMIT ${pageRows}`;
  let page = await connection.all<Row>(`${select} ${order}`);
  while (page.length > 0) {
    yield page;
    const last = page.at(-1)?.exact_id ?? "";
    page = await connection.all(`${select} WHERE client_id > CAST(? AS INTEGER) ${order}`, [last]);
  }
}

interface LegacyRow {
  exact_id: string;
  intent_blacklist: unknown;
  skill_blacklist: unknown;
  metadata: unknown;
}

/**
 * Migrates a store of schema 0 or 1 to 2 in a transaction. Intent and skill blacklists move from
 * their columns to `metadata` unless it has that key, and `message_blacklist` is removed from both.
 *
 * HiveMind 4 enforces only the columns: with it, a migrated store has **no blacklists**. So no
 * command migrates as a side effect.
 *
 * @throws {@link StoreError} as `readSchema`
 */
export async function migrateSchema(connection: Connection): Promise<void> {
  await connection.transaction(async () => {
    const { version, columns } = await readSchema(connection);
    if (version >= newestSchema) return;
    if (!columns.has("metadata")) await addMetadataColumn(connection);
    const legacy = blacklistKeys.filter((key) => columns.has(key));
    const sources = ["CAST(client_id AS TEXT) AS exact_id", "metadata", ...legacy].join(", ");
    const emptied = legacy.map((key) => `${key} = NULL, `).join("");
    const rewrite = `UPDATE clients SET ${emptied}metadata = new.value ->> 1
      FROM json_each(?) AS new WHERE client_id = CAST(new.value ->> 0 AS INTEGER)`;
    for await (const page of readRowPages<LegacyRow>(connection, sources)) {
      const rows = page.map((row) => [row.exact_id, migrateMetadata(row)]);
      await connection.run(rewrite, [JSON.stringify(rows)]);
    }
    // HiveMind 5 creates this index when it opens a store.
    await connection.run("CREATE INDEX IF NOT EXISTS idx_clients_api_key ON clients(api_key)");
    await connection.run(`PRAGMA user_version = ${newestSchema}`);
  });
}

function migrateMetadata(row: LegacyRow): string {
  const found = readObject(row.metadata);
  const metadata: JsonObject = { ...found };
  delete metadata.message_blacklist;
  for (const key of ["intent_blacklist", "skill_blacklist"] as const) {
    const list = readList(row[key]);
    if (list.length > 0 && !Object.hasOwn(metadata, key)) metadata[key] = list;
  }
  // Unchanged metadata keeps its bytes.
  const kept = isJsonObject(readJson(row.metadata)) && sameJson(found, metadata);
  return kept ? String(row.metadata) : formatJson(metadata);
}

/** Parses a JSON column. Returns undefined for NULL, the empty text, and invalid JSON. */
function readJson(text: unknown): JsonValue | undefined {
  if (typeof text !== "string" || text === "") return undefined;
  try {
    return parseJson(text);
  } catch {
    return undefined;
  }
}

/** Parses a JSON column as an object. Any other value counts as an empty object, as in HiveMind. */
export function readObject(text: unknown): JsonObject {
  const value = readJson(text);
  return isJsonObject(value) ? value : {};
}

/** Parses a JSON column as a list. Any other value counts as an empty list. */
export function readList(text: unknown): readonly JsonValue[] {
  const value = readJson(text);
  return Array.isArray(value) ? value : [];
}

/**
 * Returns whether a column contains a list, or a value that every hub reads as an empty list: NULL,
 * the empty text, JSON's null.
 */
export function holdsList(text: unknown): boolean {
  if (text === undefined || text === null || text === "") return true;
  const value = readJson(text);
  return value === null || Array.isArray(value);
}

/** Returns whether a column contains an object, or a value that counts as no metadata. */
export function holdsObject(text: unknown): boolean {
  if (text === undefined || text === null || text === "") return true;
  const value = readJson(text);
  return value === null || isJsonObject(value);
}
