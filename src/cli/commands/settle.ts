import type { Command } from "commander";
import { addGlobalOptions, contextOf } from "../context.js";
import { addHelp } from "../help.js";

/**
 * Adds the hidden command that the restart timer runs. It recovers from an interrupted operation
 * and does nothing else; commands that open or change the store recover before their own work.
 */
export function addCommand(program: Command): void {
  const command = program
    .command("settle", { hidden: true })
    .description("Recover from an interrupted operation");
  addGlobalOptions(command);
  addHelp(command, { examples: ["hivemind-sqlcipher settle"] });
  command.action(async () => {
    const context = await contextOf(command);
    const { recoverOnly } = await import("../../recovery/recover.js");
    const messages = await recoverOnly(context.storePath);
    context.output.result({ settled: messages }, () => messages);
  });
}
