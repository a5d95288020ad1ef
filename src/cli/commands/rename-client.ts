import type { Command } from "commander";
import { rename } from "../../client/permissions.js";
import { addGlobalOptions } from "../context.js";
import { editClient } from "../edit-client.js";
import { addHelp } from "../help.js";
import { optionalIdNote } from "../ui/choose-client.js";

export function addCommand(program: Command): void {
  const command = program
    .command("rename-client [id]")
    .description("Rename a client")
    .requiredOption("--name <name>", "Set this name");
  addGlobalOptions(command, ["name"]);
  addHelp(command, {
    details: [optionalIdNote],
    examples: ["hivemind-sqlcipher rename-client 3 --name kitchen"],
  });
  command.action(async (id: string | undefined, options: { name: string }) =>
    editClient(command, id, rename(options.name)),
  );
}
