/**
 * The main job: a verified copy of the store, and the bundle that opens it, with the service away for a moment.
 *
 * Everything that can fail is tried first, and everything that takes time is done before the service is stopped or
 * after it was started again (warm-copy.ts says how). What was begun is journaled before it is begun, so that a kill at
 * any point leaves something that the next command, or the dead-man timer, can settle (settle.ts).
 */
import { constants } from "node:fs";
import { access, realpath, stat } from "node:fs/promises";
import { hostname } from "node:os";
import { join } from "node:path";
import { bundleRecipients, writeBundle } from "../bundle/bundle.js";
import { assertPlacement } from "../bundle/placement.js";
import { prepareDirectories } from "../config/known-directories.js";
import { hasCode, StoreError, systemError, withLine } from "../errors.js";
import { createFile, stagedName } from "../fs/atomic.js";
import { assertFreeSpace } from "../fs/copy.js";
import { lstatIfExists } from "../fs/read.js";
import type { PassphraseSource } from "../keys/source.js";
import { unlock } from "../keys/unlock.js";
import {
  assertNoHolders,
  Downtime,
  type ResolvedService,
  resolveService,
  type ServiceReport,
} from "../operation/downtime.js";
import { Journal } from "../operation/journal.js";
import type { OperationLock } from "../operation/lock.js";
import { cleanUp } from "../operation/recovery.js";
import { emitStep } from "../operation/step.js";
import { orAbort, throwIfAborted } from "../process/abort.js";
import type { Reporter } from "../reporter.js";
import { NoService } from "../service/none.js";
import type { ServiceChoice } from "../service/select.js";
import type { Started } from "../service/service.js";
import { openEncrypted, type StoreKey } from "../store/cipher.js";
import { ClientStore } from "../store/client-store.js";
import { assertClockNotBehind } from "./clock.js";
import {
  backupPath,
  formatManifest,
  type Manifest,
  manifestPath,
  signManifest,
} from "./manifest.js";
import {
  type BackupJournal,
  type BackupStep,
  completeBackup,
  inodeOf,
  removeUnfinished,
} from "./recover.js";
import { inspectSound } from "./verify.js";
import { isWal, WarmCopy } from "./warm-copy.js";

export interface BackupOptions {
  /** The operation lock of the store, taken and settled by the caller. */
  readonly lock: OperationLock;
  readonly source: PassphraseSource;
  /** The directory for backups. */
  readonly to: string;
  /** The directory for bundles, apart from `to`. */
  readonly bundleTo: string;
  /** Directories that the settings name, and that are therefore not made if they are gone. */
  readonly knownDirectories?: readonly string[];
  /** age recipients of the bundle. */
  readonly recipients: readonly string[];
  /** Makes a bundle that this passphrase opens, in place of recipients. */
  readonly bundlePassphrase?: string | undefined;
  /** Goes on although the clock is behind the newest backup. */
  readonly ignoreClock?: boolean | undefined;
  readonly service: ServiceChoice;
  /** Do not stop the service: the copy is as of some moment while it writes. For stores in WAL mode. */
  readonly online?: boolean;
  /**
   * A program and its arguments that settle what an interrupted operation of this store left. The dead-man timer runs it
   * before it starts the service again.
   */
  readonly recoveryCommand: readonly string[];
  /** Interrupts the job: the service is started again and nothing is left behind. */
  readonly signal?: AbortSignal | undefined;
  readonly reporter: Reporter;
}

/** What `backup --json` prints. */
export interface BackupResult {
  readonly backup: {
    readonly path: string;
    readonly manifest: string;
    readonly size: number;
    readonly sha256: string;
    readonly key_id: string;
    readonly schema_version: number;
    readonly clients: { readonly active: number; readonly revoked: number };
    readonly created_at: string;
    readonly method: "stopped" | "online";
  };
  readonly bundle: {
    readonly path: string;
    readonly key_id: string;
    readonly recipients: readonly string[];
  };
  readonly service: ServiceReport;
  readonly verified: true;
}

/** What the dead-man timer allows for the work between stop and start, beyond the stop itself: 30 s. */
const windowBudgetMs = 30_000;
/** A store that is not in WAL mode is copied whole in the window: at the least at 20 MB/s, a slow USB stick's rate. */
const slowestCopyBytesPerMs = 20_000;
/** Room for the manifest and for what the store's log may still grow by: 4 MiB. */
const spareBytes = 4 << 20;
/** Names are by the second; how many seconds further a free one is looked for. */
const nameTries = 60;

