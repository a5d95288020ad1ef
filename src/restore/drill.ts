/**
 * `drill`: restores a backup into a temporary directory and reads every client. The store, its
 * service and the keyring stay unchanged.
 *
 * `verify` reads the backup where it is. A drill copies it like a restore, opens the copy for
 * writing like a hub, and decodes each client.
 */
import { lstat, mkdtemp, readdir, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { basename, join } from "node:path";
import { manifestPath } from "../backup/manifest.js";
import {
  type BackupPassphrase,
  describeFailedChecks,
  unlockBackup,
  verifyBackup,
} from "../backup/verify.js";
import { type ClientCounts, countClients } from "../client/client.js";
import { StoreError, systemError } from "../errors.js";
import { assertFreeSpace, copyFile } from "../fs/copy.js";
import { statIfExists } from "../fs/read.js";
import { throwIfAborted } from "../process/abort.js";
import { isAlive } from "../process/proc.js";
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
export async function drill({ backup, secret, signal }: DrillOptions): Promise<DrillResult> {
  const { size = 0 } = (await statIfExists(backup)) ?? {};
  const directory = await makeDrillDirectory();
  try {
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
    if (
      clients.active !== manifest.clients.active ||
      clients.revoked !== manifest.clients.revoked
    ) {
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
  } finally {
    await rm(directory, { recursive: true, force: true });
  }
}

/**
 * Creates the directory of the copy. Its name contains the process id, by which a later drill
 * recognizes the directory of a killed drill.
 */
async function makeDrillDirectory(): Promise<string> {
  await removeLeftovers(tmpdir());
  try {
    return await mkdtemp(join(tmpdir(), `hivemind-sqlcipher-drill-${process.pid}-`));
  } catch (error) {
    throw systemError(error, `cannot create a directory in ${tmpdir()}`);
  }
}

/**
 * Removes this user's copies of killed drills. Ignores errors, because a copy that stays does not
 * prevent the drill.
 */
async function removeLeftovers(parent: string): Promise<void> {
  for (const name of await readdir(parent).catch(() => [])) {
    const [, pid] = /^hivemind-sqlcipher-drill-(\d+)-[^-]+$/.exec(name) ?? [];
    if (pid === undefined || isAlive(Number(pid))) continue;
    const path = join(parent, name);
    const found = await lstat(path).catch(() => undefined);
    if (!found?.isDirectory() || found.uid !== process.geteuid?.()) continue;
    await rm(path, { recursive: true, force: true }).catch(() => undefined);
  }
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
