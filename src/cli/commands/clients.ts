/** The hub's verbs for clients, with its arguments. */
import { randomBytes } from "node:crypto";
import { type Command, InvalidArgumentError } from "commander";
import {
  type Client,
  clientSchema,
  isRevoked,
  newClient,
  withoutSecrets,
} from "../../client/client.js";
import { isJsonObject, type JsonObject, type JsonValue, parseJson } from "../../client/json.js";
import { effectiveTypes, initialTypes } from "../../client/permissions.js";
import { StoreError } from "../../errors.js";
import type { ClientStore } from "../../store/client-store.js";
import { escapeControlCharacters } from "../../text/escape.js";
import { addGlobalOptions, type Context, contextOf, repeated } from "../context.js";
import { openStore } from "../open.js";
import { chooseClient, idNote, noClient, parseId, parseOptionalId } from "../ui/choose-client.js";
import { asStoreError, errorToJson, print } from "../ui/output.js";
import { standardInput } from "../ui/prompt.js";
import { type Column, Table } from "../ui/table.js";

/** Rows that set a table's column widths; the ones after are printed as they come. */
const firstRows = 500;

/** Columns of a search, with the hub's other word for the access key. */
const searchKeys = new Map(Object.keys(clientSchema.shape).map((key) => [key, key]));
searchKeys.set("access_key", "api_key");

export function addClientCommands(program: Command): void {
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

interface SecretOption {
  showSecrets?: boolean;
}
interface ListOptions extends SecretOption {
  revoked?: boolean;
  jsonl?: boolean;
}
interface FindOptions extends SecretOption {
  by: string;
}
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

/**
 * One document however long the list: written as it is read, so memory does not grow with it. It stays one if reading
 * fails in the middle: the error then stands in it beside the clients so far.
 */
async function printDocument(
  clients: AsyncIterable<Client>,
  record: (client: Client) => unknown,
): Promise<void> {
  let separator = '{"clients":[';
  try {
    for await (const client of clients) {
      await print(separator + JSON.stringify(record(client)));
      separator = ",";
    }
  } catch (error) {
    if (separator !== ",") throw error;
    const failure = asStoreError(error);
    process.stdout.write(`],"error":${JSON.stringify(errorToJson(failure))}}\n`);
    process.exitCode = failure.exitCode;
    return;
  }
  process.stdout.write(separator === "," ? "]}\n" : '{"clients":[]}\n');
}

async function printTable(
  context: Context,
  clients: AsyncIterable<Client>,
  secrets: boolean,
): Promise<number> {
  const columns: Column[] = [
    { title: "ID", align: "right" },
    { title: "NAME" },
    { title: "ADMIN" },
    { title: "MAY" },
    { title: "LAST SEEN" },
    ...(secrets ? [{ title: "ACCESS KEY" }, { title: "PASSWORD" }, { title: "CRYPTO KEY" }] : []),
  ];
  const cells = (client: Client) => [
    String(client.client_id),
    client.name ?? "",
    client.is_admin ? "yes" : "",
    isRevoked(client) ? "revoked" : abilities(client),
    lastSeen(client),
    ...(secrets ? [client.api_key, client.password ?? "", client.crypto_key ?? ""] : []),
  ];
  let count = 0;
  let waiting: string[][] = [];
  let table: Table | undefined;
  const begin = async () => {
    table = await Table.of(columns, waiting, secrets ? undefined : context.output.columns);
    if (waiting.length > 0) context.output.line(context.output.style("bold", table.heading()));
    for (const row of waiting) context.output.line(await table.row(row));
    waiting = [];
  };
  for await (const client of clients) {
    count += 1;
    if (table) {
      await print(`${await table.row(cells(client))}\n`);
    } else if (waiting.push(cells(client)) === firstRows) await begin();
  }
  if (!table) await begin();
  return count;
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
  await printTable(context, iterate(found), secrets);
  if (found.length === 0) context.output.notice("nobody found");
}

async function* iterate<Item>(items: readonly Item[]): AsyncGenerator<Item> {
  yield* items;
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

function* details(client: Client, secrets: boolean): Generator<[string, string]> {
  yield ["id", String(client.client_id)];
  yield ["name", client.name ?? ""];
  if (client.description) yield ["description", client.description];
  yield ["administrator", client.is_admin ? "yes" : "no"];
  yield ["may", isRevoked(client) ? "nothing: it is revoked" : abilities(client)];
  yield ["message types", client.allowed_types.join(", ")];
  yield ["last seen", lastSeen(client)];
  if (Object.keys(client.metadata).length > 0) {
    yield ["metadata", JSON.stringify(secrets ? client.metadata : withoutSecrets(client).metadata)];
  }
  if (secrets) {
    yield ["access key", client.api_key];
    yield ["password", client.password ?? ""];
    yield ["crypto key", client.crypto_key ?? ""];
  }
}

function describe(client: Client, secrets: boolean): string[] {
  return [...details(client, secrets)].map(
    ([label, value]) => `${`${label}:`.padEnd(15)} ${escapeControlCharacters(value)}`,
  );
}

function abilities(client: Client): string {
  const may = [
    client.can_escalate && "escalate",
    client.can_propagate && "propagate",
    client.can_broadcast && "broadcast",
  ].filter(Boolean);
  return may.length > 0 ? may.join(", ") : "none of escalate, propagate, broadcast";
}

function lastSeen(client: Client): string {
  if (!(client.last_seen > 0)) return "never";
  const date = new Date(client.last_seen * 1000);
  if (Number.isNaN(date.getTime())) return String(client.last_seen);
  return `${date.toISOString().slice(0, 19).replace("T", " ")} UTC`;
}

function parseBoolean(text: string): boolean {
  if (/^(true|yes|1)$/i.test(text)) return true;
  if (/^(false|no|0)$/i.test(text)) return false;
  throw new InvalidArgumentError("true or false, please.");
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
