/**
 * HiveMind's JSON store, `clients.json`, as in `hivemind-json-db-plugin`: an object from client_id
 * to record.
 *
 * Each change reads the file again and rewrites it, so that it does not undo an earlier change by
 * another process. A running hub does not notice a change by this program, and a hub of HiveMind 4
 * overwrites it: stop the hub first.
 */
import { hash } from "node:crypto";
import { readFile } from "node:fs/promises";
import { dirname, join } from "node:path";
import { batchesOf } from "../client/batches.js";
import {
  assertValidClient,
  type Client,
  deserializeClient,
  revoked,
  revokedApiKey,
} from "../client/client.js";
import { noSuchClient, type VerifiableRead } from "../client/database.js";
import { formatJson, isJsonObject, type JsonObject, parseJson } from "../client/json.js";
import { fileOfHub } from "../config/hub-account.js";
import { realPath } from "../config/paths.js";
import { hasCode, StoreError, systemError } from "../errors.js";
import { createFile, createStaged, replaceFile } from "../fs/atomic.js";
import { lstatIfExists } from "../fs/read.js";
import { makeHubDirectory } from "../process/directories.js";
import * as z from "../schema.js";
import { BaseDatabase, matches, type SearchValue } from "./base-database.js";
import { decryptText, encryptText, keyOf } from "./ejson.js";
import { type DatabaseConfig, type DatabasePlugin, fileLocation, readConfig } from "./plugin.js";
import {
  changeRecord,
  encodeRecord,
  migrateRecord,
  newestRecordSchema,
  type RecordShape,
  readShape,
} from "./record.js";

export const jsonPluginName = "hivemind-json-db-plugin";

const schema = z.strictObject({ ...fileLocation, password: z.optional(z.string()) });

export interface JsonFiles {
  /** `clients.json`, or `clients.ejson` with a password. */
  store: string;
  /** `clients.schema_version`, written by newer plugins; it may not exist. */
  version: string;
}

/** Returns the paths of a JSON store's files. */
export async function jsonFiles(config: DatabaseConfig): Promise<JsonFiles> {
  const { password, name = "clients", ...rest } = readConfig(jsonPluginName, schema, config);
  const folder = fileOfHub(rest.subfolder ?? "hivemind-core");
  const store = await realPath(join(folder, `${name}.${password ? "ejson" : "json"}`));
  return { store, version: join(folder, `${name}.schema_version`) };
}

export const jsonPlugin: DatabasePlugin = {
  place: async (config) => (await jsonFiles(config)).store,
  async open(config, { mode }) {
    const { password } = readConfig(jsonPluginName, schema, config);
    if (password) keyOf(password);
    return JsonDatabase.open(await jsonFiles(config), password || undefined, mode === "create");
  },
};

/**
 * The record of each client_id. HiveMind accepts a file with a record under another key, for
 * example after a manual change of the client_id. The next change writes the record under its own
 * id.
 */
type Records = Map<number, JsonObject>;

class JsonDatabase extends BaseDatabase {
  readonly #files: JsonFiles;
  readonly #password: string | undefined;
  #records: Records = new Map();
  #shape: RecordShape = "HiveMind 4";
  #lastChange: Promise<unknown> = Promise.resolve();
  /** The digest of the file when it was last read. */
  #digest = "";

  private constructor(files: JsonFiles, password: string | undefined) {
    super();
    this.#files = files;
    this.#password = password;
  }

  static async open(
    files: JsonFiles,
    password: string | undefined,
    create: boolean,
  ): Promise<JsonDatabase> {
    const database = new JsonDatabase(files, password);
    const found = await database.#load();
    if (!found && !create) throw new StoreError("notFound", `no such store: ${files.store}`);
    return database;
  }

  addItem(client: Client): Promise<void> {
    return this.#change((records) => this.#put(records, client));
  }

