/**
 * The table of clients, in the shapes it has in the field.
 *
 * `PRAGMA user_version` names the schema: 0 and 1 keep three blacklists in columns of their own, 2 keeps two of them in
 * `metadata`. Tables of released hubs have no `metadata` column, tables of the newest ones no `crypto_key`: which
 * columns there are is asked of the table itself.
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

/** The newest schema known here. */
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

/** The shape of one store's table. */
export interface Schema {
  version: number;
  /** The columns that HiveMind knows, as far as this table has them. Others are left alone. */
  columns: ReadonlySet<Column>;
}

/**
 * Makes the table and its index in an empty database, as HiveMind's own plugin does.
 *
 * @param version 2, or 0 for a released hub, which enforces blacklists in the columns of that schema alone.
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

/** The schema's number, 0 in a store that was never given one. */
export async function schemaVersion(connection: Connection): Promise<number> {
  const row = await connection.get<{ user_version: number }>("PRAGMA user_version");
  return row?.user_version ?? 0;
}

/** The same, of a schema that is known here. @throws StoreError `newerVersion` for a later one. */
export async function knownSchemaVersion(connection: Connection): Promise<number> {
  const version = await schemaVersion(connection);
  if (version <= newestSchema) return version;
  throw new StoreError(
    "newerVersion",
    `${connection.path} has schema ${version}; this program knows schemas up to ${newestSchema}`,
    { hint: "install a newer hivemind-sqlcipher" },
  );
}

/**
 * Finds out the table's shape. Nothing is written.
 *
 * @throws StoreError `newerVersion` for a schema not known here; `notFound` if the database has no table of clients;
 *   `refused` if that table is not HiveMind's.
 */
export async function checkSchema(connection: Connection): Promise<Schema> {
  const version = await knownSchemaVersion(connection);
  const found = await connection.all<{ name: string }>("PRAGMA table_info(clients)");
  if (found.length === 0) {
    throw new StoreError("notFound", `${connection.path} is a database, but no HiveMind store`);
  }
  const names = new Set(found.map((column) => column.name));
  const missing = requiredColumns.filter((name) => !names.has(name));
  if (missing.length > 0) {
    throw new StoreError(
      "refused",
      `${connection.path}: its table of clients has no column ${missing.join(", ")}`,
    );
  }
  return { version, columns: new Set(knownColumns.filter((name) => names.has(name))) };
}

/** Released hubs make the table without this column. */
export async function addMetadataColumn(connection: Connection): Promise<void> {
  await connection.run("ALTER TABLE clients ADD COLUMN metadata TEXT");
}

/**
 * Rows a page: some hundred kilobytes, a few milliseconds. More of them would outlive their use in the young part of
 * the heap, which costs more than the pages save.
 */
export const pageRows = 200;

/**
 * All rows in the order of their ids, a page at a time, in memory that does not grow with the table. No read is left
 * open between two pages, so writers are not held up, and see their own changes.
 *
 * @param columns SQL of what to select; `exact_id`, the id as text, is to be among it. As numbers, ids reach JavaScript
 *   rounded to floats.
 */
export async function* pagesOfRows<Row extends { exact_id: string }>(
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
 * Brings a store of schema 0 or 1 to 2, in one transaction: intent and skill blacklists go from their columns into
 * `metadata` unless it has that key; `message_blacklist` is dropped from both. A store at 2 is left as it is.
 *
 * A released hub enforces the columns alone: under one, a migrated store's blacklists are **switched off**. So no
 * command does this as a side effect.
 *
 * @throws StoreError as `checkSchema`.
 */
export async function migrateSchema(connection: Connection): Promise<void> {
  await connection.transaction(async () => {
    const { version, columns } = await checkSchema(connection);
    if (version >= newestSchema) return;
    if (!columns.has("metadata")) await addMetadataColumn(connection);
    const legacy = blacklistKeys.filter((key) => columns.has(key));
    const sources = ["CAST(client_id AS TEXT) AS exact_id", "metadata", ...legacy].join(", ");
    const emptied = legacy.map((key) => `${key} = NULL, `).join("");
    const rewrite = `UPDATE clients SET ${emptied}metadata = new.value ->> 1
      FROM json_each(?) AS new WHERE client_id = CAST(new.value ->> 0 AS INTEGER)`;
    for await (const page of pagesOfRows<LegacyRow>(connection, sources)) {
      const rows = page.map((row) => [row.exact_id, migratedMetadata(row)]);
      await connection.run(rewrite, [JSON.stringify(rows)]);
    }
    // Newer plugins make this index whenever they open a store.
    await connection.run("CREATE INDEX IF NOT EXISTS idx_clients_api_key ON clients(api_key)");
    await connection.run(`PRAGMA user_version = ${newestSchema}`);
  });
}

function migratedMetadata(row: LegacyRow): string {
  const found = readObject(row.metadata);
  const metadata: JsonObject = { ...found };
  delete metadata.message_blacklist;
  for (const key of ["intent_blacklist", "skill_blacklist"] as const) {
    const list = readList(row[key]);
    if (list.length > 0 && !Object.hasOwn(metadata, key)) metadata[key] = list;
  }
  // What needs no change keeps its bytes.
  const kept = isJsonObject(readJson(row.metadata)) && sameJson(found, metadata);
  return kept ? String(row.metadata) : formatJson(metadata);
}

/** A JSON column's value; undefined for NULL, the empty text, and text that is not JSON. */
function readJson(text: unknown): JsonValue | undefined {
  if (typeof text !== "string" || text === "") return undefined;
  try {
    return parseJson(text);
  } catch {
    return undefined;
  }
}

/** A column that should hold an object; anything else counts as an empty one, as HiveMind reads it. */
export function readObject(text: unknown): JsonObject {
  const value = readJson(text);
  return isJsonObject(value) ? value : {};
}

/** A column that should hold a list; anything else counts as an empty one. */
export function readList(text: unknown): readonly JsonValue[] {
  const value = readJson(text);
  return Array.isArray(value) ? value : [];
}

/** Whether a column holds a list, or what every hub takes for an empty one: NULL, the empty text, JSON's null. */
export function holdsList(text: unknown): boolean {
  if (text === undefined || text === null || text === "") return true;
  const value = readJson(text);
  return value === null || Array.isArray(value);
}
