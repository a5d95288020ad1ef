/** Records the last run of each operation of a store, for `status` and its metrics. */
import { readStoreRecord, writeStoreRecord } from "../config/store-record.js";
import * as z from "../schema.js";

/** The fields of a recorded run. */
export const runFields = {
  /** When the run began, UTC. */
  at: z.iso.datetime(),
  duration_ms: z.int(),
  /** 0 for success. */
  exit_code: z.int(),
  /** When the newest successful run began; null if none did. */
  succeeded_at: z.nullable(z.iso.datetime()),
};

const runSchema = z.object({
  ...runFields,
  /** Milliseconds during which this run stopped the service; null if it did not. */
  stopped_ms: z.nullable(z.number()),
  /** Bytes of the backup that this run wrote; null if it wrote none. */
  size: z.nullable(z.int()),
});

/** The first part of the name of the record's file. */
const subject = "runs";

const recordSchema = z.object({
  /** By operation. */
  runs: z.record(z.string(), runSchema),
});

/** The last run of an operation. */
export type Run = z.infer<typeof runSchema>;

/**
 * Records a run. Keeps the time of the last success if this run failed.
 *
 * A failure is only recorded if an operation of this store has succeeded before, because a first
 * command with a wrong option must not write files.
 */
export async function recordRun(
  store: string,
  operation: string,
  run: Omit<Run, "succeeded_at">,
): Promise<void> {
  const runs = await readRuns(store);
  if (run.exit_code !== 0 && Object.keys(runs).length === 0) return;
  const succeededAt = run.exit_code === 0 ? run.at : findEarlierSuccess(runs[operation], run.at);
  await writeStoreRecord(store, subject, {
    runs: { ...runs, [operation]: { ...run, succeeded_at: succeededAt } },
  });
}

/**
 * Returns the recorded success of an operation that has failed now. Returns null for a success
 * after the failure: the clock was ahead then, and the success would count as recent for too long.
 */
export function findEarlierSuccess(
  last: { readonly succeeded_at: string | null } | undefined,
  failedAt: string,
): string | null {
  const time = last?.succeeded_at ?? null;
  return time !== null && Date.parse(time) <= Date.parse(failedAt) ? time : null;
}

/**
 * Returns the last runs of a store's operations.
 *
 * @throws {@link StoreError} io - if the record cannot be read
 */
export async function readRuns(store: string): Promise<Readonly<Record<string, Run>>> {
  return (await readStoreRecord(store, subject, recordSchema))?.runs ?? {};
}
