/** Compares source and target after the copy. */
import { batchesOf, inBatches } from "../client/batches.js";
import { type Client, revokedApiKey } from "../client/client.js";
import { isSameExceptLastSeen, isSameRecord } from "../client/compare.js";
import type { Database } from "../client/database.js";
import type { IdSet } from "../databases/id-set.js";
import { StoreError } from "../errors.js";
import { type Checked, findExisting, isKeptRevoked, listIds } from "./check.js";
import type { CopyOutcome, Evidence } from "./copy.js";

/** The number of filled ids to read back at once. */
const batchSize = 1_000;

interface CompareOptions {
  readonly checked: Checked;
  readonly copied: CopyOutcome;
  readonly merge: boolean;
  readonly report: (done: number) => void;
}

/**
 * Reads every record back from the target and compares it with the source.
 *
 * @throws {@link StoreError} failed - if a record differs, or the target has another number of
 *   records
 */
export async function compareWithTarget(
  origin: Database,
  destination: Database,
  { checked, copied, merge, report }: CompareOptions,
): Promise<void> {
  const { gaps, others, targetIds } = checked;
  const { evidence } = copied;
  // A database that keeps its records in memory, such as the JSON store, would return what was
  // written, and not what a running hub has made of it since.
  await destination.sync();
  const isProved = evidence !== undefined && (await holds(evidence, report));
  const { count, different } = isProved
    ? { count: copied.count, different: [] }
    : await compareRecords(origin, destination, targetIds, report);
  different.push(...(await findUnrevoked(destination, gaps)));
  const expected = count + gaps.size + others.active + others.revoked;
  const counted = await destination.size();
  if (different.length === 0 && (merge || counted === expected)) return;
  throw new StoreError(
    "failed",
    different.length > 0
      ? `clients ${listIds(different)} differ from the source after reading them back`
      : `after reading back, the target has ${counted} records; ${expected} were expected`,
    {
      hint: "Stop the hub that writes to either side, then run the command again.",
    },
  );
}

/**
 * Reads every record back from the target. Returns true only if the target has each record as it
 * was written, and the source has not changed since.
 */
async function holds(
  { chunks, isSourceUnchanged }: Evidence,
  report: (done: number) => void,
): Promise<boolean> {
  let done = 0;
  for (const { size, isUnchanged } of chunks) {
    report(done);
    if (!(await isUnchanged())) return false;
    done += size;
  }
  report(done);
  return isSourceUnchanged();
}

/** Reads both databases. Returns the number of clients, and the ids of those that differ. */
async function compareRecords(
  origin: Database,
  destination: Database,
  targetIds: IdSet,
  report: (done: number) => void,
): Promise<{ count: number; different: number[] }> {
  // A client from before the migration stays revoked, and keeps its own `last_seen`.
  const isAsExpected = (client: Client, other: Client | undefined) =>
    other !== undefined &&
    (isSameRecord(client, other) ||
      (targetIds.has(client.client_id) &&
        (isKeptRevoked(client, other) || isSameExceptLastSeen(client, other))));
  const different: number[] = [];
  let count = 0;
  await origin.sync();
  for await (const batch of batchesOf(origin)) {
    report(count);
    const found = await findExisting(batch, destination);
    const wrong = batch.filter((client, index) => !isAsExpected(client, found[index]));
    different.push(...wrong.map(({ client_id }) => client_id));
    count += batch.length;
  }
  report(count);
  return { count, different };
}

/** Returns the filled ids that are not revoked in the target. */
async function findUnrevoked(destination: Database, gaps: IdSet): Promise<number[]> {
  const different: number[] = [];
  for await (const ids of inBatches(gaps, batchSize)) {
    const found = await destination.getClientsById(ids);
    different.push(...ids.filter((_id, index) => found[index]?.api_key !== revokedApiKey));
  }
  return different;
}
