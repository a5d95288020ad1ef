/** HiveMind's SQLite store as two backends: encrypted through SQLCipher, and in plain text as hubs keep it. */
import { rm } from "node:fs/promises";
import { dirname, resolve } from "node:path";
import type { Database } from "../client/database.js";
import { dataHome, expandPath, realPath } from "../config/paths.js";
import { StoreError } from "../errors.js";
import { claimName, createFile, makeDirectory, stagedName } from "../fs/atomic.js";
import { assertNoStraySidecars } from "../fs/sidecars.js";
import { parseSource, withoutKeyCache } from "../keys/source.js";
import { unlockStore } from "../keys/unlock.js";
import * as z from "../schema.js";
import { identify } from "../store/cipher.js";
import { ClientStore } from "../store/client-store.js";
import { ClientTable } from "../store/client-table.js";
import { Connection } from "../store/connection.js";
import { checkSchema, createSchema } from "../store/schema.js";
import { type DatabaseConfig, type DatabasePlugin, fileLocation, readConfig } from "./plugin.js";

export const sqlcipherPluginName = "hivemind-sqlcipher-db-plugin";
export const sqlitePluginName = "hivemind-sqlite-db-plugin";

const plainSchema = z.strictObject({
  ...fileLocation,
  /** The whole path, in place of the two names. */
  db_path: z.optional(z.string().check(z.minLength(1))),
});

const encryptedSchema = z.extend(plainSchema, {
  /** The passphrase itself, for a program that has it. */
  password: z.optional(z.string().check(z.minLength(1))),
  /** Where it comes from otherwise: `keyring` (the default), `file:PATH`, `command:CMD`, `credential[:NAME]`. */
  password_source: z.optional(z.string()),
  /** False where the keyring is not to keep the key that was derived, beside the passphrase. */
  key_cache: z.optional(z.boolean()),
});

/** The store's resolved path. */
function pathOf(settings: z.infer<typeof plainSchema>): Promise<string> {
  const { db_path, subfolder = "hivemind-core", name = "clients" } = settings;
  // An absolute part makes what stands before it void, as in Python.
  return realPath(
    db_path === undefined ? resolve(dataHome(), subfolder, `${name}.db`) : expandPath(db_path),
  );
}

/** `clients.db` through SQLCipher. Its schema is left as it is. */
export const sqlcipherPlugin: DatabasePlugin = {
  place: (config) => pathOf(readConfig(sqlcipherPluginName, encryptedSchema, config)),
  async open(config, { mode }) {
    const settings = readConfig(sqlcipherPluginName, encryptedSchema, config);
    const path = await pathOf(settings);
    // Also for reading: SQLite leaves sidecars behind a store in WAL mode that it may only read.
    if (settings.password === undefined) {
      const source = parseSource(settings.password_source ?? "keyring");
      return unlockStore(path, settings.key_cache === false ? withoutKeyCache(source) : source, {
        mode: "readwrite",
      });
    }
    if (mode === "create" && (await identify(path)).format === "absent") {
      await makeDirectory(dirname(path));
      return ClientStore.create(path, settings.password);
    }
    return ClientStore.open(path, settings.password, { mode: "readwrite", migrate: false });
  },
};

/** `clients.db` in plain text, as HiveMind's own plugin keeps it without a password. */
export const sqlitePlugin: DatabasePlugin = {
  place: (config) => pathOf(readConfig(sqlitePluginName, plainSchema, withoutEmpty(config))),
  async open(config, { mode }): Promise<Database> {
    const settings = readConfig(sqlitePluginName, plainSchema, withoutEmpty(config));
    const path = await pathOf(settings);
    const { format } = await identify(path);
    if (format === "absent") {
      if (mode !== "create") throw new StoreError("notFound", `there is no store at ${path}`);
      await createPlaintext(path);
    } else if (format !== "plaintext") {
      throw new StoreError("refused", `${path} is encrypted, or no SQLite database`, {
        hint: `an encrypted store is served by ${sqlcipherPluginName}`,
      });
    }
    const connection = await Connection.open(path, { mode: "readwrite" });
    try {
      return new ClientTable(connection, await checkSchema(connection));
    } catch (error) {
      await connection.close();
      throw error;
    }
  },
};

/** To upstream's plugin an empty password is none. */
function withoutEmpty({ password, ...config }: DatabaseConfig): DatabaseConfig {
  if (password === undefined || password === null || password === "") return config;
  throw new StoreError("refused", `${sqlitePluginName} keeps its store in plain text here`, {
    hint: `a store with a password is served by ${sqlcipherPluginName}`,
  });
}

/**
 * At schema 0, which every hub reads with its blacklists: a released one enforces the columns, a newer one migrates
 * them when it opens the store.
 */
async function createPlaintext(path: string): Promise<void> {
  await makeDirectory(dirname(path));
  await assertNoStraySidecars(path);
  const staged = stagedName(path);
  try {
    await createFile(staged, "");
    const connection = await Connection.open(staged, { mode: "readwrite" });
    try {
      await createSchema(connection, 0);
      await connection.get("PRAGMA journal_mode = WAL");
    } finally {
      await connection.close();
    }
    await claimName(staged, path);
  } finally {
    await rm(staged, { force: true });
  }
}
