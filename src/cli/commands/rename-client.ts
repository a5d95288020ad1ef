import type { Command } from "commander";
import { rename } from "../../client/permissions.js";
import { finishCommand } from "../command.js";
import type { Context } from "../context.js";
import { editClient } from "../edit-client.js";
import { optionalIdNote } from "../ui/choose-client.js";

export function addCommand(program: Command): void {
  const command = program
    .command("rename-client [id]")
    .description("Rename a client")
    .requiredOption("--name <name>", "Set this name");
  finishCommand(command, renameClient, {
    details: [optionalIdNote],
    examples: ["hivemind-sqlcipher rename-client 3 --name kitchen"],
  });
}

async function renameClient(
  context: Context,
  id: string | undefined,
  { name }: { name: string },
): Promise<void> {
  await editClient(context, id, rename(name));
}