  /** Writes the file once for all clients. */
  override async addItems(clients: Iterable<Client> | AsyncIterable<Client>): Promise<number> {
    const added: Client[] = [];
    for await (const client of clients) added.push(client);
    await this.#change((records) => {
      for (const client of added) this.#put(records, client);
    });
    return added.length;
  }

  override deleteItem(clientId: number): Promise<void> {
    return this.#change((records) => this.#revoke(records, clientId));
  }

  override updateItem(client: Client): Promise<void> {
    return this.#change((records) => {
      if (!records.has(client.client_id)) throw noSuchClient(client.client_id);
      this.#put(records, client);
    });
  }

  override replaceItem(old: Client, replacement: Client): Promise<void> {
    return this.#change((records) => {
      this.#revoke(records, old.client_id);
      this.#put(records, replacement);
    });
  }

  async searchByValue(key: string, value: SearchValue): Promise<Client[]> {
    const found: Client[] = [];
    for (const record of this.#sortedRecords()) {
      const client = deserializeClient(record);
      if (matches(client, key, value)) found.push(client);
    }
    return found;
  }

  override async getClientById(clientId: number): Promise<Client | undefined> {
    const record = this.#records.get(clientId);
    return record && deserializeClient(record);
  }

  override async getClientByApiKey(apiKey: string): Promise<Client | undefined> {
    if (apiKey === revokedApiKey) return undefined;
    for (const record of this.#sortedRecords()) {
      if (record.api_key === apiKey) return deserializeClient(record);
    }
    return undefined;
  }

  override async refresh(clientId: number): Promise<Client | undefined> {
    await this.sync();
    return this.getClientById(clientId);
  }

  async size(): Promise<number> {
    return this.#records.size;
  }

  async *[Symbol.asyncIterator](): AsyncGenerator<Client> {
    for (const record of this.#sortedRecords()) yield deserializeClient(record);
  }

  /** Reads the file again for `isUnchanged`: a hub may have replaced it since. */
  async readVerifiable(): Promise<VerifiableRead> {
    const digest = this.#digest;
    const isUnchanged = async () => digestOf(await readTextIfExists(this.#files.store)) === digest;
    return { batches: batchesOf(this), isUnchanged };
  }

  override async sync(): Promise<void> {
    await this.#load();
  }

  override async migrate(fromVersion: number): Promise<void> {
    if (fromVersion >= newestRecordSchema) return;
    await this.#change((records) => {
      for (const [id, record] of records) records.set(id, migrateRecord(record));
    });
    await writeFile(this.#files.version, String(newestRecordSchema));
    await this.sync();
  }

  #put(records: Records, client: Client): void {
    assertValidClient(client);
    const { client_id: id } = client;
    const record = records.get(id);
    const shape = this.#shape;
    records.set(id, record ? changeRecord(record, client, shape) : encodeRecord(client, shape));
  }

  #revoke(records: Records, clientId: number): void {
    if (!records.has(clientId)) throw noSuchClient(clientId);
    records.set(clientId, encodeRecord(revoked(clientId), this.#shape));
  }

  /** Returns the records ordered by id. */
  #sortedRecords(): JsonObject[] {
    return [...this.#records].sort(([a], [b]) => a - b).map(([, record]) => record);
  }

  /**
   * Runs changes one after the other, each on the current file. A change that throws has no effect.
   */
  #change(change: (records: Records) => void): Promise<void> {
    const result = this.#lastChange.then(async () => {
      await this.#load();
      const records = new Map(this.#records);
      change(records);
      await this.#save(records);
      this.#records = records;
    });
    this.#lastChange = result.catch(() => undefined);
    return result;
  }

  /** Returns whether the file exists. */
  async #load(): Promise<boolean> {
    const { store, version } = this.#files;
    this.#shape = readShape(await readTextIfExists(version), version);
    const text = await readTextIfExists(store);
    this.#digest = digestOf(text);
    this.#records = indexById(text === undefined ? {} : this.#parse(text), store);
    return text !== undefined;
  }

  #parse(text: string): JsonObject {
    const { store } = this.#files;
    // Remove comment lines, which the plugin's own reader skips.
    const value = parseText(text.replace(/(^|[\n\r])[ \t]*(?:\/\/|#)[^\n\r]*/g, "$1"), store);
    const decrypted =
      this.#password === undefined || (isJsonObject(value) && Object.keys(value).length === 0)
        ? value
        : parseText(decryptText(value, this.#password, store), store);
    if (!isJsonObject(decrypted)) {
      throw new StoreError("corrupted", `${store} is not a store of clients: not a JSON object`);
    }
    return decrypted;
  }

  async #save(records: Records): Promise<void> {
    const { store } = this.#files;
    const value: JsonObject = Object.fromEntries(records);
    const contents =
      this.#password === undefined ? value : encryptText(formatJson(value), this.#password);
    await makeHubDirectory(dirname(store));
    await writeFile(store, formatJson(contents, { indent: 4, ascii: false }));
  }
}

/**
 * Checks every record and returns the records by id. HiveMind 4 writes a changed client twice, with
 * its id as a string and as a number, which become the same key in JSON. As in Python, the parser
 * keeps the last of equal keys.
 */
function indexById(file: JsonObject, path: string): Records {
  const records: Records = new Map();
  const keys = new Map<number, string>();
  for (const [key, record] of Object.entries(file)) {
    if (!isJsonObject(record)) {
      throw new StoreError("corrupted", `${path}: "${key}" is not a client's record`);
    }
    const { client_id } = decodeRecord(record, key, path);
    const other = keys.get(client_id);
    if (other !== undefined) {
      throw new StoreError(
        "corrupted",
        `${path} has client ${client_id} twice, under "${other}" and "${key}"`,
        { hint: "Remove one of the two records from the file, with the hub stopped." },
      );
    }
    keys.set(client_id, key);
    records.set(client_id, record);
  }
  return records;
}

function decodeRecord(record: JsonObject, key: string, path: string): Client {
  try {
    return deserializeClient(record);
  } catch (error) {
    if (!(error instanceof StoreError)) throw error;
    throw new StoreError(error.kind, `${path}: "${key}": ${error.message}`);
  }
}

function digestOf(text = ""): string {
  return hash("sha256", text);
}

function parseText(text: string, path: string) {
  try {
    return parseJson(text);
  } catch (error) {
    if (!(error instanceof SyntaxError)) throw error;
    throw new StoreError("corrupted", `${path} does not parse: ${error.message}`, {
      hint: "Repair the file or restore a backup before the hub starts: it would start without clients.",
    });
  }
}

/** Replaces a file, or creates it for the owner of its directory. */
async function writeFile(path: string, text: string): Promise<void> {
  if (await lstatIfExists(path)) await replaceFile(path, text);
  else await createStaged(path, (staged) => createFile(staged, text));
}

async function readTextIfExists(path: string): Promise<string | undefined> {
  try {
    return new TextDecoder("utf-8", { fatal: true }).decode(await readFile(path));
  } catch (error) {
    if (hasCode(error, "ENOENT", "ENOTDIR")) return undefined;
    if (error instanceof TypeError) {
      throw new StoreError("corrupted", `${path} does not parse: not UTF-8 text`);
    }
    throw systemError(error, `cannot read ${path}`);
  }
}
