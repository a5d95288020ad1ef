/**
 * The main job: a verified copy of the store and the bundle for it, with a short downtime.
 *
 * Everything that can be checked in advance is checked first (prepare.ts). Most of a store in WAL
 * mode is copied while the service runs (warm-copy.ts). Each step is journaled before it begins, so
 * that after a kill at any point the next command or the restart timer can recover (recover.ts).
 */
import { type Bundle, type BundleReport, bundleReport, writeBundle } from "../bundle/bundle.js";
import { StoreError } from "../errors.js";
import type { Downtime, Restart } from "../operation/downtime.js";
import { Journal } from "../operation/journal.js";
import { type OperationFailure, orRecover, withRecovery } from "../operation/recovery-parts.js";
import { assertNoHolders, type ServiceReport } from "../operation/service.js";
import { reportService, withServiceStopped } from "../operation/window.js";
import { orAbort, throwIfAborted } from "../process/abort.js";
import { withSignal } from "../process/interaction.js";
import { openImmutable } from "../store/cipher.js";
import { type BackupJournal, type BackupStep, emitBackupStep, planFiles } from "./journal.js";
import { type NamedBackup, nameBackup } from "./name.js";
import { type BackupOptions, type Prepared, prepareBackup } from "./prepare.js";
import { recoverBackup } from "./recover.js";
import { chooseStoreId } from "./store-id.js";
import { verifyCopy } from "./verify.js";
import { WarmCopy } from "./warm-copy.js";

export type { BackupOptions } from "./prepare.js";

export interface BackupResult {
  readonly backup: NamedBackup;
  readonly bundle: BundleReport;
  readonly service: ServiceReport;
  readonly verified: true;
}

/** Time limit of the work while the service is stopped, for a warm copy: 30 s. */
const windowBudgetMs = 30_000;
/**
 * Extends the limit by the store's size for a store that is not in WAL mode, which is copied while
 * the service is stopped. A slow USB stick writes 20 MB/s.
 */
const slowestCopyBytesPerMs = 20_000;

interface Job {
  readonly options: BackupOptions;
  readonly prepared: Prepared;
  readonly journal: Journal;
  readonly files: BackupJournal;
  readonly copy: WarmCopy;
  readonly storeId: string | undefined;
  readonly recover: (failed: OperationFailure) => Promise<unknown>;
}

/** A complete copy, with every commit up to `at`. */
interface Copied {
  readonly at: Date;
  readonly restart: Restart | undefined;
}

/**
 * Makes a backup, and a bundle unless the existing bundle is still valid.
 *
 * @throws {@link StoreError} of every kind. No backup is left, but the bundle may be, and a service
 *   that ran before runs again. If the service cannot be started, the message reports this, and the
 *   next command tries again. If only the journal could not be removed (`io`), the message reports
 *   that the backup exists.
 */
export async function backup(options: BackupOptions): Promise<BackupResult> {
  const prepared = await withSignal(options.signal, () => prepareBackup(options));
  const { storePath, key } = prepared;
  const files = planFiles(prepared);
  const storeId = await chooseStoreId(prepared);
  await using copy = new WarmCopy(storePath, key, files.staged.copy);
  const journal = await Journal.begin(storePath, "backup", "backup.beginning", files);
  emitBackupStep("backup.beginning");
  const recover = async (failed: OperationFailure) => {
    // A copier may hang on a disk and must not keep the service down, so its exit is not awaited.
    if (failed.downtime) await copy.release().catch(() => undefined);
    else await copy[Symbol.asyncDispose]();
    return await recoverFailedBackup(journal, storePath, failed);
  };
  const job: Job = { options, prepared, journal, files, copy, storeId, recover };
  const { restart, ...result } = await copyAndName(job);
  await journal.end(`the backup ${result.backup.path} is complete and verified`);
  const service = await reportService(prepared.service, restart, options.reporter);
  return { ...result, service, verified: true };
}

async function recoverFailedBackup(
  journal: Journal,
  storePath: string,
  failed: OperationFailure,
): Promise<unknown> {
  const recovery = await recoverBackup(journal, storePath, failed);
  const outcome =
    "the service is not running again, the store is unchanged, and no backup was made";
  return withRecovery(failed.failure, recovery, recovery.serviceDown && outcome);
}

async function copyAndName(
  job: Job,
): Promise<Pick<BackupResult, "backup" | "bundle"> & Pick<Copied, "restart">> {
  const { options, prepared, recover } = job;
  const { wasActive } = prepared.service;
  const bundle = await orRecover(() => copyWarm(job), recover);
  const copied =
    wasActive && !options.online
      ? await copyWhileStopped(job)
      : await orRecover(() => completeCopy(job), recover);
  const named = await orRecover(() => verifyAndName(job, copied), recover);
  return { backup: named, bundle: bundleReport(bundle), restart: copied.restart };
}

