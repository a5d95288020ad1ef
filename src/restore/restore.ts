/** `restore`: replaces the store with a backup, or restores to another path. */
import { dirname } from "node:path";
import { type BundleReport, bundleReport } from "../bundle/bundle.js";
import type { ClientCounts } from "../client/client.js";
import { isHiveMind4Schema } from "../client/permissions.js";
import { realPath } from "../config/paths.js";
import { StoreError } from "../errors.js";
import { moveFile, replacedName, syncDirectory } from "../fs/atomic.js";
import { copyUnsynced, syncFile } from "../fs/copy.js";
import { lstatIfExists, statIfExists } from "../fs/read.js";
import { sidecars } from "../fs/sidecars.js";
import { assertHubOpens } from "../hub/assert-opens.js";
import {
  assertReadsSource,
  findPasswordDelivery,
  findPasswordFile,
  type HubChoice,
  type PasswordDelivery,
  resolvePasswordDelivery,
} from "../hub/password-delivery.js";
import { probeHubSchema } from "../hub/schema.js";
import { readOrSealPassphrase, withSealed } from "../keys/reseal.js";
import { adoptPending, planRotation } from "../keys/rotation-plan.js";
import {
  assertYields,
  fillSourceHint,
  formatSource,
  type PassphraseSource,
} from "../keys/source.js";
import { acquireLock, type OperationLock } from "../operation/lock.js";
import { orRecover } from "../operation/recovery-parts.js";
import {
  findPendingRestart,
  type PendingRestart,
  type ResolvedService,
  resolveService,
  type ServiceReport,
} from "../operation/service.js";
import { throwIfAborted } from "../process/abort.js";
import { recoverBefore } from "../recovery/recover.js";
import type { Reporter } from "../reporter.js";
import type { ServiceChoice } from "../service/select.js";
import { keyIdOf, type StoreKey } from "../store/cipher.js";
import { newestSchema } from "../store/schema.js";
import { assertAbsent } from "../swap/commit.js";
import type { BundleOptions, OperationOptions } from "../swap/options.js";
import { type BundlePlan, planBundle } from "../swap/prepare.js";
import { recoverSwap } from "../swap/recover.js";
import type { SwapOutcome } from "../swap/request.js";
import type { SwapState } from "../swap/state.js";
import { beginCopy, isOnlyCopied, swap } from "../swap/swap.js";
import { shellQuote } from "../text/escape.js";
import { confirmRestore } from "./confirm.js";
import type { Widened } from "./differences.js";
import { inspectPresentStore, type PresentStore } from "./present-store.js";
import { type Completed, StagedCopy } from "./staged-copy.js";
import {
  adoptStoreId,
  type BackupToVerify,
  type VerifiedBackup,
  verifyChosenBackup,
} from "./verified-backup.js";

export interface RestoreOptions extends OperationOptions, BackupToVerify {
  /**
   * Restores to this absolute path, which must not exist. The store and its service stay unchanged.
   */
  readonly to?: string | undefined;
  readonly discardReplaced?: boolean | undefined;
  readonly readmitRevoked?: boolean | undefined;
  /** The bundle of the restored store. If it cannot be written, a notice reports the error. */
  readonly bundles?: BundleOptions | undefined;
}

export interface RestoreResult {
  readonly restored: {
    readonly path: string;
    readonly backup: string;
    /** When the backup was made; null without a valid manifest. */
    readonly createdAt: string | null;
    readonly keyId: string;
    readonly schemaVersion: number;
    readonly clients: ClientCounts;
    /** The path of the replaced store; null if there was none or it was discarded. */
    readonly replaced: string | null;
    /** As in `Differences.stayRevoked`; empty with `readmitRevoked`. */
    readonly stayedRevoked: number[];
    readonly widened: Widened[];
    readonly passphraseSource: string;
    readonly hub: PasswordDelivery["how"];
  };
  readonly bundle: BundleReport | null;
  readonly service: ServiceReport;
}

