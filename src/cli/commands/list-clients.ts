import type { Command } from "commander";
import { type Client, isRevoked, withoutSecrets } from "../../client/client.js";
import type { ClientStore } from "../../store/client-store.js";
import { addGlobalOptions, type Context, contextOf } from "../context.js";
import { openStore } from "../open.js";
import type { SecretOption } from "../options/client.js";
import { printDocument, printTable } from "../ui/client-list.js";
import { print } from "../ui/output.js";

interface ListOptions extends SecretOption {
  revoked?: boolean;
  jsonl?: boolean;
}

export function addCommand(program: Command): void {
  const list = addGlobalOptions(
    program
      .command("list-clients")
      .description("list the clients")
      .option("--show-secrets", "with access keys, passwords and crypto keys")
      .option("--revoked", "with the revoked ones")
      .option("--jsonl", "one JSON record a line, as they are read")
      .addHelpText(
        "after",
        "\nExamples:\n  hivemind-sqlcipher list-clients\n  hivemind-sqlcipher list-clients --revoked --jsonl",
      ),
  );
  list.action(async (options: ListOptions) => listClients(await contextOf(list), options));
}

async function listClients(context: Context, options: ListOptions): Promise<void> {
  await using store = await openStore(context);
  const shown = listed(store, options.revoked ?? false);
  const record = (client: Client) => (options.showSecrets ? client : withoutSecrets(client));
  if (options.jsonl) {
    for await (const client of shown) {
      await print(`${JSON.stringify(record(client))}\n`);
    }
  } else if (context.output.json) {
    await printDocument(shown, record);
  } else {
    const count = await printTable(context, shown, options.showSecrets ?? false);
    if (count === 0) context.output.notice("no clients");
    // Counted last: it must not keep the first line waiting.
    const { revoked } = options.revoked ? { revoked: 0 } : await store.counts();
    if (revoked > 0) {
      context.output.notice(`${revoked} revoked, not shown (--revoked shows them)`);
    }
  }
}

async function* listed(store: ClientStore, withRevoked: boolean): AsyncGenerator<Client> {
  for await (const client of store) {
    if (withRevoked || !isRevoked(client)) yield client;
  }
}
