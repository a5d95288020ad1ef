import { randomBytes } from "node:crypto";
import { type Command, InvalidArgumentError } from "commander";
import { type Client, newClient, revokedApiKey, withoutSecrets } from "../../client/client.js";
import { isJsonObject, type JsonObject, type JsonValue, parseJson } from "../../client/json.js";
import { assertStrongPassword } from "../../client/password.js";
import { effectiveTypes, initialTypes } from "../../client/permissions.js";
import { omitUndefined } from "../../config/settings.js";
import { StoreError } from "../../errors.js";
import type { ClientStore } from "../../store/client-store.js";
import { describeClient } from "../../text/escape.js";
import { finishCommand } from "../command.js";
import { type Context, collectValue } from "../context.js";
import { openStore, warnIfUnused } from "../open.js";
import { parseBoolean } from "../options/client.js";
import { clientLines } from "../ui/clients.js";

interface AddOptions {
  name?: string;
  accessKey?: string;
  password?: string;
  allowWeakPassword?: boolean;
  cryptoKey?: string;
  admin?: boolean;
  allow?: string[];
  metadata?: JsonObject;
  update?: boolean;
}

export function addCommand(program: Command): void {
  const command = program
    .command("add-client")
    .description("Add a client and print its credentials once")
    .option("--name <name>", "Set its name (default: HiveMind-Node-NUMBER)")
    .option("--access-key <key>", "Set its access key (default: random)")
    .option("--password <password>", "Set its password (default: random)")
    .option("--allow-weak-password", "Accept a password that HiveMind 5 refuses")
    .option("--crypto-key <key>", "Set its crypto key, deprecated (default: random)")
    .option("--admin <true|false>", "Set whether it is an administrator", parseBoolean)
    .option("--allow <type>", "Allow only this message type (repeatable)", collectValue)
    .option("--metadata <json>", "Set its metadata, a JSON object", parseMetadata)
    .option("--update", "Update the client that has this access key");
  finishCommand(command, addClient, {
    details: [
      "Without --allow, a new client can send the types of the default list on HiveMind 4, and no message on HiveMind 5. A crypto key has 16 characters.",
    ],
    examples: [
      "hivemind-sqlcipher add-client --name kitchen",
      "hivemind-sqlcipher add-client --name panel --admin true --json",
    ],
  });
}

async function addClient(context: Context, options: AddOptions): Promise<void> {
  if (options.cryptoKey !== undefined && options.cryptoKey.length !== 16) {
    throw new StoreError("usage", "a crypto key has exactly 16 characters");
  }
  if (options.accessKey === "" || options.accessKey === revokedApiKey) {
    throw new StoreError("usage", `"${options.accessKey}" cannot be an access key`);
  }
  if (options.update && options.accessKey === undefined) {
    throw new StoreError("usage", "--update needs the client's access key", {
      hint: "Add --access-key KEY, or leave out --update to add a client.",
    });
  }
  if (options.password !== undefined && !options.allowWeakPassword) {
    assertStrongPassword(options.password);
  }
  await using store = await openStore(context);
  await warnIfUnused(context);
  const { client, isNew } = await store.transaction(async () => {
    const existing = options.accessKey && (await store.getClientByApiKey(options.accessKey));
    if (!existing && options.update) {
      throw new StoreError("notFound", "no client has this access key", {
        hint: "Leave out --update to add a client with it.",
      });
    }
    if (!existing) return { client: await insertClient(store, options), isNew: true };
    if (!options.update) {
      const owner = describeClient(existing.client_id, existing.name);
      throw new StoreError("refused", `the access key belongs to client ${owner}`, {
        hint: "Add --update to change that client, or leave out --access-key.",
      });
    }
    const updated = await store.updateClient(existing.client_id, {
      ...omitUndefined({
        name: options.name,
        password: options.password,
        crypto_key: options.cryptoKey,
        is_admin: options.admin,
      }),
      ...(options.allow && { allowed_types: initialTypes(options.allow, store.schemaVersion) }),
      ...(options.metadata && { metadata: { ...existing.metadata, ...options.metadata } }),
    });
    return { client: updated, isNew: false };
  });
  const { client_id: id } = client;
  if (effectiveTypes(client, store.schemaVersion).length === 0) {
    context.output.notice(
      `client ${id} cannot send any message yet: hivemind-sqlcipher allow-msg TYPE ${id}`,
    );
  }
  // An update prints no secrets, because secrets are shown only when a client is added.
  const shown = isNew ? client : withoutSecrets(client);
  context.output.document({ client: shown }, () => clientLines(client, isNew));
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
    throw new InvalidArgumentError(`It is ${(error as Error).message}.`);
  }
  if (isJsonObject(metadata)) return metadata;
  throw new InvalidArgumentError('It must be a JSON object, such as {"room": "kitchen"}.');
}
