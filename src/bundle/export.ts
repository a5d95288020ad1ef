/** `bundle export`: writes the passphrase bundle of a store that opens. */

import { prepareDirectories } from "../config/known-directories.js";
import type { PassphraseSource } from "../keys/source.js";
import { unlock } from "../keys/unlock.js";
import type { Reporter } from "../reporter.js";
import { type Bundle, writeBundle } from "./bundle.js";
import { assertPlacement } from "./placement.js";

export interface ExportOptions {
  readonly storePath: string;
  readonly source: PassphraseSource;
  readonly directory: string;
  /** The backup directory, if known: bundles are kept apart from it. */
  readonly backupDirectory?: string | undefined;
  /** Directories that the settings name, and that are therefore not made if they are gone. */
  readonly knownDirectories: readonly string[];
  readonly reporter: Pick<Reporter, "notice" | "confirm">;
  readonly recipients: readonly string[];
  readonly bundlePassphrase?: string | undefined;
}

/**
 * Writes the bundle, or returns the existing one if it is still valid. The caller holds the store's
 * operation lock, because concurrent writers remove each other's staged files.
 *
 * @throws {@link StoreError} `refused` - for a directory that would hold both backups and bundles
 * @throws {@link StoreError} `usage` - without a recipient
 * @throws {@link StoreError} `io` - if a directory that is known is gone
 * @throws {@link StoreError} what `unlock` throws
 */
export async function exportPassphrase(
  options: ExportOptions,
): Promise<{ bundle: Bundle; notices: string[] }> {
  const { storePath, directory, backupDirectory, recipients, bundlePassphrase } = options;
  const notices =
    backupDirectory === undefined ? [] : await assertPlacement(backupDirectory, directory);
  const { connection, key, passphrase } = await unlock(storePath, options.source, {
    mode: "readwrite",
  });
  await connection.close();
  await prepareDirectories([directory], {
    storePath,
    known: options.knownDirectories,
    reporter: options.reporter,
  });
  const bundle = await writeBundle({
    directory,
    storePath,
    passphrase,
    key,
    recipients,
    bundlePassphrase,
  });
  return { bundle, notices };
}
