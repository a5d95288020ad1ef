/** Writes into a database that is not the encrypted store while its service is stopped. */
import { Journal } from "../operation/journal.js";
import type { OperationLock } from "../operation/lock.js";
import {
  cleanUp,
  endDowntime,
  findDowntime,
  type OperationFailure,
  type Recovery,
  withRecovery,
} from "../operation/recovery.js";
import { type ResolvedService, type ServiceReport, stoppedSchema } from "../operation/service.js";
import { emitStep } from "../operation/step.js";
import { reportService, withServiceStopped } from "../operation/window.js";
import type { Reporter } from "../reporter.js";
import * as z from "../schema.js";

export const restoreIntoOperation = "restore-into";

/** Time limit of the work while the service is stopped: 60 s. */
const windowBudgetMs = 60_000;

const journalSchema = z.strictObject({
  /** The path or URL of the database. */
  database: z.string(),
  stopped: z.optional(stoppedSchema),
});

type IntoStep = "restore-into.stopping" | "restore-into.writing";

/**
 * Stops the service, runs `work` and starts the service. A failure or a kill starts the service,
 * too; it does not undo what was written.
 *
 * @param options.database - its path or URL, without secrets, for messages
 * @param options.work - calls its argument before it writes
 * @returns the result of `work`, and what to report about the service
 */
export async function writeWhileStopped<Result>(options: {
  readonly lock: OperationLock;
  readonly database: string;
  readonly service: ResolvedService;
  readonly recoveryCommand: readonly string[];
  readonly reporter: Reporter;
  readonly signal: AbortSignal;
  readonly work: (onWrite: () => Promise<void>) => Promise<Result>;
}): Promise<{ result: Result; report: ServiceReport }> {
  const { database, service, recoveryCommand, reporter, signal, work } = options;
  const { storePath } = options.lock;
  let data: z.infer<typeof journalSchema> = { database };
  const beginning: IntoStep = "restore-into.stopping";
  const journal = await Journal.begin(storePath, restoreIntoOperation, beginning, data);
  const enter = async (step: IntoStep) => {
    await journal.write(step, data);
    emitStep(step);
  };
  const { result, restart } = await withServiceStopped(
    {
      ...{ service, recoveryCommand, reporter, signal, budgetMs: windowBudgetMs },
      journalStop: async (stopped) => {
        data = { database, ...(stopped && { stopped }) };
        await enter("restore-into.stopping");
      },
      recover: async (failed) => {
        const outcome = hasWritten(journal)
          ? "run the restore again to complete it"
          : "nothing was changed";
        const recovery = await recoverRestoreInto(journal, storePath, failed);
        return withRecovery(failed.failure, recovery, outcome);
      },
    },
    () => work(() => enter("restore-into.writing")),
  );
  await journal.remove();
  return { result, report: await reportService(service, restart, reporter) };
}

/** Starts the service of an interrupted restore, and names the restore that completes it. */
export async function recoverRestoreInto(
  journal: Journal,
  storePath: string,
  failed?: OperationFailure,
): Promise<Recovery> {
  const { stopped, database } = journal.dataAs(journalSchema);
  const isPartial = hasWritten(journal) && !failed;
  const downtime = await findDowntime(storePath, stopped, failed);
  const messages = await endDowntime(downtime, "restore");
  if (isPartial) {
    messages.push(`a restore into ${database} was interrupted: run it again to complete it`);
  }
  const serviceDown = downtime?.startFailure;
  const isDown = serviceDown !== undefined;
  const cleanupPending = await cleanUp(journal, async () => undefined, { isDown });
  return { messages, serviceDown, cleanupPending };
}

function hasWritten(journal: Journal): boolean {
  return journal.entry.step === ("restore-into.writing" satisfies IntoStep);
}