/** Writes the bundle, and copies a store in WAL mode while it is in use. */
async function copyWarm({ options, prepared, copy, storeId }: Job): Promise<Bundle> {
  const { signal, reporter } = options;
  const bundle = await writeBundle({
    directory: prepared.bundleDirectory,
    storePath: prepared.storePath,
    storeId,
    passphrase: prepared.passphrase,
    key: prepared.key,
    recipients: options.recipients,
    bundlePassphrase: options.bundlePassphrase,
  });
  emitBackupStep("backup.bundled");
  reporter.detail(
    `${bundle.reused ? "the bundle is still good" : "wrote the bundle"}: ${bundle.path}`,
  );
  throwIfAborted(signal);
  if (prepared.isWal) {
    await orAbort(copy.warm(signal), signal);
    reporter.detail(`copied ${copy.written} bytes while the store was in use`);
  }
  emitBackupStep("backup.warm");
  return bundle;
}

/** Completes the copy without downtime: the service does not run, or the backup is online. */
async function completeCopy({ options: { signal }, copy }: Job): Promise<Copied> {
  const at = new Date();
  await orAbort(copy.complete(), signal);
  await copy.unpin();
  emitBackupStep("backup.copied");
  return { at, restart: undefined };
}

async function copyWhileStopped({
  options,
  prepared,
  journal,
  files,
  copy,
  recover,
}: Job): Promise<Copied> {
  const { storePath, size, isWal, service } = prepared;
  const { recoveryCommand, signal, reporter } = options;
  const writtenBefore = copy.written;
  let ended: Downtime | undefined;
  const { result: at, restart } = await withServiceStopped(
    {
      service,
      budgetMs: windowBudgetMs + (isWal ? 0 : size / slowestCopyBytesPerMs),
      recoveryCommand,
      reporter,
      signal,
      journalStop: async (stopped) => {
        const data: BackupJournal = { ...files, ...(stopped && { stopped }) };
        await journal.write("backup.stopping" satisfies BackupStep, data);
        emitBackupStep("backup.stopping");
      },
      onArmed: () => emitBackupStep("backup.armed"),
      recover,
    },
    async (downtime) => {
      ended = downtime;
      emitBackupStep("backup.stopped");
      throwIfAborted(signal);
      const stoppedAt = new Date();
      // In parallel, to shorten the downtime. The pin keeps the copy consistent in any case.
      await Promise.all([
        orAbort(copy.complete(), signal),
        assertNoHolders(storePath, { except: copy.pids }),
      ]);
      // Outside of WAL mode, a pin blocks the first write of the service and could prevent its
      // start. In WAL mode it blocks nothing and is released later.
      if (!isWal) await copy.unpin();
      emitBackupStep("backup.copied");
      return stoppedAt;
    },
  );
  emitBackupStep("backup.started");
  const name = service.service.name ?? "the service";
  return await orRecover(
    async () => {
      assertStayedDown(name, restart);
      await journal.write("backup.finishing" satisfies BackupStep, files);
      emitBackupStep("backup.finishing");
      await copy.unpin();
      if (restart) {
        reporter.detail(
          `${name} was stopped for ${restart.downtimeMs} ms, in which ${copy.written - writtenBefore} bytes were copied`,
        );
      }
      return { at, restart };
    },
    // With the downtime, the recovery knows that the service was started already.
    ({ failure }) => recover({ failure, downtime: ended }),
  );
}

/** @throws {@link StoreError} service - if the service was started before the copy was complete */
function assertStayedDown(name: string, restart: Restart | undefined): void {
  if (restart?.timerFired) {
    throw new StoreError(
      "service",
      `the restart timer started ${name} before the copy was complete: the stop or the copy took too long`,
      { hint: "Find out what slows down the disk or the stop of the service, then try again." },
    );
  }
  if (restart?.wasUp) {
    throw new StoreError("service", `something started ${name} during the backup`, {
      hint: "Find out what starts it, or use --online.",
    });
  }
}

/** Verifies the copy, and gives it and its manifest their final names. */
async function verifyAndName(job: Job, { at }: Copied): Promise<NamedBackup> {
  const { options, prepared, journal, files, copy, storeId } = job;
  const { directory, storePath, key, service, method } = prepared;
  const { signal } = options;
  throwIfAborted(signal);
  await copy.truncate();
  // Opens the copy with the passphrase, not with the cached key, as a user of the bundle would.
  const opened = await openImmutable(files.staged.copy, prepared.passphrase);
  // In parallel: the copy is read from the page cache while the disk writes it.
  const inspected = verifyCopy(opened);
  inspected.catch(() => undefined);
  const finished = await orAbort(copy.finish(), signal);
  emitBackupStep("backup.finished");
  const contents = await orAbort(inspected, signal);
  emitBackupStep("backup.verified");
  return await nameBackup({
    directory,
    storePath,
    at,
    journal,
    files,
    key,
    ...finished,
    contents,
    unit: service.service.name,
    method,
    storeId,
  });
}