/** The store to write, with its service and its hub. */
interface Target {
  readonly lock: OperationLock;
  readonly service: ServiceChoice;
  readonly hub: HubChoice;
  /** Whether the path is `to`, which no hub uses. */
  readonly isElsewhere: boolean;
}

/**
 * Restores a backup.
 *
 * @throws {@link StoreError} notFound - if there is no such backup
 * @throws {@link StoreError} corrupted - if it does not verify or has no valid manifest
 * @throws {@link StoreError} refused - if the bundle has another key_id, `to` exists, the store's
 *   path is not a regular file, the user declines, or the hub would not get the passphrase
 * @throws {@link StoreError} newerVersion, wrongPassphrase, passphraseUnavailable
 * @throws {@link StoreError} - what `resolveService` and `swap` throw
 */
export async function restore(options: RestoreOptions): Promise<RestoreResult> {
  const { lock, service, hub, reporter } = options;
  const to = options.to && (await resolveFreePath(options.to));
  if (to === undefined || to === lock.storePath) {
    return await restoreTo(options, { lock, service, hub, isElsewhere: false });
  }
  await using targetLock = await acquireLock(to);
  await recoverBefore(targetLock, reporter);
  return await restoreTo(options, {
    lock: targetLock,
    service: { service: "none", unit: service.unit, storePath: to },
    hub: "none",
    isElsewhere: true,
  });
}

/**
 * Resolves the path to restore to, for its lock, its journal and its passphrase.
 *
 * @throws {@link StoreError} refused - if the path exists
 * @throws {@link StoreError} notFound - if its directory does not exist
 */
async function resolveFreePath(path: string): Promise<string> {
  if (await lstatIfExists(path)) {
    throw new StoreError("refused", `${path} already exists`, {
      hint: "Name a new file with --to.",
    });
  }
  const directory = dirname(path);
  if (await lstatIfExists(directory)) return await realPath(path);
  throw new StoreError("notFound", `no such directory: ${directory}`, {
    hint: `Create it: mkdir -p -m 700 ${shellQuote(directory)}`,
  });
}

/**
 * Copies the backup to the path of the new file, verifies the copy, and continues with it. If this
 * fails before the swap, the copy is removed by the swap's recovery, as after a kill.
 */
async function restoreTo(options: RestoreOptions, target: Target): Promise<RestoreResult> {
  const { signal, source } = options;
  const { lock } = target;
  const pendingRestart = await findPendingRestart(lock.storePath);
  let begun: SwapState | undefined;
  let synced: Promise<void> | undefined;
  const copy = async (path: string): Promise<string> => {
    const newBytes = (await statIfExists(path))?.size;
    const sources = { from: source, to: source };
    begun = await beginCopy({ operation: "restore", lock, newBytes, sources }, pendingRestart);
    const { staged } = begun.data;
    await copyUnsynced(path, staged, { signal });
    begun.emitStep("copied");
    // The copy is read from the page cache while the disk writes it.
    synced = syncFile(staged);
    synced.catch(() => undefined);
    return staged;
  };
  const verifyAndReplace = async () => {
    const backup = await verifyChosenBackup(options.lock.storePath, options, copy);
    await synced;
    if (!begun) throw new Error("the backup was not copied");
    begun.emitStep("verified");
    throwIfAborted(signal);
    return await replaceWith(options, { backup, begun, pendingRestart }, target);
  };
  return await orRecover(verifyAndReplace, async ({ failure }) =>
    begun && isOnlyCopied(begun) ? (await recoverSwap(begun, { failure })).error : failure,
  );
}

/** The verified copy of a backup, at the path of the staged file of a swap. */
interface Copied {
  readonly backup: VerifiedBackup;
  readonly begun: SwapState;
  readonly pendingRestart: PendingRestart | undefined;
}

