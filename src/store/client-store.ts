/** The encrypted store, `clients.db`. */
import { StoreError } from "../errors.js";
import { createStaged } from "../fs/atomic.js";
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
import type { ConnectionOptions } from "./connection.js";
import { createSchema, newestSchema, readSchema, type Schema } from "./schema.js";

/** How to open a store. The default mode is `readwrite`. */
export interface StoreOpenOptions extends Partial<ConnectionOptions> {
  /**
   * Whether to migrate a store of schema 0 or 1 to 2, as a hub of HiveMind 5 does. Default: false,
   * because HiveMind 4 does not enforce the blacklists of a store of schema 2.
   */
  migrate?: boolean;
}

export interface CreateOptions {
  /** 2, or 0 for HiveMind 4, which enforces only blacklists in columns. */
  schemaVersion?: 0 | 2;
  cipherCompatibility?: CipherCompatibility;
}

/**
 * The encrypted store of a hub.
 *
 * @example
 * ```ts
 * await using store = await ClientStore.open(path, passphrase);
 * for await (const client of store) console.log(client.client_id, client.name);
 * ```
 */
export class ClientStore extends ClientTable {
  readonly key: StoreKey;
  /** Identifies the passphrase: the first 16 hex digits of the file's salt. */
  readonly keyId: string;

  private constructor(opened: OpenedStore, schema: Schema) {
    super(opened.connection, schema);
    this.key = opened.key;
    this.keyId = opened.keyId;
  }

  /**
   * Opens a store, by default for writing. Does not migrate its schema unless `options` say so, and
   * does not wait for an operation on the store: `unlockStore` does.
   *
   * Mode `create` creates a store at the newest schema if there is none; `secret` must then be a
   * passphrase.
   *
   * @throws {@link StoreError} as `openEncrypted` and `readSchema`, before anything is written
   */
  static async open(
    path: string,
    secret: string | StoreKey,
    options: StoreOpenOptions = {},
  ): Promise<ClientStore> {
    const { migrate = false, mode = "readwrite", ...rest } = options;
    if (mode === "create" && (await identify(path)).format === "absent") {
      if (typeof secret === "string") return ClientStore.create(path, secret);
      throw new StoreError(
        "notFound",
        `there is no store at ${path}, and creating one takes a passphrase`,
      );
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
   * Creates a store with mode 0600 in WAL mode and opens it. The file gets its name when it is
   * complete.
   *
   * @throws {@link StoreError} refused - if the file or sidecars of a former store exist, or this
   *   build has no SQLCipher
   * @throws {@link StoreError} io - if the system fails
   */
  static async create(
    path: string,
    passphrase: string,
    options: CreateOptions = {},
  ): Promise<ClientStore> {
    const { schemaVersion = newestSchema, cipherCompatibility = 4 } = options;
    await assertNoStraySidecars(path);
    const key = await createStaged(path, async (staged) => {
      const created = await createEncrypted(staged, passphrase, cipherCompatibility);
      await using connection = created.connection;
      await createSchema(connection, schemaVersion);
      // Store the mode in the file, as HiveMind's plugin does: the next connection is in WAL mode
      // too.
      await connection.get("PRAGMA journal_mode = WAL");
      return created.key;
    });
    return ClientStore.open(path, key);
  }

  /**
   * Uses an open connection, without migration. Closes the connection if it throws.
   *
   * @throws {@link StoreError} as `readSchema`
   */
  static async from(opened: OpenedStore): Promise<ClientStore> {
    try {
      return new ClientStore(opened, await readSchema(opened.connection));
    } catch (error) {
      await opened.connection.close();
      throw error;
    }
  }
}
