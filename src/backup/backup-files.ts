/** Reads and removes listed backups, which may be on a remote. */
import { removeBackup } from "./manifest.js";

export interface BackupFiles {
  /**
   * Makes the whole backup readable at its path. For a listing of a remote, only its beginning was
   * downloaded.
   *
   * @throws {@link StoreError} io - if it cannot be read
   */
  complete(path: string): Promise<void>;
  /**
   * Removes a backup and its manifest, either of which may be gone already.
   *
   * @throws {@link StoreError} io - if a file cannot be removed
   */
  remove(path: string): Promise<void>;
}

/** The backups in a directory of this machine. */
export const localFiles: BackupFiles = { complete: async () => undefined, remove: removeBackup };
