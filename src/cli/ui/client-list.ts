/** Prints any number of clients in constant memory. */
import { type Client, isRevoked } from "../../client/client.js";
import type { Context } from "../context.js";
import { formatAbilities, formatLastSeen } from "./client-text.js";
import { print } from "./output.js";
import { type Column, formatTable } from "./table.js";

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
