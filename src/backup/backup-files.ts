/** Makes listed backups readable, and removes them. They may be on a remote. */
import { listDirectory } from "../fs/read.js";
import { removeBackup } from "./manifest.js";

export interface BackupFiles {
  /**
   * Returns the names of the files in the directory, also of those that the view of a remote does
   * not show.
   *
   * @throws {@link StoreError} io - if the directory cannot be read
   */
  names(folder: string): Promise<readonly string[]>;
  /**
   * Makes the whole backup readable at its path, until the call for another backup. In the view of
   * a remote, the path has a sparse file of the backup's size, at most with the backup's first
   * page: this downloads the whole backup.
   *
   * @throws {@link StoreError} io - if the download fails
   */
  makeReadable(path: string): Promise<void>;
  /**
   * Removes a backup and its manifest. Either may be gone already.
   *
   * @throws {@link StoreError} io - if a file cannot be removed
   */
  remove(path: string): Promise<void>;
}

/** The backups in a directory of this machine. */
export const localFiles: BackupFiles = {
  names: async (folder) => (await listDirectory(folder)) ?? [],
  makeReadable: async () => undefined,
  remove: removeBackup,
};
