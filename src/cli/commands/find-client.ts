import type { Command } from "commander";
import { clientSchema, withoutSecrets } from "../../client/client.js";
import { StoreError } from "../../errors.js";
import { addGlobalOptions, type Context, contextOf } from "../context.js";
import { openStore } from "../open.js";
import { parseBoolean, type SecretOption } from "../options/client.js";
import { parseId } from "../ui/choose-client.js";
import { printTable } from "../ui/client-list.js";
import { standardInput } from "../ui/prompt.js";

/** Columns of a search, with the hub's other word for the access key. */
const searchKeys = new Map(Object.keys(clientSchema.shape).map((key) => [key, key]));
searchKeys.set("access_key", "api_key");

interface FindOptions extends SecretOption {
  by: string;
}

export function addCommand(program: Command): void {
  const find = addGlobalOptions(
    program
      .command("find-client <value>")
      .description("find clients by a field's value; - reads the value from standard input")
      .option("--by <field>", "the field: api_key, name, is_admin, …", "api_key")
      .option("--show-secrets", "with access keys, passwords and crypto keys")
      .addHelpText(
        "after",
        "\nExamples:\n  hivemind-sqlcipher find-client --by name kitchen\n  hivemind-sqlcipher find-client --by is_admin true\n  secret-tool lookup … | hivemind-sqlcipher find-client -",
      ),
  );
  find.action(async (value: string, options: FindOptions) =>
    findClients(await contextOf(find), value, options),
  );
}

async function findClients(context: Context, value: string, options: FindOptions): Promise<void> {
  const key = searchKeys.get(options.by);
  if (key === undefined) {
    throw new StoreError("usage", `there is no field "${options.by}"`, {
      hint: `The fields are: ${[...searchKeys.keys()].join(", ")}.`,
    });
  }
  const wanted = value === "-" ? (await standardInput()).replace(/\r?\n$/, "") : value;
  await using store = await openStore(context);
  const found = await store.searchByValue(key, searchValue(key, wanted));
  const secrets = options.showSecrets ?? false;
  if (context.output.json) {
    context.output.result(
      { clients: found.map((client) => (secrets ? client : withoutSecrets(client))) },
      () => [],
    );
    return;
  }
  await printTable(context, found, secrets);
  if (found.length === 0) context.output.notice("nobody found");
}

/** The value in the type that the field is stored in: SQLite does not find 1 by "true". */
function searchValue(key: string, text: string): string | number | boolean {
  if (/^(is_|can_)/.test(key)) {
    try {
      return parseBoolean(text);
    } catch {
      throw new StoreError("usage", `${key} is true or false, not "${text}"`);
    }
  }
  if (key === "client_id") return parseId(text);
  if (key === "last_seen" && text !== "" && Number.isFinite(Number(text))) return Number(text);
  return text;
}
