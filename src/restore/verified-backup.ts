/** Which backup a restore is of, and the proof that all of it is sound, before anything is touched. */
import { isDeepStrictEqual } from "node:util";
import { newestBackup } from "../backup/manifest.js";
import { type BackupPassphrase, inspectSound, openBackup, verifyBackup } from "../backup/verify.js";
import { type BundleOpener, readBundle } from "../bundle/bundle.js";
import { StoreError } from "../errors.js";
import { lstatIfExists, sha256File, statIfExists } from "../fs/read.js";
import type { PassphraseSource } from "../keys/source.js";
import { identify, openEncrypted, type StoreKey } from "../store/cipher.js";
import { ClientStore } from "../store/client-store.js";
import type { ClientTable } from "../store/client-table.js";
import { describeClient } from "../text/escape.js";

/** Which backup: a file, or the newest in a folder that is not newer than a moment. */
export type BackupChoice =
  | { readonly file: string }
  | { readonly folder: string; readonly before: Date };

/** What is known of a backup that was verified. */
export interface VerifiedBackup {
  readonly path: string;
  /** What does not hold, where that was accepted; undefined if all does. */
  readonly doubt: string | undefined;
  /** Null unless the manifest holds. */
  readonly createdAt: string | null;
  readonly passphrase: string;
  readonly key: StoreKey;
  readonly schemaVersion: number;
  readonly clients: { active: number; revoked: number };
  readonly admins: string[];
  /** Of the file that was verified, in hex: whoever can write to its folder can put another one there meanwhile. */
  readonly sha256: string;
}

/** What is known before of a backup that is to be restored. */
export interface BackupToVerify {
  readonly storePath: string;
  readonly backup: BackupChoice;
  readonly source: PassphraseSource;
  /** Where the passphrase comes from, if not from where this store's is kept. */
  readonly bundle?: { readonly path: string; readonly opener: BundleOpener } | undefined;
  /** Accepts a bare encrypted file, or one whose manifest does not hold, if it opens and every page is sound. */
  readonly noManifest?: boolean | undefined;
}

/**
 * Chooses the backup and verifies all of it.
 *
 * @throws StoreError `notFound` for a backup that is not there; `corrupted` for one that does not verify, or has no
 *   manifest that holds; `newerVersion`; `wrongPassphrase`; `refused` for a bundle of another store.
 */
export async function verifyChosen(options: BackupToVerify): Promise<VerifiedBackup> {
  const path = await chooseBackup(options.backup, options.storePath);
  const secret = await passphraseFor(path, options);
  const { ok, checks, sha256, manifest } = await verifyBackup(path, secret);
  const failed = checks.filter((check) => !check.ok);
  const essential = new Set(["encrypted", "opens", "pages", "structure"]);
  const refused = options.noManifest ? failed.filter(({ name }) => essential.has(name)) : failed;
  if (!ok && refused.length > 0) {
    const bare = !failed.some(({ name }) => essential.has(name));
    throw new StoreError(
      "corrupted",
      `${path} does not verify: ${refused.map(({ name, detail }) => `${name}: ${detail}`).join("; ")}`,
      bare
        ? { hint: "--no-manifest accepts it for what it is, if you know where it has been" }
        : { hint: "take another backup, or another copy of this one" },
    );
  }
  const { connection, key, keyId, passphrase } = await openBackup(path, secret);
  const store = await ClientStore.from({ connection, key, keyId });
  try {
    return {
      path,
      doubt: ok ? undefined : failed.map(({ name, detail }) => `${name}: ${detail}`).join("; "),
      createdAt: ok ? (manifest?.created_at ?? null) : null,
      passphrase,
      key,
      schemaVersion: store.schemaVersion,
      clients: await store.counts(),
      admins: await adminsOf(store),
      sha256,
    };
  } finally {
    await store.close();
  }
}

/**
 * Whether a copy that nobody else can write to is the file that was verified and shown. The sum alone does not say so: a
 * folder may show one file to who sums it up and another one to who opens it.
 *
 * @throws StoreError `corrupted` if it is not sound, where there was no manifest to hold it to.
 */
export async function isWhatWasVerified(copy: string, backup: VerifiedBackup): Promise<boolean> {
  const { key, doubt, sha256, clients, admins } = backup;
  if ((await sha256File(copy)) !== sha256) return false;
  const options = { mode: "readonly", immutable: true } as const;
  if (doubt !== undefined) await inspectSound(await openEncrypted(copy, key, options));
  await using store = await ClientStore.from(await openEncrypted(copy, key, options));
  return isDeepStrictEqual([await store.counts(), await adminsOf(store)], [clients, admins]);
}

/**
 * The file that is meant, which is there.
 *
 * @throws StoreError `notFound` if it is not, or if the folder has none that is old enough; `io` if that cannot be read.
 */
export async function chooseBackup(choice: BackupChoice, storePath: string): Promise<string> {
  if ("file" in choice) {
    if (await lstatIfExists(choice.file)) return choice.file;
    throw new StoreError("notFound", `there is no backup ${choice.file}`, {
      hint: "name the .db file; hivemind-sqlcipher backups lists them",
    });
  }
  const { folder, before } = choice;
  const newest = await newestBackup(folder, storePath, before);
  if (newest) return newest.path;
  const stats = await statIfExists(folder);
  if (stats && !stats.isDirectory()) throw new StoreError("io", `${folder} is not a directory`);
  if (!stats) {
    throw new StoreError("notFound", `there is no folder ${folder}`, {
      hint: "name the folder that backups go to; is its disk mounted?",
    });
  }
  throw new StoreError("notFound", `${folder} has no backup from before ${before.toISOString()}`, {
    hint: `hivemind-sqlcipher backups '${folder}' lists those that there are`,
  });
}

async function passphraseFor(
  path: string,
  { bundle, source, storePath }: BackupToVerify,
): Promise<BackupPassphrase> {
  if (!bundle) return { source, storePath };
  const { passphrase, key_id: keyId } = await readBundle(bundle.path, bundle.opener);
  const identity = await identify(path);
  if (identity.keyId !== undefined && identity.keyId !== keyId) {
    throw new StoreError(
      "refused",
      `${bundle.path} is for key_id ${keyId}, and ${path} has ${identity.keyId}`,
      { hint: `the bundle that is needed is clients.${identity.keyId}.bundle.age` },
    );
  }
  return { passphrase };
}

async function adminsOf(store: ClientTable): Promise<string[]> {
  return (await store.admins()).map(({ client_id: id, name }) => describeClient(id, name));
}
