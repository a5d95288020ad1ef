/** The present store, before a restore replaces it. */
import { type ErrorKind, isKind, StoreError } from "../errors.js";
import { lstatIfExists } from "../fs/read.js";
import type { Generation, PassphraseSource } from "../keys/source.js";
import { type UnlockedStore, unlock } from "../keys/unlock.js";
import { identify, openDatabase, openImmutable, type Secret } from "../store/cipher.js";
import { ClientStore } from "../store/client-store.js";
import { ClientTable } from "../store/client-table.js";
import type { Connection } from "../store/connection.js";
import { readSchema } from "../store/schema.js";
import type { Replaced } from "../swap/request.js";
import { compareClients, type Differences } from "./differences.js";
import type { VerifiedBackup } from "./verified-backup.js";

export interface PresentStore {
  readonly replaced: Replaced;
  readonly keyId?: string | undefined;
  readonly passphrase?: string | undefined;
  readonly generation?: Generation | undefined;
  /** The differences from the backup; undefined without a store, or if it cannot be compared. */
  readonly differences?: Differences | undefined;
  /** The number of revoked clients; 0 if `differences` is undefined. */
  readonly revoked: number;
}

/**
 * Inspects the file at the store's path: finds the passphrase to open it, and compares its clients
 * with the backup. A file that cannot be compared is "unopenable", and can still be replaced.
 *
 * @throws {@link StoreError} refused - if it is not a regular file
 */
export async function inspectPresentStore(
  storePath: string,
  source: PassphraseSource,
  backup: ComparedBackup,
): Promise<PresentStore> {
  const stats = await lstatIfExists(storePath);
  if (!stats) return { replaced: { state: "absent" }, revoked: 0 };
  if (!stats.isFile()) {
    throw new StoreError("refused", `${storePath} is not a regular file`, {
      hint: "Name the store's file with --db.",
    });
  }
  let opened: OpenedPresent | undefined;
  try {
    opened = await findSecret(storePath, source);
    const compared = await compareWithBackup(storePath, opened.key, backup);
    const { key: secret, ...known } = opened;
    return { replaced: { state: "open", secret }, ...known, ...compared };
  } catch (error) {
    if (!isKind(error, ...replaceableKinds)) throw error;
    return {
      replaced: { state: "unopenable" },
      keyId: opened?.keyId,
      passphrase: opened?.passphrase,
      generation: opened?.generation,
      revoked: 0,
    };
  }
}

/** The errors with which a store cannot be compared, but can be replaced. */
const replaceableKinds: readonly ErrorKind[] = [
  "wrongPassphrase",
  "passphraseUnavailable",
  "corrupted",
  "newerVersion",
  "notFound",
  "refused",
];

type ComparedBackup = Pick<VerifiedBackup, "verifiedPath" | "key">;

interface OpenedPresent extends Pick<PresentStore, "keyId" | "passphrase" | "generation"> {
  readonly key: Secret;
}

async function findSecret(storePath: string, source: PassphraseSource): Promise<OpenedPresent> {
  const { format } = await identify(storePath);
  if (format === "plaintext") return { key: undefined };
  if (format === "unknown") {
    throw new StoreError("corrupted", `${storePath} is not a database`);
  }
  const unlocked = await unlockForInspection(storePath, source);
  await unlocked.connection.close();
  return unlocked;
}

/**
 * Opens the store read-only if possible: a writable connection with the wrong key deletes the log
 * when it is closed. Only the rollback after a crash requires a writable connection, and SQLite
 * rolls back with any key.
 */
async function unlockForInspection(
  storePath: string,
  source: PassphraseSource,
): Promise<UnlockedStore> {
  try {
    return await unlock(storePath, source, { mode: "readonly" });
  } catch (error) {
    if (!isKind(error, "io")) throw error;
    return unlock(storePath, source, { mode: "readwrite" });
  }
}

async function compareWithBackup(
  storePath: string,
  secret: Secret,
  backup: ComparedBackup,
): Promise<{ differences: Differences; revoked: number }> {
  await using now = await openTable(storePath, secret);
  const opened = await openImmutable(backup.verifiedPath, backup.key);
  await using older = await ClientStore.from(opened);
  const differences = await compareClients(now, older);
  return { differences, revoked: (await now.counts()).revoked };
}

/** Opens the clients of an encrypted or plaintext database. */
export async function openTable(path: string, secret: Secret): Promise<ClientTable> {
  const connection = await openDatabase(path, secret);
  try {
    return await readTable(connection);
  } catch (error) {
    await connection.close();
    throw error;
  }
}

export async function readTable(connection: Connection): Promise<ClientTable> {
  return new ClientTable(connection, await readSchema(connection));
}
