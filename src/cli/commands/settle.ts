import type { Command } from "commander";
import { addGlobalOptions, contextOf } from "../context.js";
import { addHelp } from "../help.js";

/**
 * Adds the hidden command that recovers from an interrupted operation and does nothing else. Every
 * command recovers first; the restart timer, which has no other work, runs this one.
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