async function replaceWith(
  options: RestoreOptions,
  copied: Copied,
  target: Target,
): Promise<RestoreResult> {
  const { source, settingsSection } = options;
  const { backup } = copied;
  const { lock, isElsewhere } = target;
  const { storePath } = lock;
  const plan = await planReplacement(options, copied, target);
  const { present, delivery, keepReplacedAs } = plan;
  // Before the swap writes the bundle, which contains the id.
  if (!isElsewhere && present.replaced.state === "absent") await adoptStoreId(storePath, backup);
  const replace = () => replaceStore(options, copied, lock, plan);
  const outcome = isElsewhere
    ? await replace()
    : await withSealed(
        source,
        {
          storePath,
          settingsPath: settingsSection.path,
          next: backup.passphrase,
          // The kept store needs its passphrase.
          former: keepReplacedAs === undefined ? present.passphrase : undefined,
        },
        replace,
      );
  if (!isElsewhere) await adoptStoreId(storePath, backup);
  const { filled, bundle, service } = outcome;
  return {
    restored: {
      path: storePath,
      backup: backup.path,
      createdAt: backup.createdAt,
      keyId: keyIdOf(backup.key.salt),
      schemaVersion: backup.schemaVersion,
      clients: filled.clients,
      replaced: keepReplacedAs ?? null,
      stayedRevoked: filled.stayedRevoked,
      widened: present.differences?.widened ?? [],
      passphraseSource: formatSource(source),
      hub: delivery.how,
    },
    bundle: bundle ? bundleReport(bundle) : null,
    service,
  };
}

/** The result of the checks before the store is replaced. */
interface Replacement {
  readonly present: PresentStore;
  readonly service: ResolvedService;
  /** How the hub gets its password. */
  readonly delivery: PasswordDelivery;
  /** Whether the passphrase of the store changes. */
  readonly changesPassphrase: boolean;
  readonly keyring: Awaited<ReturnType<typeof planRotation>>;
  readonly keepReplacedAs: string | undefined;
  readonly bundle: BundlePlan | undefined;
}

/** Inspects the present store and its hub, asks for confirmation, and prepares the keyring. */
async function planReplacement(
  options: RestoreOptions,
  { backup, pendingRestart }: Copied,
  target: Target,
): Promise<Replacement> {
  const { source, settingsSection, reporter } = options;
  const { storePath } = target.lock;
  const present = await inspectPresentStore(storePath, source, backup);
  const { replaced } = present;
  const service = await resolveService(target.service, reporter, pendingRestart);
  const objection = target.isElsewhere
    ? undefined
    : await findHubObjection(service, backup.schemaVersion, reporter);
  await confirmRestore(options, {
    location: storePath,
    backup,
    present,
    objection,
    isFirstRevoked:
      isHiveMind4Schema(backup.schemaVersion) &&
      backup.clients.revoked > 0 &&
      present.revoked === 0,
  });

  const changesPassphrase = present.passphrase !== backup.passphrase;
  const changesUsed = changesPassphrase && replaced.state !== "absent";
  const delivery = changesUsed
    ? await resolvePasswordDelivery(service, target.hub)
    : await findPasswordDelivery(service, target.hub);
  if (changesUsed) assertReadsSource(service, delivery, { from: source, to: source });
  await assertHubOpens(service, delivery, backup.key.cipherCompatibility, reporter);
  await prepareSource(source, settingsSection.path, backup, target);
  await adoptPending(storePath, present.generation, reporter);
  const keyring = await planRotation(storePath, source, backup.passphrase, present, true);
  const keeps = replaced.state !== "absent" && !options.discardReplaced;
  const keepReplacedAs = keeps ? await replacedName(storePath) : undefined;
  if (keepReplacedAs && replaced.state === "open" && !replaced.secret) {
    reporter.notice(`the present store is not encrypted, and will be kept as ${keepReplacedAs}`);
  }
  const bundle = await planBundleIfPossible(options);
  return { present, service, delivery, changesPassphrase, keyring, keepReplacedAs, bundle };
}

