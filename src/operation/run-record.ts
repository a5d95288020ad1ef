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

/**
 * The maximum number of recorded targets. Only this limit removes a target that is no longer used,
 * such as a former USB stick.
 */
export const maxTargets = 20;

const recordSchema = z.object({
  /** By the name of the run. */
  runs: z.record(z.string(), runSchema),
});

/** The last run of an operation. */
export type Run = z.infer<typeof runSchema>;

/** The directory or remote of backups that a run works on. */
export interface RunTarget {
  /** A directory, or `rclone:REMOTE:PATH`. */
  readonly name: string;
  /** Whether it is the directory of backups in the settings. */
  readonly isDefault: boolean;
  /** Whether the settings name it. */
  readonly isConfigured: boolean;
}

/**
 * Records a run. Keeps the time of the last success if this run failed. The runs on each target
 * have a record of their own: a success on one target must not hide the failures on another.
 *
 * A failure is only recorded if an operation of this store has succeeded before, because a first
 * command with a wrong option must not write files. On a target that the settings do not name, the
 * operation must have succeeded before: it may be a mistyped path, which would count as failed.
 */
export async function recordRun(
  store: string,
  operation: string,
  run: Omit<Run, "succeeded_at">,
  target?: RunTarget,
): Promise<void> {
  const runs = await readRuns(store);
  const name = target === undefined || target.isDefault ? operation : `${operation} ${target.name}`;
  const { [name]: last, ...others } = runs;
  const hasFailed = run.exit_code !== 0;
  if (hasFailed && Object.keys(runs).length === 0) return;
  if (hasFailed && target?.isConfigured === false && last === undefined) return;
  const succeededAt = hasFailed ? findEarlierSuccess(last, run.at) : run.at;
  await writeStoreRecord(store, subject, {
    runs: dropOldTargets({ ...others, [name]: { ...run, succeeded_at: succeededAt } }),
  });
}

function dropOldTargets(runs: Readonly<Record<string, Run>>): Readonly<Record<string, Run>> {
  const onTarget = Object.keys(runs).filter((name) => parseRunName(name).target !== undefined);
  const dropped = onTarget.slice(0, -maxTargets);
  return Object.fromEntries(Object.entries(runs).filter(([name]) => !dropped.includes(name)));
}

/** Splits the name of a recorded run. There is no target for the directory in the settings. */
export function parseRunName(name: string): {
  readonly operation: string;
  readonly target?: string;
} {
  const [, operation = name, target] = /^(\S+) (.*)$/s.exec(name) ?? [];
  return target === undefined ? { operation } : { operation, target };
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
 * Returns the last runs of a store's operations, by name: `prune`, and `prune TARGET` for another
 * target than the directory of backups in the settings.
 *
 * @throws {@link StoreError} io - if the record cannot be read
 */
export async function readRuns(store: string): Promise<Readonly<Record<string, Run>>> {
  return (await readStoreRecord(store, subject, recordSchema))?.runs ?? {};
}
