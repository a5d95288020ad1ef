/**
 * Records the last drill of each target of a store, for `status` and the metrics. `drill` restores
 * the newest backup to a temporary copy, as a test.
 */
import { readStoreRecord, writeStoreRecord } from "../config/store-record.js";
import { findEarlierSuccess, maxTargets, runFields } from "../operation/run-record.js";
import * as z from "../schema.js";

const drillSchema = z.object({
  /** A directory, or `rclone:REMOTE:PATH`. */
  target: z.string(),
  ...runFields,
  /** Bytes of the backup in the newest successful drill; null if none has succeeded. */
  size: z.nullable(z.int()),
});

const subject = "drills";

const recordSchema = z.object({
  drills: z.array(drillSchema),
});

export type Drill = z.infer<typeof drillSchema>;

/**
 * Records a drill. After a failed drill, keeps the time and size of the last success.
 *
 * Records a failure only for a target that is in the settings or has a recorded drill. Any other
 * target may be a mistyped path, which would count as failed forever.
 */
export async function recordDrill(
  store: string,
  drill: Omit<Drill, "succeeded_at">,
  { isConfigured }: { readonly isConfigured: boolean },
): Promise<void> {
  const drills = await readDrills(store);
  const last = drills.find(({ target }) => target === drill.target);
  const hasFailed = drill.exit_code !== 0;
  if (hasFailed && !isConfigured && last === undefined) return;
  const finished: Drill = {
    ...drill,
    succeeded_at: hasFailed ? findEarlierSuccess(last, drill.at) : drill.at,
    size: drill.size ?? last?.size ?? null,
  };
  const others = drills.filter(({ target }) => target !== drill.target);
  await writeStoreRecord(store, subject, { drills: [...others, finished].slice(-maxTargets) });
}

/**
 * Returns the last drill of each target.
 *
 * @throws {@link StoreError} io - if the record cannot be read
 */
export async function readDrills(store: string): Promise<readonly Drill[]> {
  return (await readStoreRecord(store, subject, recordSchema))?.drills ?? [];
}
