/**
 * A database plugin that keeps its clients in a JSON file. It shows the contract and is not fast:
 * every change rewrites the file.
 */
import { readFile, rename, writeFile } from "node:fs/promises";
import { BaseDatabase, deserializeClient, StoreError, serializeClient } from "hivemind-sqlcipher";

export class FileDatabase extends BaseDatabase {
  #path;
  #clients;
  #mode;

  constructor(path, clients, mode) {
    super();
    this.#path = path;
    this.#clients = clients;
    this.#mode = mode;
  }

  /**
   * @param config - the settings under the plugin's name: `file`, the path of the JSON file
   * @param options - `mode` is "readonly", "readwrite" or "create"
   */
  static async open(config, { mode }) {
    if (typeof config.file !== "string") {
      throw new StoreError("usage", "the setting file is missing", {
        hint: "Give the path of the JSON file: --to-setting file=PATH or --from-setting file=PATH.",
      });
    }
    return new FileDatabase(config.file, await readClients(config.file, mode), mode);
  }

  async addItem(client) {
    if (this.#mode === "readonly") throw new StoreError("refused", "the database is read-only");
    this.#clients.set(client.client_id, copyClient(client));
    const text = JSON.stringify([...this.#clients.values()].map(serializeClient));
    await writeFile(`${this.#path}.new`, text, { mode: 0o600 });
    await rename(`${this.#path}.new`, this.#path);
  }

  async searchByValue(key, value) {
    if (value === null) return [];
    const wanted = typeof value === "boolean" ? Number(value) : value;
    return [...this.#clients.values()]
      .filter((client) => {
        const field = Object.hasOwn(client, key) ? client[key] : undefined;
        if (key === "api_key" && field === "revoked") return false;
        return (typeof field === "boolean" ? Number(field) : field) === wanted;
      })
      .map(copyClient);
  }

  async size() {
    return this.#clients.size;
  }

  /** Yields every client in the order of the ids, revoked clients included. */
  async *[Symbol.asyncIterator]() {
    const ids = [...this.#clients.keys()].sort((a, b) => a - b);
    for (const id of ids) yield copyClient(this.#clients.get(id));
  }
}

async function readClients(path, mode) {
  try {
    const clients = JSON.parse(await readFile(path, "utf8")).map(deserializeClient);
    return new Map(clients.map((client) => [client.client_id, client]));
  } catch (error) {
    if (error.code === "ENOENT" && mode === "create") return new Map();
    if (error.code === "ENOENT") throw new StoreError("notFound", `no such file: ${path}`);
    throw error;
  }
}

/** Copies a client, because a caller's change to its object must not change the database. */
function copyClient(client) {
  return deserializeClient(serializeClient(client));
}