/** Everything that is known before anything is begun. */
interface Prepared {
  readonly storePath: string;
  readonly folder: string;
  readonly bundleFolder: string;
  readonly passphrase: string;
  readonly key: StoreKey;
  readonly keyId: string;
  readonly isWal: boolean;
  /** Bytes, log included. */
  readonly size: number;
  readonly known: ResolvedService;
}

/** A copy that was brought up to date, as of `at` or later. */
interface Taken {
  readonly at: Date;
  readonly stoppedMs: number | null;
}

/**
 * Makes a backup, and a bundle unless the one that is there still holds.
 *
 * @throws StoreError of every kind. Whatever it is, a service that was running was started again, and nothing is
 *   left under a final name; where the start itself failed (`service`), the error says so and the next command tries
 *   again. Where all that failed was to remove the journal (`io`), the backup is there, and the error says so.
 */
export async function backup(options: BackupOptions): Promise<BackupResult> {
  const prepared = await prepare(options);
  const named = join(prepared.folder, "backup");
  const files: BackupJournal = {
    staged: { copy: stagedName(`${named}.db`), manifest: stagedName(`${named}.manifest.json`) },
    bundle: { folder: prepared.bundleFolder, key_id: prepared.keyId },
  };
  const journal = await Journal.begin(prepared.storePath, "backup", "backup.beginning", files);
  step("backup.beginning");
  const undo: Undo = { files };
  let result: BackupResult;
  try {
    result = await copyAndCommit(options, prepared, journal, undo);
  } catch (error) {
    // Of a service that is still down the journal stays: the next command starts it.
    if (undo.isServiceDown) await removeUnfinished(undo.files).catch(() => undefined);
    else await cleanUp(journal, () => removeUnfinished(undo.files));
    throw error;
  }
  await endJournal(journal, result.backup.path);
  return result;
}

/** @throws StoreError `io` saying that the backup is made all the same: what is left is for settling to find complete. */
async function endJournal(journal: Journal, made: string): Promise<void> {
  try {
    await journal.remove();
  } catch (error) {
    const { kind, message } = systemError(error, `cannot remove ${journal.path}`);
    throw new StoreError(
      kind,
      `the backup ${made} is made and verified, but something could not be tidied up: ${message}`,
      {
        hint: "the backup is good; the next command of this store tries again to tidy up",
        cause: error,
      },
    );
  }
}

/** What there is to put right if the job ends here. */
interface Undo {
  files: BackupJournal;
  isServiceDown?: boolean;
}

async function copyAndCommit(
  options: BackupOptions,
  prepared: Prepared,
  journal: Journal,
  undo: Undo,
): Promise<BackupResult> {
  const { signal, reporter } = options;
  const { service, wasActive } = prepared.known;
  const method = options.online ? "online" : "stopped";
  const bundle = await writeBundle({
    directory: prepared.bundleFolder,
    storePath: prepared.storePath,
    passphrase: prepared.passphrase,
    key: prepared.key,
    recipients: options.recipients,
    bundlePassphrase: options.bundlePassphrase,
  });
  step("backup.bundled");
  reporter.detail(`${bundle.reused ? "the bundle still holds" : "bundle written"}: ${bundle.path}`);
  throwIfAborted(signal);

  await using copy = new WarmCopy(prepared.storePath, prepared.key, undo.files.staged.copy);
  if (prepared.isWal) {
    await orAbort(copy.warm(signal), signal);
    reporter.detail(`copied ${copy.written} bytes while the store was in use`);
  }
  step("backup.warm");
  const taken =
    wasActive && !options.online
      ? await copyWhileStopped(options, prepared, copy, journal, undo)
      : await copyNow(copy, signal);
  throwIfAborted(signal);

  await copy.cut();
  const { staged } = undo.files;
  // With the passphrase itself, as whoever opens the bundle would: not with the key that it was copied under.
  const opened = await openEncrypted(staged.copy, prepared.passphrase, {
    mode: "readonly",
    immutable: true,
  });
  // Side by side: the disk writes what is read from memory here.
  const inspected = inspectSound(opened);
  inspected.catch(() => undefined);
  const finished = await orAbort(copy.finish(), signal);
  step("backup.finished");
  const contents = await orAbort(inspected, signal);
  step("backup.verified");
  const created = {
    created_at: taken.at.toISOString(),
    size: finished.size,
    sha256: finished.sha256,
    key_id: prepared.keyId,
    schema_version: contents.schemaVersion,
    clients: contents.clients,
  };
  const final = await commit({
    folder: prepared.folder,
    storePath: prepared.storePath,
    at: taken.at,
    journal,
    undo,
    manifestFor: (file) =>
      signManifest(
        {
          ...created,
          file,
          cipher_compatibility: prepared.key.cipherCompatibility,
          page_size: contents.pageSize,
          hostname: hostname(),
          unit: service.name,
          method,
        },
        prepared.key,
      ),
  });
  return {
    backup: { path: final.copy, manifest: final.manifest, ...created, method },
    bundle: { path: bundle.path, key_id: bundle.keyId, recipients: bundle.recipients },
    service: {
      unit: service.name,
      was_active: wasActive,
      active: wasActive,
      stopped_ms: taken.stoppedMs,
    },
    verified: true,
  };
}

