/** Writes into a database other than the encrypted store while its service is stopped. */
import { StoreError } from "../errors.js";
import { Journal } from "../operation/journal.js";
import type { OperationLock } from "../operation/lock.js";
import {
  type OperationFailure,
  type Recovery,
  recoverStop,
  withRecovery,
} from "../operation/recovery-parts.js";
import { type ResolvedService, type ServiceReport, stoppedSchema } from "../operation/service.js";
import { emitStep } from "../operation/step.js";
import { baseBudgetMs, reportService, withServiceStopped } from "../operation/window.js";
import type { Reporter } from "../reporter.js";
import * as z from "../schema.js";
import { assertStillStopped } from "./commit.js";

export const restoreIntoOperation = "restore-into";

const journalSchema = z.strictObject({
  /** The path or URL of the database. */
  database: z.string(),
  stopped: z.optional(stoppedSchema),
});

type IntoStep = "restore-into.stopping" | "restore-into.writing";

/**
 * Stops the service, runs `work` and starts the service. After a failure or a kill, the recovery
 * starts the service, and does not undo what was written.
 *
 * @param options.database - its path or URL, without secrets, for messages
 * @param options.work - calls its argument before it writes
 * @returns the result of `work`, and what to report about the service
 * @throws {@link StoreError} service - also if the service was started during the work
 */
export async function writeWhileStopped<Result>(options: {
  readonly lock: OperationLock;
  readonly database: string;
  readonly service: ResolvedService;
  readonly recoveryCommand: readonly string[];
  /** How long `work` may take, in milliseconds, in addition to `baseBudgetMs`. */
  readonly budgetMs: number;
  readonly reporter: Reporter;
  readonly signal: AbortSignal;
  readonly work: (onWrite: () => Promise<void>) => Promise<Result>;
}): Promise<{ result: Result; report: ServiceReport }> {
  const { database, service, recoveryCommand, budgetMs, reporter, signal, work } = options;
  const { storePath } = options.lock;
  let data: z.infer<typeof journalSchema> = { database };
  const beginning: IntoStep = "restore-into.stopping";
  const journal = await Journal.begin(storePath, restoreIntoOperation, beginning, data);
  const beginStep = async (step: IntoStep) => {
    await journal.write(step, data);
    emitStep(step);
  };
  const { result, restart } = await withServiceStopped(
    {
      service,
      recoveryCommand,
      reporter,
      signal,
      restartIfUp: true,
      budgetMs: baseBudgetMs + budgetMs,
      journalStop: async (stopped) => {
        data = { database, ...(stopped && { stopped }) };
        await beginStep("restore-into.stopping");
      },
      recover: async (failed) => {
        const outcome = hasWritten(journal)
          ? "the database may be incomplete: run the restore again"
          : "nothing was changed";
        const recovery = await recoverRestoreInto(journal, storePath, failed);
        return withRecovery(failed.failure, recovery, outcome);
      },
    },
    async (downtime) =>
      work(async () => {
        await assertStillStopped(storePath, downtime);
        await beginStep("restore-into.writing");
      }),
  );
  await journal.end(`the restore into ${database} is complete`);
  if (restart?.wasUp || restart?.timerFired) {
    throw new StoreError(
      "service",
      `${service.service.name ?? "the service"} was started during the restore and may have overwritten it`,
      { hint: "Find out what starts it, then run the restore again." },
    );
  }
  return { result, report: await reportService(service, restart, reporter) };
}

/** Starts the service of an interrupted restore. Reports if the restore must be repeated. */
export async function recoverRestoreInto(
  journal: Journal,
  storePath: string,
  failed?: OperationFailure,
): Promise<Recovery> {
  const { database } = journal.dataAs(journalSchema);
  const isPartial = hasWritten(journal) && !failed;
  const recovery = await recoverStop(journal, storePath, failed);
  if (!isPartial) return recovery;
  const message = `a restore into ${database} was interrupted: run it again to complete it`;
  return { ...recovery, messages: [...recovery.messages, message] };
}

function hasWritten(journal: Journal): boolean {
  return journal.entry.step === ("restore-into.writing" satisfies IntoStep);
}
