/**
 * Records the last drill of each target of a store, for `status` and the metrics. `drill` restores
 * the newest backup to a temporary copy, as a test.
 */
import { readStoreRecord, writeStoreRecord } from "../config/store-record.js";
import { runFields } from "../operation/run-record.js";
import * as z from "../schema.js";

const drillSchema = z.object({
  /** A directory, or `rclone:REMOTE:PATH`. */
  target: z.string(),
  ...runFields,
  /** Bytes of the backup that the newest successful drill restored; null if none has succeeded. */
  size: z.nullable(z.int()),
});

const subject = "drills";

/**
 * The maximum number of recorded targets. Only this limit removes a target that is no longer used,
 * such as a former USB stick.
 */
const maxTargets = 20;

const recordSchema = z.object({
  drills: z.array(drillSchema),
});

export type Drill = z.infer<typeof drillSchema>;

export interface DrillOutcome {
  readonly target: string;
  /** When the drill began, UTC. */
  readonly at: string;
  readonly durationMs: number;
  readonly exitCode: number;
  /** Bytes of the restored backup; undefined if the drill failed. */
  readonly size?: number | undefined;
  /** Whether the settings name the target. */
  readonly isConfigured: boolean;
}

/**
 * Records a drill. After a failed drill, keeps the time and size of the last success.
 *
 * Records a failure only for a target that is in the settings or has a recorded drill. Any other
 * target may be a mistyped path, which would count as failed forever.
 */
export async function recordDrill(store: string, outcome: DrillOutcome): Promise<void> {
  const { target, at, durationMs, exitCode, size, isConfigured } = outcome;
  const drills = await readDrills(store);
  const last = drills.find((drill) => drill.target === target);
  if (exitCode !== 0 && !isConfigured && last === undefined) return;
  const drill: Drill = {
    ...{ target, at, duration_ms: durationMs, exit_code: exitCode },
    succeeded_at: exitCode === 0 ? at : (last?.succeeded_at ?? null),
    size: size ?? last?.size ?? null,
  };
  const others = drills.filter((each) => each.target !== target);
  await writeStoreRecord(store, subject, { drills: [...others, drill].slice(-maxTargets) });
}

/**
 * Returns the last drill of each target.
 *
 * @throws {@link StoreError} io - if the record cannot be read
 */
export async function readDrills(store: string): Promise<readonly Drill[]> {
  return (await readStoreRecord(store, subject, recordSchema))?.drills ?? [];
}
