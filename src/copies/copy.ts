/**
 * Copies backups and bundles to other disks and remotes.
 *
 * Runs after a backup, when the service runs again. A backup is copied before its manifest, because
 * the manifest is the commit point: after a kill at any step, no listing takes an incomplete copy
 * for a backup. A failed copy changes nothing about the backup, and is reported with its target.
 */
import { dirname } from "node:path";
import { type Listing, listBackups } from "../backup/listing.js";
import type { BundleReport } from "../bundle/bundle.js";
import { findMissingDirectories, prepareDirectories } from "../config/known-directories.js";
import { isKind, StoreError, wrap } from "../errors.js";
import type { PassphraseSource } from "../keys/source.js";
import { currentInteraction } from "../process/interaction.js";
import type { Reporter } from "../reporter.js";
import { copyMissing } from "./backups.js";
import { copyBundles } from "./bundles.js";
import { recordCopy } from "./copy-record.js";
import type { Progress } from "./destination.js";
import { DirectoryTarget } from "./directory.js";
import { assertApart } from "./plan.js";
import type { Target } from "./target.js";

export interface CopyOptions {
  readonly storePath: string;
  readonly source: PassphraseSource;
  /** The directory of the backups. */
  readonly folder: string;
  /** The path of the backup that was just made. It is copied even if it is not the newest. */
  readonly backup: string;
  readonly bundle: Pick<BundleReport, "path">;
  readonly backupTargets: readonly Target[];
  readonly bundleTargets: readonly Target[];
  /** Directories named in the settings. A target among them is not created if it is missing. */
  readonly knownDirectories: readonly string[];
  readonly reporter: Reporter;
}

/** What a run copied to a target. */
export interface CopyReport extends Progress {
  readonly target: string;
  readonly contents: "backups" | "bundle";
  /** Why the target was skipped: a missing directory or unmounted disk; null if it was not. */
  readonly skipped: string | null;
  /** How long this run took for the target; null if the target was skipped. */
  readonly durationMs: number | null;
}

/**
 * Copies to each target its missing backups or bundles, and records each copy.
 *
 * @throws {@link StoreError} interrupted - if the operation is interrupted. Every other error is in
 *   the report of its target.
 */
export async function copyBackups(options: CopyOptions): Promise<CopyReport[]> {
  const { storePath, backupTargets, bundleTargets, backup, bundle, reporter } = options;
  const at = new Date();
  const reports: CopyReport[] = [];
  const add = async (report: CopyReport) => {
    reports.push(report);
    await recordCopy(storePath, report, at).catch((error: unknown) => {
      if (!(error instanceof StoreError)) throw error;
      reporter.notice(`the copies were not recorded: ${error.message}`);
    });
  };
  // List once for all targets: checking the manifests requires a key, which is slow to derive.
  let listed: Promise<Listing> | undefined;
  const list = () => {
    listed ??= listBackups({ ...options, bundleFolder: dirname(bundle.path) });
    return listed;
  };
  const here = {
    backups: new DirectoryTarget(options.folder),
    bundles: new DirectoryTarget(dirname(bundle.path)),
  };
  try {
    for (const target of backupTargets) {
      const copy = async () => {
        await assertApart([target], [here.bundles, ...bundleTargets]);
        return copyMissing(target, await list(), options);
      };
      await add(await copyToTarget(target, "backups", options, copy));
    }
    for (const target of bundleTargets) {
      const copy = async () => {
        await assertApart([here.backups, ...backupTargets], [target]);
        return copyBundles(target, bundle.path, await list());
      };
      await add(await copyToTarget(target, "bundle", options, copy));
    }
  } catch (error) {
    if (!currentInteraction().signal?.aborted || !isKind(error, "interrupted")) throw error;
    throw wrap(error, {
      message: `${error.message}: the backup ${backup} is complete, but not every copy of it`,
      hint: "Run the backup again: it copies what the targets miss.",
    });
  }
  return reports;
}

async function copyToTarget(
  target: Target,
  contents: CopyReport["contents"],
  options: CopyOptions,
  copy: () => Promise<Progress>,
): Promise<CopyReport> {
  const head = { target: target.name, contents, postponed: 0 };
  const start = performance.now();
  const elapsed = () => Math.round(performance.now() - start);
  try {
    const skipped = await findMissingReason(target, options);
    if (skipped !== undefined) {
      options.reporter.notice(
        `not copied to ${target.name}: ${skipped}; a later backup copies what is missing there`,
      );
      return { ...head, copied: [], skipped, durationMs: null, errors: [] };
    }
    return { ...head, ...(await copy()), skipped: null, durationMs: elapsed() };
  } catch (error) {
    if (!(error instanceof StoreError) || currentInteraction().signal?.aborted) throw error;
    return { ...head, copied: [], skipped: null, durationMs: elapsed(), errors: [error] };
  }
}

/**
 * Returns why the directory of a target is missing, for example because its disk is not mounted;
 * undefined if it is there, or for a remote. Creates a directory that is named for the first time,
 * and asks on a terminal whether a directory has moved to another disk.
 */
async function findMissingReason(
  target: Target,
  { storePath, knownDirectories: known, reporter }: CopyOptions,
): Promise<string | undefined> {
  if (!(target instanceof DirectoryTarget)) return undefined;
  const [missing] = await findMissingDirectories([target.path], storePath, known);
  if (missing && !missing.exists) return missing.message;
  try {
    await prepareDirectories([target.path], { storePath, known, reporter });
    return undefined;
  } catch (error) {
    // There is no terminal to ask on, or the user did not confirm the move.
    if (!missing || !isKind(error, "io", "refused")) throw error;
    return missing.message;
  }
}
