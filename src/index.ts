/** The library's face. */
export { BaseDatabase, type SearchValue } from "./backends/base-database.js";
export type { DatabaseConfig, DatabasePlugin, OpenOptions } from "./backends/plugin.js";
export { DatabaseFactory } from "./backends/registry.js";
export { type BackupOptions, type BackupResult, backup } from "./backup/backup.js";
export { type Verification, verifyBackup } from "./backup/verify.js";
export { type BundleContents, readBundle, writeBundle } from "./bundle/bundle.js";
export { generateRecoveryKey } from "./bundle/recovery-key.js";
export {
  type Client,
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
export { type ErrorKind, exitCodes, StoreError } from "./errors.js";
export { generatePassphrase } from "./keys/passphrase.js";
export { type PassphraseSource, parseSource } from "./keys/source.js";
export { unlockStore } from "./keys/unlock.js";
export { settle, withOperation } from "./lifecycle/settle.js";
export { type End, type MigrateOptions, type Migration, migrate } from "./migrate/migrate.js";
export type { Reporter } from "./operation/reporter.js";
export type { Settled } from "./operation/settled.js";
export { deriveKey, identify, StoreKey } from "./store/cipher.js";
export { ClientStore } from "./store/client-store.js";
