/** Prints any number of clients in constant memory. */
import { type Client, isRevoked } from "../../client/client.js";
import type { Context } from "../context.js";
import { formatAbilities, formatLastSeen } from "./client-text.js";
import { print } from "./output.js";
import { type Column, Table } from "./table.js";

/** Rows that determine the column widths. Later rows are printed as they are read. */
const firstRows = 500;

/** Prints a table and returns the number of clients; prints nothing if there are none. */
export async function printClientTable(
  context: Context,
  clients: AsyncIterable<Client> | Iterable<Client>,
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
    isRevoked(client) ? "revoked" : formatAbilities(client),
    formatLastSeen(client),
    ...(secrets ? [client.api_key, client.password ?? "", client.crypto_key ?? ""] : []),
  ];
  let count = 0;
  let pending: string[][] = [];
  let table: Table | undefined;
  const printFirstRows = async () => {
    table = await Table.of(columns, pending, secrets ? undefined : context.output.columns);
    if (pending.length > 0) context.output.line(context.output.style("bold", table.heading()));
    for (const row of pending) context.output.line(await table.row(row));
    pending = [];
  };
  for await (const client of clients) {
    count += 1;
    if (table) {
      await print(`${await table.row(cells(client))}\n`);
    } else if (pending.push(cells(client)) === firstRows) await printFirstRows();
  }
  if (!table) await printFirstRows();
  return count;
}
