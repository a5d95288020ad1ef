import type { Command } from "commander";
import { clientSchema, withoutSecrets } from "../../client/client.js";
import { StoreError } from "../../errors.js";
import { addGlobalOptions, type Context, contextOf } from "../context.js";
import { addHelp } from "../help.js";
import { openStoreToRead } from "../open.js";
import { addSecretOption, parseBoolean, type SecretOption } from "../options/client.js";
import { parseId } from "../ui/choose-client.js";
import { printTable } from "../ui/client-list.js";
import { standardInput } from "../ui/prompt.js";

/** Maps each field to its column. The hub also calls the access key `access_key`. */
const columns = new Map(Object.keys(clientSchema.shape).map((key) => [key, key]));
columns.set("access_key", "api_key");

interface FindOptions extends SecretOption {
  by: string;
}

export function addCommand(program: Command): void {
  const command = addSecretOption(program.command("find-client <value>"))
    .description("Find clients by the value of a field")
    .option("--by <field>", "Compare this field", "api_key");
  addGlobalOptions(command);
  addHelp(command, {
    details: ["With - as the value, it is read from standard input."],
    examples: [
      "hivemind-sqlcipher find-client --by name kitchen",
      "hivemind-sqlcipher find-client --by is_admin true",
      "secret-tool lookup … | hivemind-sqlcipher find-client -",
    ],
  });
  command.action(async (value: string, options: FindOptions) =>
    findClients(await contextOf(command), value, options),
  );
}

async function findClients(
  context: Context,
  value: string,
  { by, showSecrets = false }: FindOptions,
): Promise<void> {
  const column = columns.get(by);
  if (column === undefined) {
    throw new StoreError("usage", `no such field: ${by}`, {
      hint: `Use one of: ${[...columns.keys()].join(", ")}.`,
    });
  }
  const text = value === "-" ? (await standardInput()).replace(/\r?\n$/, "") : value;
  await using store = await openStoreToRead(context);
  const found = await store.searchByValue(column, searchValue(column, text));
  if (context.output.json) {
    const clients = found.map((client) => (showSecrets ? client : withoutSecrets(client)));
    context.output.result({ clients }, () => []);
    return;
  }
  await printTable(context, found, showSecrets);
  if (found.length === 0) context.output.notice("no matching clients");
}

/**
 * Converts the value to its column's type, because SQLite does not match the text "true" with 1.
 */
function searchValue(column: string, text: string): string | number | boolean {
  if (/^(is_|can_)/.test(column)) {
    try {
      return parseBoolean(text);
    } catch {
      throw new StoreError("usage", `${column} is true or false, not "${text}"`);
    }
  }
  if (column === "client_id") return parseId(text);
  if (column === "last_seen" && text !== "" && Number.isFinite(Number(text))) return Number(text);
  return text;
}
