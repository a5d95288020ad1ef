/** Removing a backup: its file and its manifest, which go together. */
import { dirname } from "node:path";
import { removeFile, syncDirectory } from "../fs/atomic.js";
import { emitStep } from "../operation/step.js";
import { manifestPath } from "./manifest.js";

/**
 * Removes a backup, of which a part may be gone already.
 *
 * @throws StoreError `io`.
 */
export async function removeBackup(path: string): Promise<void> {
  // The manifest last: one without its backup is known for what it is, a backup without one is not.
  await removeFile(path);
  emitStep("backup-file.removed");
  await removeFile(manifestPath(path));
  await syncDirectory(dirname(path));
}
