import type { Command } from "commander";
import { finishCommand } from "../command.js";
import type { Context } from "../context.js";

/**
 * Adds the hidden command that the restart timer runs. It recovers from an interrupted operation
 * and does nothing else; commands that open or change the store recover before their own work.
 */
export function addCommand(program: Command): void {
  const command = program
    .command("settle", { hidden: true })
    .description("Recover from an interrupted operation");
  finishCommand(command, recover, { examples: ["hivemind-sqlcipher settle"] });
}

async function recover({ storePath, output }: Context): Promise<void> {
  const { recoverOnly } = await import("../../recovery/recover.js");
  const messages = await recoverOnly(storePath);
  output.result({ settled: messages }, () => messages);
}