async function replaceStore(
  options: RestoreOptions,
  { backup, begun }: Copied,
  lock: OperationLock,
  plan: Replacement,
): Promise<SwapOutcome<StoreKey, Completed>> {
  const { source, reporter, signal, readmitRevoked = false } = options;
  const { storePath } = lock;
  const { present, service, delivery } = plan;
  const { replaced } = present;
  await using copy = new StagedCopy({
    storePath,
    replaced,
    readmitRevoked,
    signal,
    clients: backup.clients,
    confirmed: present.differences,
  });
  return await swap({
    operation: "restore",
    lock,
    replaced,
    newBytes: (await statIfExists(begun.data.staged))?.size,
    keepReplacedAs: plan.keepReplacedAs,
    begun,
    passphrase: backup.passphrase,
    sources: { from: source, to: source },
    keyring: plan.keyring,
    serverJson: plan.changesPassphrase ? findPasswordFile(delivery, reporter) : undefined,
    bundle: plan.bundle,
    service,
    recoveryCommand: options.recoveryCommand,
    reporter,
    signal,
    stage: async () => backup.key,
    prefill: (staged, key) => copy.prefill(staged, key),
    lockStore: replaced.state === "open" ? () => copy.lock() : undefined,
    fill: async (staged, key, locked) => {
      if (replaced.state === "absent") {
        await assertAbsent(storePath);
        await moveStraySidecars(storePath, reporter);
      }
      return await copy.complete(staged, key, locked);
    },
  });
}

/**
 * Returns the hub's objection to the schema of the backup. If the hub's packages cannot be tested,
 * only a notice reports the error, so that a restore is still possible.
 */
async function findHubObjection(
  service: ResolvedService,
  schemaVersion: number,
  reporter: Reporter,
): Promise<string | undefined> {
  if (schemaVersion < newestSchema) return undefined;
  try {
    return (await probeHubSchema(service))?.objection;
  } catch (error) {
    if (!(error instanceof StoreError)) throw error;
    reporter.notice(
      `cannot ask the hub whether it supports schema ${schemaVersion}: ${error.message}`,
    );
    return undefined;
  }
}

/**
 * Prepares the source for the passphrase of the backup. The swap stores it in a keyring. A sealed
 * file for a new path is written here. Any other source must yield the passphrase already.
 *
 * @throws {@link StoreError} refused - if a read-only source yields another passphrase or none
 */
async function prepareSource(
  source: PassphraseSource,
  settingsPath: string,
  { passphrase }: VerifiedBackup,
  { isElsewhere, lock: { storePath } }: Target,
): Promise<void> {
  if (source.kind === "keyring") return;
  if (source.kind === "sealed") {
    // At the store's own path, `withSealed` replaces the sealed file.
    if (isElsewhere)
      await readOrSealPassphrase(source.path, { storePath, settingsPath }, passphrase);
    return;
  }
  const expected = { passphrase, what: "the passphrase of the backup" };
  await assertYields(source, storePath, expected, fillSourceHint);
}

async function planBundleIfPossible({
  bundles,
  reporter,
}: RestoreOptions): Promise<BundlePlan | undefined> {
  if (!bundles) return undefined;
  try {
    return await planBundle(bundles, reporter);
  } catch (error) {
    if (!(error instanceof StoreError) || error.kind === "refused") throw error;
    reporter.notice(
      `no bundle will be written, so keep the bundle of the backup: ${error.message}`,
    );
    return undefined;
  }
}

/**
 * Moves away the sidecars of a missing store. SQLite would write the pages of a `-wal` or
 * `-journal` into the restored store.
 */
async function moveStraySidecars(storePath: string, reporter: Reporter): Promise<void> {
  const name = await replacedName(storePath);
  for (const suffix of sidecars) {
    if (!(await lstatIfExists(storePath + suffix))) continue;
    await moveFile(storePath + suffix, name + suffix);
    reporter.notice(
      `moved ${storePath}${suffix}, which belongs to a store that no longer exists, to ${name}${suffix}`,
    );
  }
  await syncDirectory(dirname(storePath));
}
