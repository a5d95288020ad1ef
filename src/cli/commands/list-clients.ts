import type { Command } from "commander";
import { type Client, isRevoked, withoutSecrets } from "../../client/client.js";
import type { ClientTable } from "../../store/client-table.js";
import { finishCommand } from "../command.js";
import type { Context } from "../context.js";
import { openStoreToRead } from "../open.js";
import { addSecretOption, type SecretOption } from "../options/client.js";
import { printClientTable } from "../ui/clients.js";
import { formatDocument } from "../ui/json.js";
import { printJsonList } from "../ui/json-list.js";
import { print } from "../ui/output.js";

interface ListOptions extends SecretOption {
  revoked?: boolean;
  jsonl?: boolean;
}

export function addCommand(program: Command): void {
  const command = addSecretOption(program.command("list-clients"))
    .description("List the clients")
    .option("--revoked", "Include revoked clients")
    .option("--jsonl", "Print one JSON record a line");
  finishCommand(command, listClients, {
    examples: [
      "hivemind-sqlcipher list-clients",
      "hivemind-sqlcipher list-clients --revoked --jsonl",
    ],
  });
}

async function listClients(context: Context, options: ListOptions): Promise<void> {
  await using store = await openStoreToRead(context);
  const clients = filterRevoked(store, options.revoked ?? false);
  const record = (client: Client) => (options.showSecrets ? client : withoutSecrets(client));
  if (options.jsonl) {
    for await (const client of clients) await print(`${formatDocument(record(client))}\n`);
  } else if (context.output.json) {
    await printJsonList({ head: '{"clients":[', items: clients, record });
  } else {
    const count = await printClientTable(context, clients, options.showSecrets ?? false);
    if (count === 0) context.output.notice("no clients");
    // Count after printing, so that the first row appears without delay.
    const { revoked } = options.revoked ? { revoked: 0 } : await store.counts();
    if (revoked > 0) context.output.notice(`${revoked} revoked, shown with --revoked`);
  }
}

async function* filterRevoked(store: ClientTable, withRevoked: boolean): AsyncGenerator<Client> {
  for await (const client of store) {
    if (withRevoked || !isRevoked(client)) yield client;
  }
}