/**
 * Checks in advance that a backup with these options can be made: passphrase, service, directories
 * and free space.
 *
 * @throws {@link StoreError} as {@link backup} does before it stops the service
 */
export async function checkBackup(options: BackupOptions): Promise<void> {
  await prepare(options);
}

/** Tries everything that can fail, and makes nothing but the two folders. */
async function prepare(options: BackupOptions): Promise<Prepared> {
  const { reporter, online = false } = options;
  const { storePath } = options.lock;
  bundleRecipients(options);
  for (const notice of await assertPlacement(options.to, options.bundleTo)) {
    reporter.notice(notice);
  }

  const unlocked = await unlock(storePath, options.source, { mode: "readwrite" });
  const store = await ClientStore.from(unlocked);
  const wal = await isWal(unlocked.connection).finally(() => store.close());
  if (online && !wal) {
    throw new StoreError(
      "refused",
      `${storePath} is not in WAL mode: a copy of it would keep its service from writing, and the service keep it from being right`,
      { hint: "back it up without --online: the service is stopped for as long as copying takes" },
    );
  }

  const known: ResolvedService = online
    ? { service: new NoService(), choice: options.service, wasActive: false }
    : await resolveService(options.service, reporter);
  if (!wal && known.wasActive) {
    reporter.notice(
      `${storePath} is not in WAL mode, so it cannot be copied beforehand: ${known.service.name ?? "the service"} will be stopped for as long as copying takes`,
    );
  }

  await prepareDirectories([options.to, options.bundleTo], {
    storePath,
    known: options.knownDirectories ?? [],
    reporter,
  });
  const size = await sizeOnDisk(storePath);
  const folder = await realpath(options.to);
  if (!options.ignoreClock) {
    await assertClockNotBehind({ folder, storePath, source: options.source });
  }
  await assertWritable(folder);
  const hint = "make room there, or name another folder with --to";
  await assertFreeSpace(folder, size + spareBytes, "the copy", hint);
  return {
    storePath,
    folder,
    bundleFolder: await realpath(options.bundleTo),
    passphrase: unlocked.passphrase,
    key: store.key,
    keyId: store.keyId,
    isWal: wal,
    size,
    known,
  };
}

/** The main file and its log, by `stat`: neither is opened. */
async function sizeOnDisk(storePath: string): Promise<number> {
  const sizes = [storePath, `${storePath}-wal`].map(async (path) => {
    try {
      return (await stat(path)).size;
    } catch (error) {
      if (hasCode(error, "ENOENT")) return 0;
      throw systemError(error, `cannot look at ${path}`);
    }
  });
  return (await Promise.all(sizes)).reduce((sum, size) => sum + size, 0);
}

/** Found out now: a store that is not in WAL mode is copied only after the service was stopped. */
async function assertWritable(folder: string): Promise<void> {
  try {
    await access(folder, constants.W_OK | constants.X_OK);
  } catch (error) {
    throw systemError(error, `cannot write to the backups' folder ${folder}`);
  }
}

/** Nobody has to be stopped: the service is not running, or this is `--online`. */
async function copyNow(copy: WarmCopy, signal: AbortSignal | undefined): Promise<Taken> {
  const at = new Date();
  await orAbort(copy.complete(), signal);
  await copy.unpin();
  step("backup.copied");
  return { at, stoppedMs: null };
}

