import { type Client, isRevoked } from "../../client/client.js";
import type { Context } from "../context.js";
import { abilities, lastSeen } from "./client-text.js";
import { asStoreError, errorToJson, print } from "./output.js";
import { type Column, Table } from "./table.js";

/** Rows that set a table's column widths; the ones after are printed as they come. */
const firstRows = 500;

/**
 * One document however long the list: written as it is read, so memory does not grow with it. It stays one if reading
 * fails in the middle: the error then stands in it beside the clients so far.
 */
export async function printDocument(
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

export async function printTable(
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
