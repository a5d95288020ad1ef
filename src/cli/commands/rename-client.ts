import type { Command } from "commander";
import { rename } from "../../client/permissions.js";
import { addGlobalOptions } from "../context.js";
import { editClient, editHelp } from "../edit-client.js";

export function addCommand(program: Command): void {
  const renaming = addGlobalOptions(
    program
      .command("rename-client [id]")
      .description("give a client another name")
      .requiredOption("--name <name>", "the new name")
      .addHelpText("after", editHelp("rename-client 3 --name kitchen")),
    ["name"],
  );
  renaming.action(async (id: string | undefined, options: { name: string }) =>
    editClient(renaming, id, rename(options.name)),
  );
}
