/** Iterates over many items in batches, which databases read and write faster than single items. */
import type { Client } from "./client.js";
import type { Database } from "./database.js";

const batchSize = 200;

/** Yields clients in batches, of the database's own size if it has one. */
export function batchesOf(
  clients: Pick<Database, "batches" | typeof Symbol.asyncIterator>,
): AsyncIterable<readonly Client[]> {
  return clients.batches?.() ?? inBatches(clients, batchSize);
}

/** Yields items in batches of `size`. The last batch may be smaller. */
export async function* inBatches<Item>(
  items: Iterable<Item> | AsyncIterable<Item>,
  size: number,
): AsyncGenerator<Item[]> {
  let batch: Item[] = [];
  for await (const item of items) {
    if (batch.push(item) < size) continue;
    yield batch;
    batch = [];
  }
  if (batch.length > 0) yield batch;
}

/** Yields the same items, and reads the next item while the caller uses the present item. */
export async function* readAhead<Item>(items: AsyncIterable<Item>): AsyncGenerator<Item> {
  const iterator = items[Symbol.asyncIterator]();
  let next = iterator.next();
  try {
    for (let result = await next; !result.done; result = await next) {
      next = iterator.next();
      // A failure is thrown where it is awaited.
      next.catch(() => undefined);
      yield result.value;
    }
  } finally {
    // The caller may close the database next.
    await next.catch(() => undefined);
    await iterator.return?.();
  }
}
