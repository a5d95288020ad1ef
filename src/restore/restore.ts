/** `restore`: replaces the store with a backup, or restores to another path. */
import { dirname } from "node:path";
import { type BundleReport, bundleReport } from "../bundle/bundle.js";
import { realPath } from "../config/paths.js";
import { StoreError } from "../errors.js";
import { moveFile, replacedName, syncDirectory } from "../fs/atomic.js";
import { copyFile } from "../fs/copy.js";
import { lstatIfExists, statIfExists } from "../fs/read.js";
import { sidecars } from "../fs/sidecars.js";
import { assertHubOpens } from "../hub/assert-opens.js";
import {
  findPasswordDelivery,
  type HubChoice,
  type PasswordDelivery,
  passwordToReplace,
  resolvePasswordDelivery,
} from "../hub/password-delivery.js";
import { probeHubSchema } from "../hub/schema.js";
import { withSealed } from "../keys/reseal.js";
import { adoptPending, planRotation, readFirstPassphrase } from "../keys/rotation-plan.js";
import { readOrSealPassphrase } from "../keys/sealed.js";
import { describeSource, formatSource, type PassphraseSource } from "../keys/source.js";
import { acquireLock, type OperationLock } from "../operation/lock.js";
import {
  findPendingRestart,
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
import { swap } from "../swap/swap.js";
import { shellQuote } from "../text/escape.js";
import { confirmRestore } from "./confirm.js";
import type { Widened } from "./differences.js";
import { inspectPresentStore } from "./present-store.js";
import { StagedCopy } from "./staged-copy.js";
import {
  type BackupToVerify,
  isWhatWasVerified,
  keepStoreId,
  type VerifiedBackup,
  verifyChosen,
} from "./verified-backup.js";

export interface RestoreOptions extends OperationOptions, Omit<BackupToVerify, "storePath"> {
  /**
   * Restores to this absolute path, which must be free. The store and its service are untouched.
   */
  readonly to?: string | undefined;
  readonly discardReplaced?: boolean | undefined;
  readonly readmitRevoked?: boolean | undefined;
  /** Where the restored store gets a bundle. A missing directory is only a notice. */
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
    readonly clients: { readonly active: number; readonly revoked: number };
    /** The path of the replaced store; null if there was none or it was discarded. */
    readonly replaced: string | null;
    /** The clients revoked after the backup, which stay revoked. */
    readonly stayedRevoked: number[];
    readonly widened: Widened[];
    readonly passphraseSource: string;
    readonly hub: PasswordDelivery["how"];
  };
  readonly bundle: BundleReport | null;
  readonly service: ServiceReport;
}

/** Where a backup is restored to. */
interface Target {
  readonly lock: OperationLock;
  readonly service: ServiceChoice;
  readonly hub: HubChoice;
  /** Whether the path is new, and no hub uses it. */
  readonly isElsewhere: boolean;
}

/**
 * Restores a backup.
 *
 * @throws {@link StoreError} notFound - if there is no such backup
 * @throws {@link StoreError} corrupted - if it does not verify or has no valid manifest
 * @throws {@link StoreError} refused - if the bundle is of another store, the target path is a
 *   directory or exists, the user declines, or the hub would not get the passphrase
 * @throws {@link StoreError} newerVersion, wrongPassphrase
 * @throws {@link StoreError} - what `resolveService` and `swap` throw
 */
export async function restore(options: RestoreOptions): Promise<RestoreResult> {
  const { lock, service, hub, reporter, signal } = options;
  const to = options.to && (await resolveFreePath(options.to));
  const backup = await verifyChosen({
    storePath: lock.storePath,
    backup: options.backup,
    source: options.source,
    bundle: options.bundle,
    noManifest: options.noManifest,
  });
  throwIfAborted(signal);
  if (to === undefined || to === lock.storePath) {
    return await putInPlace(options, backup, { lock, service, hub, isElsewhere: false });
  }
  await using targetLock = await acquireLock(to);
  await recoverBefore(targetLock, reporter);
  return await putInPlace(options, backup, {
    lock: targetLock,
    service: { service: "none", unit: service.unit, storePath: to },
    hub: "none",
    isElsewhere: true,
  });
}

