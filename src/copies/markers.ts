/**
 * Markers in a target: from which backup the next run continues, if this run left some.
 */
import { basename } from "node:path";
import type { ListedBackup } from "../backup/listing.js";
import { StoreError } from "../errors.js";
import { sha256File } from "../fs/read.js";
import { emitStep } from "../operation/step.js";
import { type Destination, removeIfAllowed } from "./destination.js";
import type { TargetFiles } from "./target.js";

/** Matches the names that `markerName` returns. */
const markerPattern = /^\.(.+\.db)(?:\.([0-9a-f]{16}))?\.resume$/;

/**
 * Returns the name of the marker for the oldest backup that is left for the next runs.
 *
 * The newest backup in a target tells the next run where to continue, but not if older backups were
 * postponed. A record on this machine could be lost, or belong to another `$XDG_STATE_HOME`. So the
 * target has the marker, a copy of that backup's manifest.
 */
function markerName(path: string, id: string | undefined): string {
  return `.${basename(path)}${id === undefined ? "" : `.${id}`}.resume`;
}

interface Marker {
  /** The marker's name in the target. */
  readonly file: string;
  /** The local name of the backup. */
  readonly backup: string;
  readonly store_id: string | undefined;
}

/** Returns the name of the file to end a marker in a target without removals. */
function finishedName(marker: string): string {
  return `${marker}d`;
}

/** Returns the unfinished markers. */
export function readMarkers(targetFiles: TargetFiles): Marker[] {
  return [...targetFiles.keys()].flatMap((file) => {
    const [, backup, id] = markerPattern.exec(file) ?? [];
    if (backup === undefined || targetFiles.has(finishedName(file))) return [];
    return [{ file, backup, store_id: id }];
  });
}

/** Returns the names that a backup's marker can have in a target. */
export function markerNames({ path }: ListedBackup, id: string | undefined): string[] {
  const marker = markerName(path, id);
  return [marker, finishedName(marker)];
}

/** Returns the local name of the backup that a marker's name contains; undefined for others. */
export function findMarked(name: string): string | undefined {
  return markerPattern.exec(name.replace(/\.resumed$/, ".resume"))?.[1];
}

/**
 * Marks the oldest backup that is left for the next runs, and removes the store's earlier markers.
 * Must run when every older backup is in the target, and before the newest is copied.
 *
 * If the target refuses to remove a marker, a second file ends it. Otherwise the backups that were
 * pruned there with other credentials would be copied again at each run. A marker that was ended
 * cannot be used again, so an older backup is marked then.
 *
 * @param left - the backups that may be marked, oldest first; none if this run leaves none
 * @param newest - the newest missing backup
 * @param id - the store's id
 */
export async function updateMarkers(
  to: Destination,
  left: readonly ListedBackup[],
  newest: ListedBackup,
  id: string | undefined,
): Promise<void> {
  const nameOf = ({ path }: ListedBackup) => markerName(path, id);
  const oldest = left.findLast((each) => !to.targetFiles.has(finishedName(nameOf(each))));
  const file = oldest && nameOf(oldest);
  if (oldest && file !== undefined && !to.targetFiles.has(file)) {
    await writeManifest(to, oldest, file);
    emitStep("copy.marker");
  }
  for (const marker of readMarkers(to.targetFiles)) {
    if (marker.store_id !== id || marker.file === file) continue;
    if (await removeIfAllowed(to, marker.file)) continue;
    await writeManifest(to, newest, finishedName(marker.file)).catch((error: unknown) => {
      if (!(error instanceof StoreError)) throw error;
    });
  }
}

/** Copies a backup's manifest to the target under another name. */
async function writeManifest(
  { target }: Destination,
  { manifest }: ListedBackup,
  file: string,
): Promise<void> {
  await target.write(manifest, file, await sha256File(manifest));
}
