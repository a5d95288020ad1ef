/** Copies bundles to a target. */
import { basename } from "node:path";
import type { Listing } from "../backup/listing.js";
import { supersededName } from "../bundle/bundle.js";
import { verificationRecordPath } from "../bundle/verification-record.js";
import { StoreError } from "../errors.js";
import { lstatIfExists, sha256File, statIfExists } from "../fs/read.js";
import { emitStep } from "../operation/step.js";
import { orAbort } from "../process/abort.js";
import { currentInteraction } from "../process/interaction.js";
import {
  type Copied,
  type Destination,
  openDestination,
  type Progress,
  removeUnfinished,
} from "./destination.js";
import type { CopyCheck, Target } from "./target.js";

/**
 * Copies the bundle, and those of earlier passphrases that the target lacks and that open backups
 * on this machine, each with its verification record. The target may have been away during a
 * rotation. An earlier bundle of the same key stays under another name.
 *
 * @param bundle - the path of the bundle
 */
export async function copyBundles(
  target: Target,
  bundle: string,
  { backups }: Listing,
): Promise<Progress> {
  const to = await openDestination(target);
  const used = backups.filter(({ mac, present }) => present && mac !== false);
  const paths = new Set(used.flatMap((backup) => backup.bundle ?? []));
  paths.delete(bundle);
  paths.add(bundle);
  const files = [...paths].flatMap((path) => [path, verificationRecordPath(path)]);
  await removeUnfinished(
    to,
    files.map((path) => basename(path)),
  );
  const copied: Copied[] = [];
  const errors: StoreError[] = [];
  for (const path of paths) {
    try {
      copied.push(...(await copyBundle(to, path, path === bundle)));
    } catch (error) {
      if (!(error instanceof StoreError) || currentInteraction().signal?.aborted) throw error;
      errors.push(error);
    }
  }
  return { copied, errors, postponed: 0 };
}

/** @param isCurrent - whether a file with other contents is replaced */
async function copyBundle(to: Destination, path: string, isCurrent: boolean): Promise<Copied[]> {
  const isWanted = (each: string) => isCurrent || !to.targetFiles.has(basename(each));
  const checkedBy = isWanted(path) ? await updateFile(to, path) : undefined;
  const record = verificationRecordPath(path);
  if (isWanted(record) && (await lstatIfExists(record))) await updateFile(to, record);
  if (checkedBy === undefined) return [];
  const size = (await statIfExists(path))?.size ?? 0;
  return [{ path: to.target.pathOf(basename(path)), size, checkedBy }];
}

/**
 * Writes a file unless the target has it already. A file with other contents gets another name when
 * the new file is complete.
 *
 * @returns undefined if the target has the file already
 */
async function updateFile(
  { target, targetFiles }: Destination,
  path: string,
): Promise<CopyCheck | undefined> {
  const file = basename(path);
  const sha256 = await sha256File(path);
  const isPresent = targetFiles.has(file);
  const { signal } = currentInteraction();
  if (isPresent && (await orAbort(target.check(file, sha256), signal))) return undefined;
  const checkedBy = isPresent
    ? await target.supersede(path, file, supersededName(file), sha256)
    : await target.write(path, file, sha256);
  emitStep("copy.bundle");
  return checkedBy;
}