/** The window. Whatever happens between the stop and the start, the start comes next. */
async function copyWhileStopped(
  { recoveryCommand, signal, reporter }: BackupOptions,
  { storePath, size, isWal, known }: Prepared,
  copy: WarmCopy,
  journal: Journal,
  undo: Undo,
): Promise<Taken> {
  const name = known.service.name ?? "the service";
  const downtime = await Downtime.of(known);
  await journal.write("backup.stopping", {
    ...undo.files,
    stopped: downtime.stopped,
  } satisfies BackupJournal);
  step("backup.stopping");
  await downtime.arm(windowBudgetMs + (isWal ? 0 : size / slowestCopyBytesPerMs), recoveryCommand);
  step("backup.armed");

  reporter.detail(`stopping ${name}`);
  const writtenBefore = copy.written;
  let at = new Date();
  let failure: unknown;
  try {
    throwIfAborted(signal);
    // Not to be interrupted: a stop that is on its way would come after the start.
    await downtime.stop();
    step("backup.stopped");
    throwIfAborted(signal);
    at = new Date();
    // Side by side, as every millisecond counts: whoever else is there, the copy is of one piece by its pin.
    await Promise.all([
      orAbort(copy.complete(), signal),
      assertNoHolders(storePath, { except: copy.pids }),
    ]);
    // In WAL mode a pin is in nobody's way, and what comes after the copy may take its time. In any other it would keep
    // the service from its first write, without which it may not get ready; and the copy is complete.
    if (!isWal) await copy.unpin();
    step("backup.copied");
  } catch (error) {
    failure = error;
    // It comes to nothing: neither its pin nor its process has to do with the store while the service starts.
    await copy.release().catch(() => undefined);
  }
  const stoppedMs = await startAgain(downtime, name, failure, undo);
  step("backup.started");
  await journal.write("backup.finishing", undo.files);
  step("backup.finishing");
  await copy.unpin();
  if (failure) throw failure;
  reporter.detail(
    `${name} was stopped for ${stoppedMs} ms; ${copy.written - writtenBefore} bytes were copied meanwhile`,
  );
  return { at, stoppedMs };
}

/** Starts the service, whatever else failed, and takes back the timer. @returns how long it was away. */
async function startAgain(
  downtime: Downtime,
  name: string,
  failure: unknown,
  undo: Undo,
): Promise<number> {
  let started: Started;
  try {
    started = await downtime.start();
  } catch (error) {
    undo.isServiceDown = true;
    const before = failure instanceof StoreError ? ` (before that: ${failure.message})` : "";
    const { message, hint } = systemError(error, `${name} could not be started`, "service");
    throw new StoreError(
      "service",
      `${name} was stopped for the backup and is not running again: ${message}${before}. The store is as it was; no backup was made`,
      {
        hint: withLine(hint, "the next command of this store tries again to start it"),
        cause: error,
      },
    );
  }
  const fired = await downtime.disarm();
  if (failure) return 0;
  if (fired) {
    throw new StoreError(
      "service",
      `${name} was started again by its timer before the copy was complete: stopping or copying took too long`,
      { hint: "see what slows the disk or the stop of the service, then try again" },
    );
  }
  if (started.wasUp) {
    throw new StoreError("service", `something started ${name} while it was being backed up`, {
      hint: "see what starts it, or use --online",
    });
  }
  return downtime.durationMs(started);
}

/** Writes the manifest and gives both files their final names, at the first second from `at` that is free. */
async function commit(options: {
  folder: string;
  storePath: string;
  at: Date;
  journal: Journal;
  undo: Undo;
  manifestFor: (file: string) => Manifest;
}): Promise<{ copy: string; manifest: string }> {
  const { folder, storePath, at, journal, undo } = options;
  const { staged } = undo.files;
  for (let later = 0; later < nameTries; later++) {
    const copy = backupPath(folder, storePath, new Date(at.getTime() + later * 1000));
    const manifest = manifestPath(copy);
    if ((await lstatIfExists(copy)) || (await lstatIfExists(manifest))) continue;
    await createFile(
      staged.manifest,
      formatManifest(options.manifestFor(copy.slice(folder.length + 1))),
    );
    undo.files = {
      ...undo.files,
      final: {
        copy,
        copy_identity: (await inodeOf(staged.copy)) ?? "",
        manifest,
        manifest_identity: (await inodeOf(staged.manifest)) ?? "",
      },
    };
    await journal.write("backup.claiming", undo.files);
    step("backup.claiming");
    await completeBackup(undo.files);
    return { copy, manifest };
  }
  throw new StoreError("refused", `${folder} has no free name for a backup of this minute`, {
    hint: "wait a minute, then try again",
  });
}

function step(name: BackupStep): void {
  emitStep(name);
}
