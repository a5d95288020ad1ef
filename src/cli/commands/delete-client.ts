import type { Command } from "commander";
import { isRevoked } from "../../client/client.js";
import { hasRights, isHiveMind4Schema, revokedKeyWarning } from "../../client/permissions.js";
import { describeClient } from "../../text/escape.js";
import { finishCommand } from "../command.js";
import type { Context } from "../context.js";
import { openStore, warnIfUnused } from "../open.js";
import { chooseClient, getClient, optionalIdNote, parseOptionalId } from "../ui/choose-client.js";

export function addCommand(program: Command): void {
  const command = program
    .command("delete-client [id]")
    .description("Revoke a client and erase its credentials");
  finishCommand(command, deleteClient, {
    details: [
      optionalIdNote,
      "The client's row stays, so that the hub does not give the id to another client. The command asks for no confirmation, and the revocation cannot be undone.",
    ],
    examples: ["hivemind-sqlcipher delete-client 3"],
  });
}

async function deleteClient(context: Context, idText: string | undefined): Promise<void> {
  const given = parseOptionalId(idText);
  await using store = await openStore(context);
  const isUnused = await warnIfUnused(context);
  const id = await chooseClient(context, store, given);
  const before = await store.transaction(async () => {
    const client = await getClient(context, store, id);
    if (!isRevoked(client) || hasRights(client)) await store.deleteItem(id);
    return client;
  });
  const already = isRevoked(before);
  const change = hasRights(before) ? "its permissions are withdrawn now" : "nothing changed";
  const revocation = isUnused
    ? `revoked in ${context.storePath}`
    : "revoked, can no longer connect";
  context.output.result({ client: { client_id: id, revoked: true, already } }, () => [
    already
      ? `client ${id}: already revoked, ${change}`
      : `client ${describeClient(id, before.name)}: ${revocation}`,
  ]);
  if (isHiveMind4Schema(store.schemaVersion)) {
    context.output.warning(`${revokedKeyWarning}: upgrade the hub to HiveMind 5`);
  }
}
