/** Runs an operation with the operator's hooks, and records it for `status` and the metrics. */
import type { StoreError } from "../errors.js";
import type { HookEvent } from "../operation/hooks.js";
import type { RunTarget } from "../operation/run-record.js";
import { throwIfAborted } from "../process/abort.js";
import { abortOnSignal } from "../process/signals.js";
import type { Context } from "./context.js";
import { collectMetrics } from "./inspect.js";
import { findRunTarget } from "./options/backup-directories.js";
import { toJson } from "./ui/json.js";
import { toStoreError } from "./ui/output.js";

export interface MonitoredResult {
  readonly result: unknown;
  /** Milliseconds during which the service was stopped. */
  readonly stoppedMs?: number | null;
  readonly size?: number;
  /** Why the operation counts as failed although it has a result. */
  readonly failure?: StoreError | undefined;
  readonly print: () => void;
}

/** Returns the action of a command that runs a monitored operation. */
export function monitor<Args extends unknown[]>(
  operation: string,
  work: (context: Context, ...args: Args) => Promise<MonitoredResult>,
): (context: Context, ...args: Args) => Promise<void> {
  return (context, ...args) => runMonitored(context, { operation }, () => work(context, ...args));
}

/** As `monitor`, for an operation on a directory or remote, by default that of the settings. */
export function monitorTarget<Options>(
  operation: string,
  work: (
    context: Context,
    target: string | undefined,
    options: Options,
  ) => Promise<MonitoredResult>,
): (context: Context, target: string | undefined, options: Options) => Promise<void> {
  return async (context, target, options) => {
    const monitored = { operation, target: await findRunTarget(context, target) };
    await runMonitored(context, monitored, () => work(context, target, options));
  };
}

/**
 * Runs an operation, with the hooks before and after it. Records the run and rewrites the metrics
 * file; errors of both become notices. A signal during the first hook prevents the operation.
 * Prints the result last, because the process ends if standard output is closed.
 *
 * @param work - runs the operation
 * @throws what `work` throws
 */
async function runMonitored(
  context: Context,
  { operation, target }: { operation: string; target?: RunTarget | undefined },
  work: () => Promise<MonitoredResult>,
): Promise<void> {
  const at = new Date().toISOString();
  const start = performance.now();
  // One signal for the hook and the operation: an interruption during the hook prevents both.
  const running = abortOnSignal(async (signal) => {
    await runHooks(context, operation, { event: "before" });
    throwIfAborted(signal);
    return await work();
  });
  const [outcome] = await Promise.allSettled([running]);
  const isRejected = outcome.status === "rejected";
  const result = isRejected ? undefined : outcome.value;
  const error = isRejected ? toStoreError(outcome.reason) : result?.failure;
  await orNotice(context, "the run was not recorded", async () => {
    const { recordRun } = await import("../operation/run-record.js");
    const run = {
      at,
      duration_ms: Math.round(performance.now() - start),
      exit_code: error?.exitCode ?? 0,
      stopped_ms: result?.stoppedMs ?? null,
      size: result?.size ?? null,
    };
    await recordRun(context.storePath, operation, run, target);
  });
  await updateMetrics(context);
  const event = error
    ? ({ event: "failure", error } as const)
    : ({ event: "success", result: toJson(result?.result) } as const);
  await runHooks(context, operation, event);
  if (isRejected) throw outcome.reason;
  if (error) process.exitCode = error.exitCode;
  result?.print();
}

async function runHooks(context: Context, operation: string, event: HookEvent): Promise<void> {
  const { hooks = {} } = context.settings;
  if (hooks[event.event] === undefined && hooks.ping === undefined) return;
  const { runHooks } = await import("../operation/hooks.js");
  const { storePath, reporter } = context;
  await abortOnSignal((signal) =>
    runHooks(hooks, event, { operation, storePath, reporter, signal }),
  );
}

async function updateMetrics(context: Context): Promise<void> {
  const { file } = context.settings.metrics ?? {};
  if (file === undefined) return;
  await orNotice(context, "the metrics were not written", async () => {
    const { writeMetrics } = await import("../diagnostics/metrics.js");
    await context.refreshSettings();
    await writeMetrics(file, await collectMetrics(context));
  });
}

/** Runs `work` and prints its error as a notice, because the operation itself is complete. */
export async function orNotice(
  { output }: Context,
  what: string,
  work: () => Promise<void>,
): Promise<void> {
  await work().catch((error: unknown) => output.notice(`${what}: ${toStoreError(error).message}`));
}
