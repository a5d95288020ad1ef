import type { Command } from "commander";
import { withoutSecrets } from "../../client/client.js";
import { addGlobalOptions, type Context, contextOf } from "../context.js";
import { addHelp } from "../help.js";
import { openStoreToRead } from "../open.js";
import { addSecretOption, type SecretOption } from "../options/client.js";
import {
  chooseClient,
  noClientError,
  optionalIdNote,
  parseOptionalId,
} from "../ui/choose-client.js";
import { clientLines } from "../ui/client-text.js";

export function addCommand(program: Command): void {
  const command = addSecretOption(program.command("show-client [id]")).description(
    "Show one client",
  );
  addGlobalOptions(command);
  addHelp(command, {
    details: [optionalIdNote],
    examples: [
      "hivemind-sqlcipher show-client 3",
      "hivemind-sqlcipher show-client 3 --show-secrets --json",
    ],
  });
  command.action(async (id: string | undefined, options: SecretOption) =>
    showClient(await contextOf(command), parseOptionalId(id), options),
  );
}

async function showClient(
  context: Context,
  given: number | undefined,
  { showSecrets = false }: SecretOption,
): Promise<void> {
  await using store = await openStoreToRead(context);
  const id = await chooseClient(context, store, given);
  const client = await store.getClientById(id);
  if (!client) throw noClientError(context, id);
  context.output.result({ client: showSecrets ? client : withoutSecrets(client) }, () =>
    clientLines(client, showSecrets),
  );
}
