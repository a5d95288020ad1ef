/** Checks when the targets of copies last had a complete copy. */
import { type ConfiguredTarget, type CopyState, readCopyStates } from "../copies/copy-record.js";
import { dayMs, oldBackupMs } from "./backups.js";
import { type Check, finding, good } from "./check.js";

/** 35 days: a disk that is connected only once a month may be late by four days. */
const oldSkippedMs = 35 * dayMs;

/**
 * Checks when each target in the settings last had a complete copy.
 *
 * @throws {@link StoreError} what `readCopyStates` throws
 */
export async function checkCopyTargets(
  storePath: string,
  targets: readonly ConfiguredTarget[] = [],
): Promise<Check[]> {
  return (await readCopyStates(storePath, targets)).map(checkCopy);
}

function checkCopy({ target, contents, succeededAt, skipped, error }: CopyState): Check {
  const name = "copy-targets";
  const what = contents === "bundle" ? "the bundle" : "the backups";
  const since =
    succeededAt === null
      ? `${what} were never completely copied to ${target}`
      : `${what} were last copied to ${target} at ${succeededAt}`;
  const problem = error ?? skipped;
  const age = Date.now() - Date.parse(succeededAt ?? "1970-01-01");
  const isOld = age > (error === null && skipped !== null ? oldSkippedMs : oldBackupMs);
  if (!isOld && error === null) return good(name, since);
  const reason = problem === null ? "" : `: ${problem}`;
  const fix = skipped === null ? "" : "Mount its disk, then run: ";
  return finding(name, "warning", `${since}${reason}`, `${fix}hivemind-sqlcipher backup`);
}
