/** The exports of the library. */

export { type BackupOptions, type BackupResult, backup } from "./backup/backup.js";
export type { NamedBackup } from "./backup/name.js";
export { type Verification, verifyBackup } from "./backup/verify.js";
export {
  type BundleContents,
  type BundleReport,
  readBundle,
  writeBundle,
} from "./bundle/bundle.js";
export { generateRecoveryKey } from "./bundle/recovery-key.js";
export {
  type Client,
  type ClientCounts,
  clientSchema,
  defaultAllowedTypes,
  deserializeClient,
  isRevoked,
  newClient,
  serializeClient,
  withoutSecrets,
} from "./client/client.js";
export type { Database } from "./client/database.js";
export {
  formatJson,
  JsonNumber,
  type JsonObject,
  type JsonValue,
  parseJson,
} from "./client/json.js";
export { BaseDatabase, type SearchValue } from "./databases/base-database.js";
export type { DatabaseConfig, DatabasePlugin, Endpoint, OpenOptions } from "./databases/plugin.js";
export { DatabaseFactory } from "./databases/registry.js";
export { type ErrorKind, exitCodes, StoreError } from "./errors.js";
export { generatePassphrase } from "./keys/passphrase.js";
export { type PassphraseSource, parseSource } from "./keys/source.js";
export type { CopyDatabaseOptions, Migration } from "./migrate/copy-database.js";
export type { Recovery } from "./operation/recovery-parts.js";
export type { ServiceReport } from "./operation/service.js";
export { type MigrateOptions, migrate } from "./recovery/migrate.js";
export { recover, withOperation } from "./recovery/recover.js";
export { unlockStore } from "./recovery/unlock-store.js";
export type { Reporter } from "./reporter.js";
export { deriveKey, identify, StoreKey } from "./store/cipher.js";
export { ClientStore, type CreateOptions, type StoreOpenOptions } from "./store/client-store.js";
export type { ConnectionOptions } from "./store/connection.js";
