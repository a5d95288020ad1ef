import type { Client } from "./client.js";

/** Yields clients in batches: databases read and write many clients faster than one at a time. */
export async function* batchesOf(
  clients: AsyncIterable<Client>,
  size: number,
): AsyncGenerator<Client[]> {
  let batch: Client[] = [];
  for await (const client of clients) {
    if (batch.push(client) < size) continue;
    yield batch;
    batch = [];
  }
  if (batch.length > 0) yield batch;
}
