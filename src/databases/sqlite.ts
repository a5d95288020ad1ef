/** The plugins of HiveMind's SQLite store: encrypted by SQLCipher, and in plain text. */
import { dirname } from "node:path";
import type { Database } from "../client/database.js";
import { fileOfHub } from "../config/hub-account.js";
import { expandPath, realPath } from "../config/paths.js";
import { StoreError } from "../errors.js";
import { createFile, createStaged } from "../fs/atomic.js";
import { assertNoStraySidecars } from "../fs/sidecars.js";
import { missingStoreError } from "../keys/moved-store.js";
import {
  formatSource,
  type PassphraseSource,
  parseSource,
  withoutKeyCache,
} from "../keys/source.js";
import { openWithSource } from "../keys/unlock.js";
import { makeHubDirectory } from "../process/directories.js";
import * as z from "../schema.js";
import { identify } from "../store/cipher.js";
import { ClientStore } from "../store/client-store.js";
import { ClientTable } from "../store/client-table.js";
import { Connection } from "../store/connection.js";
import { createSchema, readSchema } from "../store/schema.js";
import { type DatabaseConfig, type DatabasePlugin, fileLocation, readConfig } from "./plugin.js";

export const sqlcipherPluginName = "hivemind-sqlcipher-db-plugin";
export const sqlitePluginName = "hivemind-sqlite-db-plugin";

const plainSchema = z.strictObject({
  ...fileLocation,
  /** The whole path. Takes precedence over `subfolder` and `name`. */
  db_path: z.optional(z.string().check(z.minLength(1))),
});

const encryptedSchema = z.extend(plainSchema, {
  /** The passphrase itself. */
  password: z.optional(z.string().check(z.minLength(1))),
  /**
   * Without `password`, the source of the passphrase: `keyring` (default), `file:PATH`,
   * `command:CMD`, `credential[:NAME]`, `sealed[:PATH]`.
   */
  password_source: z.optional(z.string()),
  /** False to keep no derived key in the keyring. */
  key_cache: z.optional(z.boolean()),
});

/** Returns the settings of the encrypted database for a source of its passphrase. */
export function sourceConfig(source: PassphraseSource): {
  password_source: string;
  key_cache?: false;
} {
  const isUncached = source.kind === "keyring" && source.withoutKeyCache;
  return { password_source: formatSource(source), ...(isUncached && { key_cache: false }) };
}

/** Returns the resolved path of the store. */
function resolvePath(settings: z.infer<typeof plainSchema>): Promise<string> {
  const { db_path, subfolder = "hivemind-core", name = "clients" } = settings;
  // An absolute component discards the components before it, as in Python.
  return realPath(db_path === undefined ? fileOfHub(subfolder, `${name}.db`) : expandPath(db_path));
}

/** `clients.db` through SQLCipher. Opening it does not migrate its schema. */
export const sqlcipherPlugin: DatabasePlugin = {
  place: (config) => resolvePath(readConfig(sqlcipherPluginName, encryptedSchema, config)),
  async open(config, { mode }) {
    const settings = readConfig(sqlcipherPluginName, encryptedSchema, config);
    const path = await resolvePath(settings);
    // Open the store for writing even in mode "readonly": after a read-only connection in WAL mode,
    // SQLite leaves sidecars.
    if (settings.password === undefined) {
      const source = parseSource(settings.password_source ?? "keyring");
      return openWithSource(path, settings.key_cache === false ? withoutKeyCache(source) : source, {
        mode: "readwrite",
      });
    }
    if ((await identify(path)).format === "absent") {
      if (mode !== "create") throw await missingStoreError(path);
      await makeHubDirectory(dirname(path));
      return ClientStore.create(path, settings.password);
    }
    return ClientStore.open(path, settings.password);
  },
};

/** `clients.db` in plain text, as in HiveMind's plugin without a password. */
export const sqlitePlugin: DatabasePlugin = {
  place: locatePlaintext,
  async open(config, { mode }): Promise<Database> {
    if (config.password) {
      throw new StoreError("refused", `${sqlitePluginName} keeps its store in plain text`, {
        hint: `Use the plugin ${sqlcipherPluginName} for a store with a password.`,
      });
    }
    const path = await locatePlaintext(config);
    const { format } = await identify(path);
    if (format === "absent") {
      if (mode !== "create") throw new StoreError("notFound", `no such store: ${path}`);
      await createPlaintext(path);
    } else if (format !== "plaintext") {
      throw new StoreError("refused", `${path} is encrypted or not an SQLite database`, {
        hint: `Use the plugin ${sqlcipherPluginName} for an encrypted store.`,
      });
    }
    const connection = await Connection.open(path, { mode: "readwrite" });
    try {
      return new ClientTable(connection, await readSchema(connection));
    } catch (error) {
      await connection.close();
      throw error;
    }
  },
};

/** Returns the resolved path, also of a store with a password: the hub's plugin has one name. */
function locatePlaintext({ password: _, ...config }: DatabaseConfig): Promise<string> {
  return resolvePath(readConfig(sqlitePluginName, plainSchema, config));
}

/**
 * Creates a store of schema 0, in which every hub finds the blacklists: HiveMind 4 enforces these
 * columns, HiveMind 5 migrates them when it opens the store.
 */
async function createPlaintext(path: string): Promise<void> {
  await makeHubDirectory(dirname(path));
  await assertNoStraySidecars(path);
  await createStaged(path, async (staged) => {
    await createFile(staged, "");
    await using connection = await Connection.open(staged, { mode: "readwrite" });
    await createSchema(connection, 0);
    await connection.get("PRAGMA journal_mode = WAL");
  });
}
