/** The encrypted store, `clients.db`: opened, made, and asked whether it is whole. */
import { rm } from "node:fs/promises";
import { StoreError } from "../errors.js";
import { claimName, stagedName } from "../fs/atomic.js";
import { assertNoStraySidecars } from "../fs/sidecars.js";
import {
  type CipherCompatibility,
  createEncrypted,
  identify,
  type OpenedStore,
  openEncrypted,
  type StoreKey,
} from "./cipher.js";
import { ClientTable } from "./client-table.js";
import type { Connection, ConnectionOptions } from "./connection.js";
import { checkSchema, createSchema, newestSchema, type Schema } from "./schema.js";

export interface OpenOptions extends Partial<ConnectionOptions> {
  /**
   * Whether a store of schema 0 or 1 is brought to 2, which is for a hub that owns its store. A released hub would no
   * longer enforce its blacklists, so anything else passes false.
   */
  migrate?: boolean;
}

export interface CreateOptions {
  /** 2, or 0 for a released hub, which enforces blacklists in the columns of that schema alone. */
  schemaVersion?: 0 | 2;
  cipherCompatibility?: CipherCompatibility;
}

export class ClientStore extends ClientTable {
  readonly key: StoreKey;
  /** Names the passphrase: the first 16 hex digits of the file's salt. */
  readonly keyId: string;

  private constructor(opened: OpenedStore, schema: Schema) {
    super(opened.connection, schema);
    this.key = opened.key;
    this.keyId = opened.keyId;
  }

  /**
   * Opens a store. By default it may be written, and is migrated to the newest schema.
   *
   * With mode `create` a store is made if there is none, at the newest schema; `secret` is then a passphrase.
   *
   * @throws StoreError as `openEncrypted` and `checkSchema`, before anything is written.
   */
  static async open(
    path: string,
    secret: string | StoreKey,
    options: OpenOptions = {},
  ): Promise<ClientStore> {
    const { migrate = true, mode = "readwrite", ...rest } = options;
    if (mode === "create" && (await identify(path)).format === "absent") {
      if (typeof secret === "string") return ClientStore.create(path, secret);
      throw new StoreError("notFound", `there is no store at ${path}, and a key makes none`);
    }
    const store = await ClientStore.from(
      await openEncrypted(path, secret, { ...rest, mode: mode === "create" ? "readwrite" : mode }),
    );
    try {
      if (migrate && mode !== "readonly") await store.migrate(store.schemaVersion);
      return store;
    } catch (error) {
      await store.close();
      throw error;
    }
  }

  /**
   * Makes a new store, 0600, in WAL mode, and opens it. It gets its name only when it is whole.
   *
   * @throws StoreError `refused` if something has that name, or lies there from a store that had it, or if this build cannot
   *   encrypt; `io`.
   */
  static async create(
    path: string,
    passphrase: string,
    options: CreateOptions = {},
  ): Promise<ClientStore> {
    const { schemaVersion = newestSchema, cipherCompatibility = 4 } = options;
    await assertNoStraySidecars(path);
    const staged = stagedName(path);
    try {
      const { connection, key } = await createEncrypted(staged, passphrase, cipherCompatibility);
      try {
        await createSchema(connection, schemaVersion);
        // Kept in the file: whoever opens it next is in WAL mode too, as with HiveMind's own plugin.
        await connection.get("PRAGMA journal_mode = WAL");
      } finally {
        await connection.close();
      }
      await claimName(staged, path);
      return await ClientStore.open(path, key, { migrate: false });
    } finally {
      await rm(staged, { force: true });
    }
  }

  /** Takes over an open connection, its schema as it is, and closes it if the store is refused. @throws as `checkSchema`. */
  static async from(opened: OpenedStore): Promise<ClientStore> {
    try {
      return new ClientStore(opened, await checkSchema(opened.connection));
    } catch (error) {
      await opened.connection.close();
      throw error;
    }
  }
}

/** What SQLite finds wrong with a database's structure (`PRAGMA integrity_check`); empty if nothing. */
export async function integrityErrors(connection: Connection): Promise<string[]> {
  try {
    const rows = await connection.all<{ integrity_check: string }>("PRAGMA integrity_check");
    const errors = rows.map((row) => row.integrity_check).filter((line) => line !== "ok");
    if (errors.length > 0) connection.damaged = true;
    return errors;
  } catch (error) {
    if (error instanceof StoreError && error.kind === "corrupted") return [error.message];
    throw error;
  }
}
