/** Records the last copy to each target of a store, for `status`, `doctor` and the metrics. */
import { readStoreRecord, writeStoreRecord } from "../config/store-record.js";
import { findEarlierSuccess } from "../operation/run-record.js";
import * as z from "../schema.js";
import type { CopyReport } from "./copy.js";
import { parseTarget } from "./plan.js";

const contentsSchema = z.enum(["backups", "bundle"]);

const attemptSchema = z.object({
  target: z.string(),
  contents: contentsSchema,
  /** When the last run for the target began, also if it skipped the target, UTC. */
  at: z.iso.datetime(),
  /** When the newest run began with a complete copy at its end; null if there was none. */
  succeeded_at: z.nullable(z.iso.datetime()),
  /** Why the last run skipped the target: a missing directory or unmounted disk; or null. */
  skipped: z.nullable(z.string()),
  /** The first error of the last run; null if there was none. */
  error: z.nullable(z.string()),
  /** How long the run took for the target; null if it did not try. */
  duration_ms: z.nullable(z.int()),
  /** Bytes of the newest copied file; null if no run has copied one. */
  size: z.nullable(z.int()),
});

const subject = "copies";

const recordSchema = z.object({
  copies: z.array(attemptSchema),
});

type Attempt = z.infer<typeof attemptSchema>;

export interface ConfiguredTarget {
  /** As in the settings. */
  readonly target: string;
  readonly contents: CopyReport["contents"];
}

/** The last copy to a target in the settings; `at` is null if no run has tried the target. */
export type CopyState = Omit<Attempt, "at"> & { readonly at: string | null };

const neverTried = {
  at: null,
  succeeded_at: null,
  skipped: null,
  error: null,
  duration_ms: null,
  size: null,
};

/**
 * Records a copy. Keeps what a skipped or failed copy does not tell.
 *
 * @param begun - when the run began
 */
export async function recordCopy(
  storePath: string,
  report: CopyReport,
  begun: Date,
): Promise<void> {
  const at = begun.toISOString();
  const { target, contents, skipped, durationMs, copied, postponed } = report;
  const attempts = await readAttempts(storePath);
  const isOfTarget = (each: Attempt) => each.target === target && each.contents === contents;
  const last = attempts.find(isOfTarget);
  const error = report.errors[0]?.message ?? null;
  const isComplete = skipped === null && error === null && postponed === 0;
  const attempt: Attempt = {
    target,
    contents,
    at,
    skipped,
    error,
    duration_ms: durationMs,
    succeeded_at: isComplete ? at : findEarlierSuccess(last, at),
    size: copied.at(-1)?.size ?? last?.size ?? null,
  };
  const others = attempts.filter((each) => !isOfTarget(each));
  await writeStoreRecord(storePath, subject, { copies: [...others, attempt] });
}

/**
 * Returns the last copy to each of the targets.
 *
 * @throws {@link StoreError} io - if the record cannot be read
 * @throws {@link StoreError} usage - for a malformed target
 */
export async function readCopyStates(
  storePath: string,
  targets: readonly ConfiguredTarget[],
): Promise<CopyState[]> {
  const attempts = targets.length === 0 ? [] : await readAttempts(storePath);
  return targets.map(({ target, contents }) => {
    const { name } = parseTarget(target);
    const last = attempts.find((each) => each.target === name && each.contents === contents);
    return { target: name, contents, ...(last ?? neverTried) };
  });
}

async function readAttempts(storePath: string): Promise<readonly Attempt[]> {
  return (await readStoreRecord(storePath, subject, recordSchema))?.copies ?? [];
}
