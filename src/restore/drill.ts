/**
 * `drill`: restores a backup into a temporary directory and reads every client. The store, its
 * service and the keyring stay unchanged.
 *
 * `verify` reads the backup where it is. A drill copies it like a restore, opens the copy for
 * writing like a hub, and decodes each client.
 */
import { basename, join } from "node:path";
import { manifestPath } from "../backup/manifest.js";
import {
  type BackupPassphrase,
  describeFailedChecks,
  unlockBackup,
  verifyBackup,
} from "../backup/verify.js";
import { type ClientCounts, countClients } from "../client/client.js";
import { StoreError } from "../errors.js";
import { assertFreeSpace, copyFile } from "../fs/copy.js";
import { statIfExists } from "../fs/read.js";
import { throwIfAborted } from "../process/abort.js";
import { withTemporaryDirectory } from "../process/temporary-directory.js";
import { ClientStore } from "../store/client-store.js";
import { shellQuote } from "../text/escape.js";

export interface DrillOptions {
  /** The path of the backup. */
  readonly backup: string;
  /** The passphrase from the bundle, or the passphrases kept for the store. */
  readonly secret: BackupPassphrase;
  readonly signal: AbortSignal;
}

export interface DrillResult {
  readonly backup: string;
  readonly createdAt: string;
  readonly keyId: string;
  /** The size of the backup in bytes. */
  readonly size: number;
  readonly schemaVersion: number;
  /** The clients that were read from the restored copy. */
  readonly clients: ClientCounts;
}

/**
 * Restores a backup into a temporary directory, compares it with its manifest, reads every client,
 * and removes the copy.
 *
 * @throws {@link StoreError} corrupted - if the copy differs from its manifest, or a client cannot
 *   be read
 * @throws {@link StoreError} io - if there is no space for the copy
 * @throws {@link StoreError} interrupted - if the signal is aborted
 * @throws {@link StoreError} what `verifyBackup` throws
 */
export async function drill(options: DrillOptions): Promise<DrillResult> {
  return await withTemporaryDirectory("hivemind-sqlcipher-drill", (directory) =>
    drillIn(directory, options),
  );
}

async function drillIn(
  directory: string,
  { backup, secret, signal }: DrillOptions,
): Promise<DrillResult> {
  const { size = 0 } = (await statIfExists(backup)) ?? {};
  await assertFreeSpace(
    directory,
    size,
    "the restored copy",
    "Free some space, or set TMPDIR to a directory with more.",
  );
  const copy = join(directory, basename(backup));
  await copyFile(backup, copy, { signal });
  await copyFile(manifestPath(backup), manifestPath(copy), { signal });
  throwIfAborted(signal);
  const { ok, checks, manifest } = await verifyBackup(copy, secret);
  if (!ok || manifest === undefined) {
    throw drillError(backup, describeFailedChecks(checks)[0] ?? "it has no manifest");
  }
  throwIfAborted(signal);
  const clients = await readClients(copy, secret);
  if (clients.active !== manifest.clients.active || clients.revoked !== manifest.clients.revoked) {
    const { active, revoked } = manifest.clients;
    throw drillError(
      backup,
      `${clients.active} active and ${clients.revoked} revoked clients were read, and its manifest has ${active} and ${revoked}`,
    );
  }
  return {
    backup,
    size,
    clients,
    createdAt: manifest.created_at,
    keyId: manifest.key_id,
    schemaVersion: manifest.schema_version,
  };
}

function drillError(backup: string, problem: string): StoreError {
  return new StoreError("corrupted", `${backup} cannot be restored: ${problem}`, {
    hint: `Make a new backup with hivemind-sqlcipher backup. To see every check: hivemind-sqlcipher verify ${shellQuote(backup)}`,
  });
}

/** Opens the copy for writing, as a hub does, and decodes every client. */
async function readClients(copy: string, secret: BackupPassphrase) {
  const { key } = await unlockBackup(copy, secret);
  await using store = await ClientStore.open(copy, key);
  return await countClients(store);
}
