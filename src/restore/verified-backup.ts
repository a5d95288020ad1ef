/** Chooses and verifies the backup of a restore, before anything changes. */
import { findNewestBackup, readBackupKeyIds } from "../backup/manifest.js";
import { findParts } from "../backup/parts.js";
import { describeFailedChecks, verifyContents } from "../backup/verify.js";
import { type BundleOpener, readBundle } from "../bundle/bundle.js";
import type { ClientCounts } from "../client/client.js";
import { readStoreId, recordStoreId } from "../config/store-id.js";
import { StoreError } from "../errors.js";
import { lstatIfExists, statIfExists } from "../fs/read.js";
import { bundleName } from "../keys/bundle-name.js";
import type { PassphraseSource } from "../keys/source.js";
import { openImmutable, type StoreKey } from "../store/cipher.js";
import { ClientStore } from "../store/client-store.js";
import type { ClientTable } from "../store/client-table.js";
import { describeClient, shellQuote } from "../text/escape.js";

/** A backup file, or the newest backup in a directory not newer than a time. */
export type BackupChoice =
  | { readonly file: string }
  | { readonly directory: string; readonly before: Date };

export interface VerifiedBackup {
  readonly path: string;
  /** The verified file: the backup, or a private copy of it. */
  readonly verifiedPath: string;
  /** The failed checks accepted with `noManifest`; undefined if no check failed. */
  readonly doubt: string | undefined;
  /** When the backup was made; null if a check failed. */
  readonly createdAt: string | null;
  readonly passphrase: string;
  readonly key: StoreKey;
  readonly schemaVersion: number;
  readonly clients: ClientCounts;
  readonly admins: string[];
  /**
   * The checksum of the verified file, in hex, because another user of its directory may replace
   * the file later.
   */
  readonly sha256: string;
  /** The id of its store, from the manifest, or else from the bundle. */
  readonly storeId: string | undefined;
}

export interface BackupToVerify {
  readonly backup: BackupChoice;
  readonly source: PassphraseSource;
  /** The bundle with the passphrase. Without it, the passphrase is read from the store's source. */
  readonly bundle?: { readonly path: string; readonly opener: BundleOpener } | undefined;
  /** Accepts a file without a valid manifest, if it opens and every page is sound. */
  readonly noManifest?: boolean | undefined;
}

/**
 * Chooses the backup and verifies it completely.
 *
 * @param storePath - the store that was backed up
 * @param copy - copies the backup when its passphrase is known, and returns the path of the private
 *   copy. Only the copy is then verified: see `verifyContents`.
 * @throws {@link StoreError} notFound - if there is no such backup
 * @throws {@link StoreError} corrupted - if it does not verify or has no valid manifest
 * @throws {@link StoreError} refused - if the bundle has another key_id than the backup
 * @throws {@link StoreError} - what `readBundle` and `verifyBackup` throw
 */
export async function verifyChosenBackup(
  storePath: string,
  options: BackupToVerify,
  copy?: (path: string) => Promise<string>,
): Promise<VerifiedBackup> {
  const path = await chooseBackup(options.backup, storePath);
  const bundle = await readMatchingBundle(path, options);
  const secret = bundle ?? { source: options.source, storePath };
  const { verification, opened } = await verifyContents(path, secret, copy);
  const { ok, checks, sha256, manifest } = verification;
  const failed = checks.filter((check) => !check.ok);
  const essential = new Set(["encrypted", "opens", "pages", "structure"]);
  const refused = options.noManifest ? failed.filter(({ name }) => essential.has(name)) : failed;
  if (refused.length > 0 || !opened || opened.inspection instanceof StoreError) {
    const isSound = !failed.some(({ name }) => essential.has(name));
    throw new StoreError(
      "corrupted",
      `${path} does not verify: ${describeFailedChecks(refused).join("; ")}`,
      isSound
        ? { hint: "Accept it with --no-manifest if you trust its origin." }
        : { hint: "Use another backup, or another copy of this backup." },
    );
  }
  const { path: verifiedPath, key, passphrase, inspection } = opened;
  await using store = await ClientStore.from(await openImmutable(verifiedPath, key));
  return {
    path,
    verifiedPath,
    doubt: ok ? undefined : describeFailedChecks(checks).join("; "),
    createdAt: ok ? (manifest?.created_at ?? null) : null,
    passphrase,
    key,
    schemaVersion: inspection.schemaVersion,
    clients: inspection.clients,
    admins: await describeAdmins(store),
    sha256,
    storeId: (ok ? manifest?.store_id : undefined) ?? bundle?.storeId,
  };
}

/**
 * Returns the path of the chosen backup.
 *
 * @throws {@link StoreError} notFound - if it does not exist, or no backup is old enough
 * @throws {@link StoreError} io - if the directory is a file or cannot be read
 */
export async function chooseBackup(choice: BackupChoice, storePath: string): Promise<string> {
  if ("file" in choice) {
    if (await lstatIfExists(choice.file)) return choice.file;
    if ((await findParts(choice.file)).length > 0) return choice.file;
    throw new StoreError("notFound", `no such backup: ${choice.file}`, {
      hint: "Name the .db file. List the backups with hivemind-sqlcipher backups.",
    });
  }
  const { directory, before } = choice;
  const newest = await findNewestBackup(directory, storePath, before);
  if (newest) return newest.path;
  const stats = await statIfExists(directory);
  if (stats && !stats.isDirectory()) throw new StoreError("io", `${directory} is not a directory`);
  if (!stats) {
    throw new StoreError("notFound", `no such directory: ${directory}`, {
      hint: "Mount its disk, or correct backup.to in the settings.",
    });
  }
  throw new StoreError(
    "notFound",
    `no backup from before ${before.toISOString()} in ${directory}`,
    {
      hint: `List the backups with hivemind-sqlcipher backups ${shellQuote(directory)}.`,
    },
  );
}

/** @returns undefined without a bundle in the options */
async function readMatchingBundle(
  path: string,
  { bundle }: BackupToVerify,
): Promise<{ passphrase: string; storeId: string | undefined } | undefined> {
  if (!bundle) return undefined;
  const {
    passphrase,
    key_id: keyId,
    store_id: storeId,
  } = await readBundle(bundle.path, bundle.opener);
  const keyIds = await readBackupKeyIds(path);
  const wanted = keyIds.at(-1);
  if (wanted !== undefined && !keyIds.includes(keyId)) {
    throw new StoreError(
      "refused",
      `${bundle.path} is for key_id ${keyId}, and ${path} has ${wanted}`,
      { hint: `Use the bundle ${bundleName(wanted)}.` },
    );
  }
  return { passphrase, storeId };
}

/** Records the id of the backed-up store, so that `prune` counts old and new backups together. */
export async function adoptStoreId(storePath: string, { storeId }: VerifiedBackup): Promise<void> {
  if (storeId === undefined || (await readStoreId(storePath))?.id === storeId) return;
  await recordStoreId(storePath, storeId);
}

async function describeAdmins(store: ClientTable): Promise<string[]> {
  return (await store.admins()).map(({ client_id: id, name }) => describeClient(id, name));
}
