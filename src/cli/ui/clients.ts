/** Formats a client as text, and prints any number of clients in constant memory. */
import { type Client, isRevoked, withoutSecrets } from "../../client/client.js";
import { formatJson } from "../../client/json.js";
import { escapeControlCharacters } from "../../text/escape.js";
import type { Context } from "../context.js";
import { print } from "./output.js";
import { type Column, formatTable } from "./table.js";

export function clientLines(client: Client, secrets: boolean): string[] {
  return [...listFields(client, secrets)].map(
    ([label, value]) => `${`${label}:`.padEnd(15)} ${escapeControlCharacters(value)}`,
  );
}

function* listFields(client: Client, secrets: boolean): Generator<[string, string]> {
  yield ["id", String(client.client_id)];
  yield ["name", client.name ?? ""];
  if (client.description) yield ["description", client.description];
  yield ["administrator", client.is_admin ? "yes" : "no"];
  yield ["may", isRevoked(client) ? "nothing (revoked)" : formatAbilities(client)];
  yield ["message types", client.allowed_types.join(", ")];
  yield ["last seen", formatLastSeen(client)];
  if (Object.keys(client.metadata).length > 0) {
    const { metadata } = secrets ? client : withoutSecrets(client);
    yield ["metadata", formatJson(metadata, { ascii: false, compact: true })];
  }
  if (secrets) {
    yield ["access key", client.api_key];
    yield ["password", client.password ?? ""];
    yield ["crypto key", client.crypto_key ?? ""];
  }
}

/** Returns which of escalate, propagate and broadcast the client may do, as text. */
function formatAbilities(client: Client): string {
  const may = [
    client.can_escalate && "escalate",
    client.can_propagate && "propagate",
    client.can_broadcast && "broadcast",
  ].filter(Boolean);
  return may.length > 0 ? may.join(", ") : "ordinary messages only";
}

function formatLastSeen(client: Client): string {
  if (!(client.last_seen > 0)) return "never";
  const date = new Date(client.last_seen * 1000);
  if (Number.isNaN(date.getTime())) return String(client.last_seen);
  return `${date.toISOString().slice(0, 19).replace("T", " ")} UTC`;
}

const columns: readonly Column<Client>[] = [
  { title: "ID", align: "right", cell: (client) => String(client.client_id) },
  { title: "NAME", cell: (client) => client.name ?? "" },
  { title: "ADMIN", cell: (client) => (client.is_admin ? "yes" : "") },
  { title: "MAY", cell: (client) => (isRevoked(client) ? "revoked" : formatAbilities(client)) },
  { title: "LAST SEEN", cell: formatLastSeen },
];

const secretColumns: readonly Column<Client>[] = [
  { title: "ACCESS KEY", cell: (client) => client.api_key },
  { title: "PASSWORD", cell: (client) => client.password ?? "" },
  { title: "CRYPTO KEY", cell: (client) => client.crypto_key ?? "" },
];

/** Prints a table and returns the number of clients; prints nothing if there are none. */
export async function printClientTable(
  { output }: Context,
  clients: AsyncIterable<Client> | Iterable<Client>,
  secrets: boolean,
): Promise<number> {
  const shown = secrets ? [...columns, ...secretColumns] : columns;
  let lines = 0;
  for await (const line of formatTable(output, shown, clients, { isCut: !secrets })) {
    await print(`${line}\n`);
    lines += 1;
  }
  return Math.max(0, lines - 1);
}
