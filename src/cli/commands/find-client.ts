import type { Command } from "commander";
import { clientSchema, withoutSecrets } from "../../client/client.js";
import { StoreError } from "../../errors.js";
import { finishCommand } from "../command.js";
import type { Context } from "../context.js";
import { openStoreToRead } from "../open.js";
import { addSecretOption, parseBoolean, type SecretOption } from "../options/client.js";
import { parseId } from "../ui/choose-client.js";
import { printClientTable } from "../ui/clients.js";
import { readStandardInput } from "../ui/prompt.js";

interface FindOptions extends SecretOption {
  by: string;
}

export function addCommand(program: Command): void {
  const command = addSecretOption(program.command("find-client <value>"))
    .description("Find clients by the value of a field")
    .option("--by <field>", "Compare this field", "api_key");
  finishCommand(command, findClients, {
    details: [
      "Use - to read the value from standard input, which keeps an access key out of the argument list.",
    ],
    examples: [
      "hivemind-sqlcipher find-client --by name kitchen",
      "hivemind-sqlcipher find-client --by is_admin true",
      "secret-tool lookup satellite kitchen | hivemind-sqlcipher find-client -",
    ],
  });
}

async function findClients(
  context: Context,
  value: string,
  { by, showSecrets = false }: FindOptions,
): Promise<void> {
  // HiveMind's own command calls this field access_key.
  const column = by === "access_key" ? "api_key" : by;
  if (!Object.hasOwn(clientSchema.shape, column)) {
    throw new StoreError("usage", `no such field: ${by}`, {
      hint: `Use one of: ${Object.keys(clientSchema.shape).join(", ")}.`,
    });
  }
  const text = value === "-" ? (await readStandardInput()).replace(/\r?\n$/, "") : value;
  await using store = await openStoreToRead(context);
  const found = await store.searchByValue(column, parseSearchValue(column, text));
  if (context.output.json) {
    const clients = found.map((client) => (showSecrets ? client : withoutSecrets(client)));
    context.output.document({ clients }, () => []);
    return;
  }
  await printClientTable(context, found, showSecrets);
  if (found.length === 0) context.output.notice("no matching clients");
}

/** Converts the text to the type of the column, because SQLite does not match "true" with 1. */
function parseSearchValue(column: string, text: string): string | number | boolean {
  if (/^(is_|can_)/.test(column)) {
    try {
      return parseBoolean(text);
    } catch {
      throw new StoreError("usage", `invalid value for ${column}: "${text}"`, {
        hint: "Use true or false.",
      });
    }
  }
  if (column === "client_id") return parseId(text);
  if (column === "last_seen" && text !== "" && Number.isFinite(Number(text))) return Number(text);
  return text;
}
