/** `bundle export`: the passphrase bundle of a store that opens. */

import { makeDirectory } from "../fs/atomic.js";
import type { PassphraseSource } from "../keys/source.js";
import { unlock } from "../keys/unlock.js";
import { type Bundle, writeBundle } from "./bundle.js";
import { assertPlacement } from "./placement.js";

export interface ExportOptions {
  readonly storePath: string;
  readonly source: PassphraseSource;
  /** Where the bundle goes. */
  readonly folder: string;
  /** Where backups go, if that is known: the two are kept apart. */
  readonly backupFolder?: string | undefined;
  readonly recipients: readonly string[];
  readonly bundlePassphrase?: string | undefined;
}

/**
 * Writes the bundle, or finds that the one there still holds. Hold the store's operation lock: two who write the same
 * bundle take each other's unfinished one for a killed process's.
 *
 * @throws StoreError `refused` for a folder that would hold backup and bundle, `usage` without a recipient, and whatever
 *   opening the store throws.
 */
export async function exportPassphrase(
  options: ExportOptions,
): Promise<{ bundle: Bundle; notices: string[] }> {
  const { storePath, folder, backupFolder, recipients, bundlePassphrase } = options;
  const notices = backupFolder === undefined ? [] : await assertPlacement(backupFolder, folder);
  const { connection, key, passphrase } = await unlock(storePath, options.source, {
    mode: "readwrite",
  });
  await connection.close();
  await makeDirectory(folder);
  const bundle = await writeBundle({
    folder,
    storePath,
    passphrase,
    key,
    recipients,
    bundlePassphrase,
  });
  return { bundle, notices };
}
