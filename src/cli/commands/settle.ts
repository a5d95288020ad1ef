import type { Command } from "commander";
import { addGlobalOptions, type Context, contextOf, ownCommand } from "../context.js";

/**
 * `settle` finishes or undoes an interrupted operation and does nothing else. Every command does so first; this one is
 * for the dead-man timer, which has no other work.
 */
export function addCommand(program: Command): void {
  const settle = addGlobalOptions(
    program
      .command("settle", { hidden: true })
      .description("finish or undo what an interrupted operation left"),
  );
  settle.action(async () => {
    const context = await contextOf(settle);
    const { recoverOnly } = await import("../../recovery/recover.js");
    // Under the lock or not at all: whoever runs this relies on its success, which is that the service runs.
    const said = await recoverOnly(context.storePath);
    context.output.result({ settled: said }, () => said);
  });
}

/** The program and arguments that run `settle` for this store, for the service manager to keep. */
export function recoveryCommand(context: Context): string[] {
  return ownCommand(context, "settle", "--quiet");
}
