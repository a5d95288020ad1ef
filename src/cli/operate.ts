/** Runs operations of commands under the store's lock. */
import type { Command } from "commander";
import { addHint, isKind } from "../errors.js";
import type { OperationLock } from "../operation/lock.js";
import { throwIfAborted } from "../process/abort.js";
import { abortOnSignal } from "../process/signals.js";
import type { OperationRequirements } from "../recovery/recover.js";
import type { OperationOptions } from "../swap/options.js";
import { choiceOption } from "./command.js";
import { type Context, recoveryCommand } from "./context.js";
import { addServiceOptions, resolveServiceChoice, type ServiceOptions } from "./options/service.js";

export interface SwapOptions extends ServiceOptions {
  hub?: "auto" | "none";
}

export function addSwapOptions(command: Command): Command {
  return addServiceOptions(command).addOption(
    choiceOption("--hub <auto|none>", "Update the hub's password if a hub uses this store"),
  );
}

export function buildOperationOptions(
  context: Context,
  options: SwapOptions,
  lock: OperationLock,
  signal: AbortSignal,
): OperationOptions {
  return {
    lock,
    source: context.source,
    settingsSection: context.settingsSection,
    service: resolveServiceChoice(context, options),
    hub: options.hub ?? "auto",
    recoveryCommand: recoveryCommand(context),
    reporter: context.reporter,
    signal,
  };
}

/** Runs an operation under the store's lock. SIGINT, SIGTERM and SIGHUP abort it. */
export async function operate<Result>(
  context: Context,
  operation: (lock: OperationLock, signal: AbortSignal) => Promise<Result>,
  requirements: OperationRequirements = {},
): Promise<Result> {
  const { withOperation } = await import("../recovery/recover.js");
  const { storePath, reporter, refreshSettings } = context;
  return abortOnSignal(async (signal) => {
    throwIfAborted(signal);
    return await withOperation(
      storePath,
      reporter,
      async (lock) => {
        // The recovery, or an operation before the lock, may have changed the passphrase's source.
        await refreshSettings();
        return await operation(lock, signal);
      },
      requirements,
    );
  });
}

/** Runs work under the locks of several stores, like `operate`. The work only opens the stores. */
export async function operateOnStores<Result>(
  { reporter, refreshSettings }: Context,
  stores: readonly string[],
  work: (signal: AbortSignal) => Promise<Result>,
  { dryRun = false } = {},
): Promise<Result> {
  const { withStores } = await import("../recovery/stores.js");
  return abortOnSignal(async (signal) => {
    throwIfAborted(signal);
    return await withStores(stores, { dryRun }, reporter, async () => {
      await refreshSettings();
      return await work(signal);
    });
  });
}

/**
 * Runs an operation that stops the service, like `operate`. If the service does not stop or start,
 * for example because its hub is in a restart loop, the hint names the option with which the
 * operation neither stops nor starts the service.
 */
export async function operateWithService<Result>(
  context: Context,
  options: SwapOptions,
  operation: (options: OperationOptions) => Promise<Result>,
  requirements: OperationRequirements = {},
): Promise<Result> {
  try {
    return await operate(
      context,
      (lock, signal) => operation(buildOperationOptions(context, options, lock, signal)),
      requirements,
    );
  } catch (error) {
    if (!isKind(error, "service")) throw error;
    throw addHint(
      error,
      "If nothing has the store open, add --service none: the service is then neither stopped nor started.",
    );
  }
}
