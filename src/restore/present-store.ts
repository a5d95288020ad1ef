/** The store that a restore replaces: whether anything that is kept opens it, and how it differs from the backup. */
import { type ErrorKind, StoreError } from "../errors.js";
import { lstatIfExists } from "../fs/read.js";
import type { Generation, PassphraseSource } from "../keys/source.js";
import { type UnlockedStore, unlock } from "../keys/unlock.js";
import {
  identify,
  openDatabase,
  openEncrypted,
  type Secret,
  type StoreKey,
} from "../store/cipher.js";
import { ClientStore } from "../store/client-store.js";
import { ClientTable } from "../store/client-table.js";
import { checkSchema } from "../store/schema.js";
import type { Replaced } from "../swap/swap.js";
import { compareClients, type Differences } from "./differences.js";

/** The store that is there now. */
export interface PresentStore {
  readonly replaced: Replaced;
  readonly keyId?: string | undefined;
  readonly passphrase?: string | undefined;
  readonly generation?: Generation | undefined;
  /** From the backup; undefined if its clients cannot be read. */
  readonly differences?: Differences | undefined;
}

/** What is at the store's path, whether anything that is kept opens it, and how it differs from the backup. */
export async function inspectPresentStore(
  storePath: string,
  source: PassphraseSource,
  backup: { readonly path: string; readonly key: StoreKey },
): Promise<PresentStore> {
  const there = await lstatIfExists(storePath);
  if (!there) return { replaced: { state: "absent" } };
  if (!there.isFile()) {
    throw new StoreError("refused", `${storePath} is not a file`, {
      hint: "--db names the store's file",
    });
  }
  let opened: OpenedPresent | undefined;
  try {
    opened = await secretOfPresent(storePath, source);
    const differences = await compare(storePath, opened.key, backup);
    const { key: secret, ...known } = opened;
    return { replaced: { state: "open", secret }, ...known, differences };
  } catch (error) {
    if (!(error instanceof StoreError) || !hopeless.includes(error.kind)) throw error;
    return {
      replaced: { state: "unopenable" },
      keyId: opened?.keyId,
      passphrase: opened?.passphrase,
      generation: opened?.generation,
    };
  }
}

/** Errors that say that a store is of no use here as it is: to be replaced, but not to be learnt from. */
const hopeless: readonly ErrorKind[] = [
  "wrongPassphrase",
  "passphraseUnavailable",
  "corrupted",
  "newerVersion",
  "notFound",
  "refused",
];

interface OpenedPresent extends Pick<PresentStore, "keyId" | "passphrase" | "generation"> {
  readonly key: Secret;
}

async function secretOfPresent(
  storePath: string,
  source: PassphraseSource,
): Promise<OpenedPresent> {
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
 * A connection that may write, and has the wrong key, throws away a log that makes no sense to it when it is closed. One
 * that may not cannot roll back what a crash has left; that works with any key.
 */
async function unlockForInspection(
  storePath: string,
  source: PassphraseSource,
): Promise<UnlockedStore> {
  try {
    return await unlock(storePath, source, { mode: "readonly" });
  } catch (error) {
    if (!(error instanceof StoreError && error.kind === "io")) throw error;
    return unlock(storePath, source, { mode: "readwrite" });
  }
}

async function compare(
  storePath: string,
  secret: Secret,
  backup: { readonly path: string; readonly key: StoreKey },
): Promise<Differences> {
  await using now = await openTable(storePath, secret);
  const opened = await openEncrypted(backup.path, backup.key, {
    mode: "readonly",
    immutable: true,
  });
  await using older = await ClientStore.from(opened);
  return await compareClients(now, older);
}

/** The clients in a database that is encrypted or not. */
export async function openTable(path: string, secret: Secret): Promise<ClientTable> {
  const connection = await openDatabase(path, secret);
  try {
    return new ClientTable(connection, await checkSchema(connection));
  } catch (error) {
    await connection.close();
    throw error;
  }
}