/**
 * Resolves the path to restore to, as it will be used for its lock, its journal and its passphrase.
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
    hint: `Create it: mkdir -m 700 ${shellQuote(directory)}`,
  });
}

async function putInPlace(
  options: RestoreOptions,
  backup: VerifiedBackup,
  target: Target,
): Promise<RestoreResult> {
  const { source, reporter, signal, readmitRevoked = false } = options;
  const { lock } = target;
  const { storePath } = lock;
  const present = await inspectPresentStore(storePath, source, backup);
  const { differences, replaced } = present;
  const pendingRestart = await findPendingRestart(storePath);
  const service = await resolveService(target.service, reporter, pendingRestart);
  const objection = target.isElsewhere
    ? undefined
    : await findHubObjection(service, backup.schemaVersion, reporter);
  await confirmRestore(options, storePath, backup, present, objection);

  const changes = present.passphrase !== backup.passphrase;
  const delivery =
    changes && replaced.state !== "absent"
      ? await resolvePasswordDelivery(service, target.hub)
      : await findPasswordDelivery(service, target.hub);
  await assertHubOpens(service, delivery, backup.key.cipherCompatibility, reporter);
  await assertSourceFits(source, storePath, backup, target);
  await adoptPending(storePath, present.generation, reporter);
  const keyring = await planRotation(storePath, source, backup.passphrase, present, true);
  const keeps = replaced.state !== "absent" && !options.discardReplaced;
  const keepReplacedAs = keeps ? await replacedName(storePath) : undefined;
  if (keepReplacedAs && replaced.state === "open" && !replaced.secret) {
    reporter.notice(`the replaced store ${keepReplacedAs} is not encrypted`);
  }

  // The bundle of the restored store contains the id.
  if (!target.isElsewhere && replaced.state === "absent") await keepStoreId(storePath, backup);
  await using copy = new StagedCopy({
    ...{ storePath, replaced, readmitRevoked, signal },
    confirmed: differences,
  });
  const newBytes = (await statIfExists(backup.path))?.size;
  const bundle = await bundlePlan(options);
  const replace = () =>
    swap({
      operation: "restore",
      lock,
      replaced,
      keepReplacedAs,
      newBytes,
      passphrase: backup.passphrase,
      sources: { from: source, to: source },
      keyring,
      serverJson: changes ? passwordToReplace(delivery, reporter) : undefined,
      bundle,
      service,
      recoveryCommand: options.recoveryCommand,
      reporter,
      signal,
      stage: (staged) => stageBackup(backup, staged, signal),
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
  const outcome = target.isElsewhere
    ? await replace()
    : await withSealed(source, storePath, backup.passphrase, replace);
  if (!target.isElsewhere) await keepStoreId(storePath, backup);
  const { filled, service: report } = outcome;
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
      widened: differences?.widened ?? [],
      passphraseSource: formatSource(source),
      hub: delivery.how,
    },
    bundle: outcome.bundle ? bundleReport(outcome.bundle) : null,
    service: report,
  };
}

/** Returns why the hub should not get this backup. An unavailable hub must not block a restore. */
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

/** @throws {@link StoreError} refused - if the source has another passphrase and cannot change */
async function assertSourceFits(
  source: PassphraseSource,
  storePath: string,
  backup: VerifiedBackup,
  { isElsewhere }: Target,
): Promise<void> {
  if (source.kind === "keyring") return;
  if (source.kind === "sealed") {
    // The file of the present store stays as it is.
    if (isElsewhere) await readOrSealPassphrase(source.path, backup.passphrase);
    return;
  }
  if ((await readFirstPassphrase(source, storePath)) === backup.passphrase) return;
  throw new StoreError(
    "refused",
    `${describeSource(source)} does not yield the passphrase of the backup`,
    { hint: "Put it there first, or keep it in the keyring with --passphrase-source keyring." },
  );
}

async function bundlePlan({ bundles, reporter }: RestoreOptions): Promise<BundlePlan | undefined> {
  if (!bundles) return undefined;
  try {
    return await planBundle(bundles, reporter);
  } catch (error) {
    if (!(error instanceof StoreError) || error.kind === "refused") throw error;
    reporter.notice(`no bundle was written, so keep the existing bundle: ${error.message}`);
    return undefined;
  }
}

/**
 * Moves away the sidecars of a missing store. SQLite would write the pages of a `-wal`
 * or `-journal` into the restored store.
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

/** Copies the verified backup, and checks that the copy is what was verified. */
async function stageBackup(
  backup: VerifiedBackup,
  staged: string,
  signal: AbortSignal,
): Promise<StoreKey> {
  await copyFile(backup.path, staged, { signal });
  if (!(await isWhatWasVerified(staged, backup))) {
    throw new StoreError("corrupted", `the copy of ${backup.path} is not what was verified`, {
      hint: "Another program writes to that directory, or the disk or memory of this machine is faulty.",
    });
  }
  return backup.key;
}
