import { randomBytes } from "node:crypto";
import { type Command, InvalidArgumentError } from "commander";
import { type Client, newClient, withoutSecrets } from "../../client/client.js";
import { isJsonObject, type JsonObject, type JsonValue, parseJson } from "../../client/json.js";
import { effectiveTypes, initialTypes } from "../../client/permissions.js";
import { StoreError } from "../../errors.js";
import type { ClientStore } from "../../store/client-store.js";
import { addGlobalOptions, type Context, contextOf, repeated } from "../context.js";
import { openStore } from "../open.js";
import { parseBoolean } from "../options/client.js";
import { describe } from "../ui/client-text.js";

interface AddOptions {
  name?: string;
  accessKey?: string;
  password?: string;
  cryptoKey?: string;
  admin?: boolean;
  allow?: string[];
  metadata?: JsonObject;
  update?: boolean;
}

export function addCommand(program: Command): void {
  const add = addGlobalOptions(
    program
      .command("add-client")
      .description("add a client, and print its credentials this once")
      .option("--name <name>", "what to call it (default: HiveMind-Node-<number of clients>)")
      .option("--access-key <key>", "its access key (default: a random one)")
      .option("--password <password>", "its password (default: a random one)")
      .option(
        "--crypto-key <key>",
        "its crypto key, 16 characters; deprecated (default: a random one)",
      )
      .option("--admin <true|false>", "whether it is an administrator", parseBoolean)
      .option(
        "--allow <type>",
        "a message type it may send, and no others; can be repeated (default: what the hub gives a new client)",
        repeated,
      )
      .option("--metadata <json>", "its metadata, a JSON object", parseMetadata)
      .option("--update", "change the client that has this access key already")
      .addHelpText(
        "after",
        "\nExamples:\n  hivemind-sqlcipher add-client --name kitchen\n  hivemind-sqlcipher add-client --name panel --admin true --json",
      ),
    ["name"],
  );
  add.action(async (options: AddOptions) => addClient(await contextOf(add), options));
}

async function addClient(context: Context, options: AddOptions): Promise<void> {
  if (options.cryptoKey !== undefined && options.cryptoKey.length !== 16) {
    throw new StoreError("usage", "a crypto key has exactly 16 characters");
  }
  if (options.accessKey === "" || options.accessKey === "revoked") {
    throw new StoreError("usage", `"${options.accessKey}" cannot be an access key`);
  }
  await using store = await openStore(context);
  const { client, isNew } = await store.transaction(async () => {
    const existing = options.accessKey && (await store.getClientByApiKey(options.accessKey));
    if (!existing) return { client: await insertClient(store, options), isNew: true };
    if (!options.update) {
      throw new StoreError("refused", `client ${existing.client_id} has this access key already`, {
        hint: "Add --update to change that client, or leave --access-key out for a new one.",
      });
    }
    const updated = await store.updateClient(existing.client_id, {
      ...(options.name !== undefined && { name: options.name }),
      ...(options.password !== undefined && { password: options.password }),
      ...(options.cryptoKey !== undefined && { crypto_key: options.cryptoKey }),
      ...(options.admin !== undefined && { is_admin: options.admin }),
      ...(options.allow && { allowed_types: initialTypes(options.allow, store.schemaVersion) }),
      ...(options.metadata && { metadata: { ...existing.metadata, ...options.metadata } }),
    });
    return { client: updated, isNew: false };
  });
  if (effectiveTypes(client, store.schemaVersion).length === 0) {
    context.output.notice(
      `client ${client.client_id} may send nothing yet: hivemind-sqlcipher allow-msg TYPE ${client.client_id}`,
    );
  }
  // Its secrets are shown once, when they are made.
  const shown = isNew ? client : withoutSecrets(client);
  context.output.result({ client: shown }, () => [...describe(client, isNew)]);
}

async function insertClient(store: ClientStore, options: AddOptions): Promise<Client> {
  const client = newClient({
    client_id: await store.nextClientId(),
    api_key: options.accessKey ?? randomBytes(16).toString("hex"),
    name: options.name ?? `HiveMind-Node-${await store.size()}`,
    password: options.password ?? randomBytes(16).toString("hex"),
    crypto_key: options.cryptoKey ?? randomBytes(8).toString("hex"),
    is_admin: options.admin ?? false,
    allowed_types: initialTypes(options.allow, store.schemaVersion),
    metadata: options.metadata ?? {},
  });
  await store.addItem(client);
  return client;
}

function parseMetadata(text: string): JsonObject {
  let metadata: JsonValue;
  try {
    metadata = parseJson(text);
  } catch (error) {
    // "not JSON: a value was expected at character 0"
    throw new InvalidArgumentError(`It is ${(error as Error).message}.`);
  }
  if (!isJsonObject(metadata))
    throw new InvalidArgumentError('It is no JSON object, as {"room": "kitchen"}.');
  return metadata;
}
