import type { Command } from "commander";
import { withoutSecrets } from "../../client/client.js";
import { addGlobalOptions, type Context, contextOf } from "../context.js";
import { openStore } from "../open.js";
import type { SecretOption } from "../options/client.js";
import { chooseClient, idNote, noClient, parseOptionalId } from "../ui/choose-client.js";
import { describe } from "../ui/client-text.js";

export function addCommand(program: Command): void {
  const show = addGlobalOptions(
    program
      .command("show-client [id]")
      .description("everything about one client")
      .option("--show-secrets", "with its access key, password and crypto key")
      .addHelpText(
        "after",
        `${idNote}\n\nExamples:\n  hivemind-sqlcipher show-client 3\n  hivemind-sqlcipher show-client 3 --show-secrets --json`,
      ),
  );
  show.action(async (id: string | undefined, options: SecretOption) =>
    showClient(await contextOf(show), parseOptionalId(id), options),
  );
}

async function showClient(
  context: Context,
  given: number | undefined,
  options: SecretOption,
): Promise<void> {
  await using store = await openStore(context);
  const id = await chooseClient(context, store, given);
  const client = await store.getClientById(id);
  if (!client) throw noClient(context, id);
  const secrets = options.showSecrets ?? false;
  context.output.result({ client: secrets ? client : withoutSecrets(client) }, () =>
    describe(client, secrets),
  );
}
