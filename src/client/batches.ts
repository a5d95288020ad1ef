import type { Client } from "./client.js";
import type { Database } from "./database.js";

const batchSize = 200;

/**
 * Yields clients in batches, because databases read and write a batch faster than single clients.
 */
export async function* batchesOf(
  clients: Pick<Database, "batches" | typeof Symbol.asyncIterator>,
): AsyncGenerator<readonly Client[]> {
  if (clients.batches !== undefined) {
    yield* clients.batches();
    return;
  }
  let batch: Client[] = [];
  for await (const client of clients) {
    if (batch.push(client) < batchSize) continue;
    yield batch;
    batch = [];
  }
  if (batch.length > 0) yield batch;
}
