/** Makes the first backup of a setup, and removes the plaintext database. */
import { dirname } from "node:path";
import { backup } from "../backup/backup.js";
import { recordRestoreTest } from "../backup/restore-test.js";
import { verifyBackup } from "../backup/verify.js";
import { readBundle } from "../bundle/bundle.js";
import { planRecipients } from "../bundle/recipients.js";
import { loadSection } from "../config/settings-file.js";
import { StoreError } from "../errors.js";
import { removeFile, syncDirectory } from "../fs/atomic.js";
import { lstatIfExists, sha256File } from "../fs/read.js";
import { unlockSecret } from "../keys/unlock.js";
import { recordRun } from "../operation/run-record.js";
import { emitStep } from "../operation/step.js";
import { withOperation } from "../recovery/recover.js";
import { readSetupRecord, updateSetupRecord } from "./record.js";
import { readRecoveryKey } from "./recovery-key-file.js";
import type { FirstBackup, SetupScope } from "./request.js";
import { operationOptions, recipientOptions } from "./store.js";

interface BackupFiles {
  readonly path: string;
  readonly bundle: string;
}

/**
 * Makes a backup, unless there is one, and verifies it.
 *
 * @param makesKeys - whether the backup's bundle is the first one encrypted to the recovery key. A
 *   recovery key is generated if one is needed.
 * @throws {@link StoreError} corrupted - if the backup is damaged
 * @throws {@link StoreError} usage - if a recovery key is needed and cannot be delivered
 */
export async function makeFirstBackup(
  scope: SetupScope,
  { makesKeys }: { makesKeys: boolean },
): Promise<FirstBackup> {
  const { path, bundle } = makesKeys
    ? await makeBackupWithKeys(scope)
    : (scope.found.lastBackup ?? (await makeBackup(scope)));
  return { path, bundle, tested: await verifyWithBundle(scope, path, bundle) };
}

async function makeBackupWithKeys(scope: SetupScope): Promise<BackupFiles> {
  const { settingsPath, storePath, recoveryKeyFile } = scope.request;
  const { path } = recoveryKeyFile;
  const plan = await planRecipients(recipientOptions(scope));
  // After a kill, the next setup finds the path in the record.
  if ((await readSetupRecord(settingsPath, storePath)) && path !== undefined) {
    const change = () => ({ recovery_key_file: path });
    await updateSetupRecord(settingsPath, storePath, change);
  }
  return plan.use(scope.found.directories.bundles, (recipients) => makeBackup(scope, recipients));
}

async function makeBackup(
  scope: SetupScope,
  keyRecipients?: readonly string[],
): Promise<BackupFiles> {
  const { request, found } = scope;
  const { storePath, section, reporter } = request;
  const { backups: to, bundles: bundleTo } = found.directories;
  const recipients = keyRecipients ?? (await loadSection(section))?.recipients ?? [];
  const at = new Date().toISOString();
  const start = performance.now();
  const { backup: made, bundle } = await withOperation(storePath, reporter, (lock) =>
    backup({
      ...operationOptions(scope, lock),
      to,
      bundleTo,
      knownDirectories: [to, bundleTo],
      recipients,
      // Another stop would disconnect the satellites, which have just reconnected.
      online: true,
    }),
  );
  // Without a recorded success, later failures are not recorded.
  await recordRun(storePath, "backup", {
    at,
    duration_ms: Math.round(performance.now() - start),
    exit_code: 0,
    stopped_ms: null,
    size: made.size,
  });
  emitStep("setup.backed-up");
  return { path: made.path, bundle: bundle.path };
}

/**
 * Verifies the backup with the passphrase from its bundle. If the recovery key is not available, as
 * with `--recipient` or after a kill, verifies it with the store's passphrase.
 *
 * @returns whether the bundle was opened
 */
async function verifyWithBundle(
  { request, recoveryKey }: SetupScope,
  path: string,
  bundle: string,
): Promise<boolean> {
  const identity = recoveryKey.identity() ?? (await readRecoveryKey(request.recoveryKeyFile));
  if (identity === undefined) {
    const { passphrase } = await unlockSecret(request.storePath, request.source);
    await assertIntact(path, passphrase);
    return false;
  }
  const { passphrase, key_id } = await readBundle(bundle, { identity });
  await assertIntact(path, passphrase);
  const tried = { how: "verify", backup: path, key_id } as const;
  await recordRestoreTest(request.storePath, tried, { withBundle: true });
  emitStep("setup.tested");
  return true;
}

async function assertIntact(path: string, passphrase: string): Promise<void> {
  if ((await verifyBackup(path, { passphrase })).ok) return;
  throw new StoreError("corrupted", `the first backup ${path} is damaged`, {
    hint: "Check the disk of the backups, then run setup again.",
  });
}

/**
 * Removes the JSON database after its clients were copied. The file with its schema version stays:
 * it has no secret, and undo needs it.
 *
 * @returns the path if the file was kept, because it has changed since it was copied
 */
export async function removePlainCopy({ request }: SetupScope): Promise<string | null> {
  const { settingsPath, storePath, reporter } = request;
  const { database } = (await readSetupRecord(settingsPath, storePath)) ?? {};
  if (database?.kind !== "json" || !(await lstatIfExists(database.place))) return null;
  if ((await sha256File(database.place)) !== database.checksum) {
    await updateSetupRecord(settingsPath, storePath, () => ({ plain_copy_kept: true }));
    reporter.notice(`${database.place} was changed after it was copied, so it was not removed`);
    return database.place;
  }
  await removeFile(database.place);
  await syncDirectory(dirname(database.place));
  emitStep("setup.plain-removed");
  return null;
}
