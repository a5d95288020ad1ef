/** Writes the passphrase bundle of a store for `bundle export`. */
import { prepareDirectories } from "../config/known-directories.js";
import type { PassphraseSource } from "../keys/source.js";
import { unlockSecret } from "../keys/unlock.js";
import type { Reporter } from "../reporter.js";
import { type Bundle, writeBundle } from "./bundle.js";
import { assertPlacement } from "./placement.js";
import type { RecipientPlan } from "./recipients.js";

export interface ExportOptions {
  readonly storePath: string;
  readonly source: PassphraseSource;
  readonly directory: string;
  /** The backup directory, if known. Bundles are kept apart from it. */
  readonly backupDirectory?: string | undefined;
  /** Directories in the settings. They are not created if they are missing. */
  readonly knownDirectories: readonly string[];
  readonly reporter: Pick<Reporter, "notice" | "confirm">;
  /** What the bundle is encrypted with. */
  readonly encryption: { readonly recipientPlan: RecipientPlan } | { readonly passphrase: string };
}

/**
 * Writes the bundle, or returns the existing bundle if it is still valid. Opens the store before a
 * recovery key is generated. The caller holds the store's operation lock, because concurrent
 * writers remove each other's staged files.
 *
 * @throws {@link StoreError} refused - if the directory would contain both backups and bundles
 * @throws {@link StoreError} usage - without a recipient
 * @throws {@link StoreError} io - if a known directory is missing
 * @throws {@link StoreError} what `unlock` throws
 */
export async function exportBundle(options: ExportOptions): Promise<Bundle> {
  const { storePath, directory, backupDirectory, encryption, reporter } = options;
  if (backupDirectory !== undefined) {
    await assertPlacement(backupDirectory, directory, reporter);
  }
  const { key, passphrase } = await unlockSecret(storePath, options.source);
  await prepareDirectories([directory], { storePath, known: options.knownDirectories, reporter });
  const request = { directory, storePath, passphrase, key };
  if ("passphrase" in encryption) {
    const bundlePassphrase = encryption.passphrase;
    return await writeBundle({ ...request, recipients: [], bundlePassphrase });
  }
  return await encryption.recipientPlan.use(directory, (recipients) =>
    writeBundle({ ...request, recipients }),
  );
}
