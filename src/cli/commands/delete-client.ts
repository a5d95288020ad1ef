import type { Command } from "commander";
import { isRevoked } from "../../client/client.js";
import { escapeControlCharacters } from "../../text/escape.js";
import { addGlobalOptions, type Context, contextOf } from "../context.js";
import { openStore } from "../open.js";
import { chooseClient, idNote, noClient, parseOptionalId } from "../ui/choose-client.js";

export function addCommand(program: Command): void {
  const remove = addGlobalOptions(
    program
      .command("delete-client [id]")
      .description("revoke a client: its credentials are gone for good, its id is never used again")
      .addHelpText(
        "after",
        `${idNote}\nThere is no question, and no way back.\n\nExample:\n  hivemind-sqlcipher delete-client 3`,
      ),
  );
  remove.action(async (id: string | undefined) =>
    deleteClient(await contextOf(remove), parseOptionalId(id)),
  );
}

async function deleteClient(context: Context, given: number | undefined): Promise<void> {
  await using store = await openStore(context);
  const id = await chooseClient(context, store, given);
  const before = await store.transaction(async () => {
    const client = await store.getClientById(id);
    if (!client) throw noClient(context, id);
    if (!isRevoked(client)) await store.deleteItem(id);
    return client;
  });
  const already = isRevoked(before);
  context.output.result({ client: { client_id: id, revoked: true, already } }, () => [
    already
      ? `client ${id} was revoked already; nothing changed`
      : `client ${id}${before.name ? ` "${escapeControlCharacters(before.name)}"` : ""}: revoked. It cannot connect any more.`,
  ]);
}
