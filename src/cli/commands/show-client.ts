import type { Command } from "commander";
import { withoutSecrets } from "../../client/client.js";
import { finishCommand } from "../command.js";
import type { Context } from "../context.js";
import { openStoreToRead } from "../open.js";
import { addSecretOption, type SecretOption } from "../options/client.js";
import { chooseClient, getClient, optionalIdNote, parseOptionalId } from "../ui/choose-client.js";
import { clientLines } from "../ui/clients.js";

export function addCommand(program: Command): void {
  const command = addSecretOption(program.command("show-client [id]")).description(
    "Show one client",
  );
  finishCommand(command, showClient, {
    details: [optionalIdNote],
    examples: [
      "hivemind-sqlcipher show-client 3",
      "hivemind-sqlcipher show-client 3 --show-secrets --json",
    ],
  });
}

async function showClient(
  context: Context,
  idText: string | undefined,
  { showSecrets = false }: SecretOption,
): Promise<void> {
  const given = parseOptionalId(idText);
  await using store = await openStoreToRead(context);
  const id = await chooseClient(context, store, given);
  const client = await getClient(context, store, id);
  context.output.document({ client: showSecrets ? client : withoutSecrets(client) }, () =>
    clientLines(client, showSecrets),
  );
}
