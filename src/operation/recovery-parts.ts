/** The parts shared by all recoveries, and their result. */
import { StoreError, systemError, withLine } from "../errors.js";
import { withoutSignal } from "../process/interaction.js";
import * as z from "../schema.js";
import { shellQuote } from "../text/escape.js";
import { Downtime } from "./downtime.js";
import { downStep, type Journal } from "./journal.js";
import { type Stopped, stoppedSchema } from "./service.js";

/** The result of a recovery. If it contains no error, nothing of the operation is left. */
export interface Recovery {
  /** The completed actions, for the user. */
  readonly messages: readonly string[];
  /**
   * Why the recovery failed before the store had its final file and passphrase. The journal stays
   * for the next attempt.
   */
  readonly error?: StoreError | undefined;
  /**
   * Why files apart from the store could not be removed: their disk may be absent. The journal
   * stays. This blocks new operations, but not commands that only open the store.
   */
  readonly cleanupPending?: StoreError | undefined;
  /**
   * Why the service does not run. The journal stays, and the next opening of the store tries to
   * start the service again. This blocks new operations, but not commands that only open the store.
   */
  readonly serviceDown?: StoreError | undefined;
}

/** The facts about a failed operation in its own process, in addition to the journal. */
export interface OperationFailure {
  readonly failure: unknown;
  /**
   * The downtime, if it was prepared before the failure. The service may not be stopped yet, may
   * run again, or its start may have failed.
   */
  readonly downtime?: Downtime | undefined;
}

/**
 * Runs a part of an operation. If it fails, throws the error returned by `recover`. The signal that
 * has interrupted the part does not interrupt the recovery, or it could not read the keyring.
 */
export async function orRecover<Result>(
  part: () => Promise<Result>,
  recover: (failed: OperationFailure) => Promise<unknown>,
): Promise<Result> {
  try {
    return await part();
  } catch (failure) {
    throw await withoutSignal(() => recover({ failure }));
  }
}

/**
 * Returns the downtime of an operation to be recovered: the live downtime, or else the downtime in
 * the journal.
 */
export async function findDowntime(
  storePath: string,
  stopped: Stopped | undefined,
  failed: OperationFailure | undefined,
): Promise<Downtime | undefined> {
  return failed?.downtime ?? (stopped && (await Downtime.fromJournal(stopped, storePath)));
}

/**
 * Starts the service of an operation to be recovered, unless a start has failed already.
 *
 * @returns a message if the service was started; the failure is in `downtime.startFailure`
 */
export async function endDowntime(
  downtime: Downtime | undefined,
  operation: string,
  options: { restartIfUp?: boolean } = {},
): Promise<string[]> {
  if (!downtime || downtime.startFailure) return [];
  try {
    const { isStarted } = await downtime.end(options);
    if (!isStarted) return [];
    return [`started ${downtime.name}, which an interrupted ${operation} had stopped`];
  } catch {
    return [];
  }
}

const stopOnlySchema = z.looseObject({ stopped: z.optional(stoppedSchema) });

/** Recovers an operation that leaves nothing but a stopped service: starts the service. */
export async function recoverStop(
  journal: Journal,
  storePath: string,
  failed?: OperationFailure,
): Promise<Recovery> {
  const { stopped } = journal.dataAs(stopOnlySchema);
  const downtime = await findDowntime(storePath, stopped, failed);
  const messages = await endDowntime(downtime, journal.entry.operation);
  const serviceDown = downtime?.startFailure;
  const isDown = serviceDown !== undefined;
  const cleanupPending = await cleanUp(journal, async () => undefined, { isDown });
  return { messages, serviceDown, cleanupPending };
}

/**
 * Does the last part of a recovery, not needed by the store and its service. Then removes the
 * journal or, if the service is down, leaves only the pending restart in it.
 *
 * @param work - if it fails, the journal stays for the next attempt
 * @returns why `work` failed
 */
export async function cleanUp(
  journal: Journal,
  work: () => Promise<unknown>,
  options: { isDown?: boolean } = {},
): Promise<StoreError | undefined> {
  try {
    await work();
    if (options.isDown) await journal.write(downStep, { stopped: journal.entry.data.stopped });
    else await journal.remove();
    return undefined;
  } catch (error) {
    const { kind, message, hint } = systemError(error, "cannot remove the remaining files");
    return new StoreError(
      kind,
      `the store is recovered, but files of an interrupted ${journal.entry.operation} remain: ${message}`,
      {
        hint: withLine(
          hint,
          `The next command tries again. If the files are gone for good: rm ${shellQuote(journal.path)}\nFiles that still exist then stay, because only the journal names them.`,
        ),
        cause: error,
      },
    );
  }
}

/** Returns the error for a service still down after a recovery, with the ways to continue. */
export function serviceDownError({ entry, path }: Journal, error: StoreError): StoreError {
  const next =
    "Once the service runs, the next command completes the recovery. Until then, commands that only open the store work.";
  const lines =
    entry.step === downStep
      ? [
          `${next} A restore is possible, too, and starts the service.`,
          `If the service is no longer needed: rm ${shellQuote(path)}`,
        ]
      : [
          next,
          "A restore without the journal does not start the service, and only the journal names remaining files. Move the journal away if you want to restore a backup first, or if the service is no longer needed:",
          `mv ${shellQuote(path)} ${shellQuote(`${path}.left`)}`,
        ];
  return new StoreError("service", `after an interrupted ${entry.operation}: ${error.message}`, {
    hint: [...(error.hint === undefined ? [] : [error.hint]), ...lines].join("\n"),
    cause: error,
  });
}

/**
 * Returns the error of a failed operation, with the state in which its recovery left the store and
 * the service.
 *
 * @param outcome - the state of the store, as the end of the message
 */
export function withRecovery(failure: unknown, recovery: Recovery, outcome?: string): unknown {
  const { error, serviceDown, cleanupPending } = recovery;
  const others = [error, serviceDown, cleanupPending].filter((other) => other && other !== failure);
  if (others.length === 0 && outcome === undefined) return failure;
  const first = systemError(failure, "unexpected error", "failed");
  const messages = [first.message, outcome, ...others.map((other) => other?.message)];
  const hints = [first, ...others].flatMap((each) => each?.hint?.split("\n") ?? []);
  if (error || serviceDown) hints.push("The next command of this store tries again.");
  return new StoreError(
    serviceDown ? "service" : first.kind,
    messages.filter((message) => message !== undefined).join("; "),
    { hint: [...new Set(hints)].join("\n") || undefined, cause: failure },
  );
}
