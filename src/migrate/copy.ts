/** Copies the clients missing in the target, and fills the gaps between ids. */
import { batchesOf, inBatches, readAhead } from "../client/batches.js";
import { type Client, eraseIfRevoked, revoked } from "../client/client.js";
import type { Database } from "../client/database.js";
import type { IdSet } from "../databases/id-set.js";
import { emitStep } from "../operation/step.js";
import { findExisting, KnownClients } from "./check.js";

/**
 * The number of clients in a chunk, unless the target has another: a JSON store writes its whole
 * file each time. Two chunks are in memory at a time.
 */
const chunkSize = 1_000;

export interface CopyOutcome {
  readonly count: number;
  readonly known: KnownClients;
  /** Undefined if the target must be compared with the source, client by client. */
  readonly evidence: Evidence | undefined;
}

/** What proves later that the target has all clients of the source. */
export interface Evidence {
  readonly chunks: readonly WrittenChunk[];
  /** Whether the source still has the records that were copied. */
  readonly isSourceUnchanged: () => Promise<boolean>;
}

interface WrittenChunk {
  readonly size: number;
  /** Reads the target, and returns whether it still has the written records. */
  readonly isUnchanged: () => Promise<boolean>;
}

interface CopyOptions {
  /** Whether the target has no clients. */
  readonly isEmpty: boolean;
  readonly report: (done: number) => void;
}

/** Copies the missing clients. Writes each chunk while the next chunk is read. */
export async function copyMissing(
  origin: Database,
  destination: Database,
  { isEmpty, report }: CopyOptions,
): Promise<CopyOutcome> {
  const reading = destination.addVerifiable && (await origin.readVerifiable?.());
  const written: WrittenChunk[] = [];
  const known = new KnownClients();
  let count = 0;
  let isLossless = true;
  const write = async (clients: readonly Client[]) => {
    if (!reading || !destination.addVerifiable) await destination.addItems(clients);
    else {
      const isUnchanged = await destination.addVerifiable(clients);
      written.push({ size: clients.length, isUnchanged });
    }
  };
  const batches = reading?.batches ?? batchesOf(origin);
  const size = destination.writeSize ?? chunkSize;
  const chunks = readMissing(batches, isEmpty ? undefined : destination, known, size);
  for await (const { missing, done } of readAhead(chunks)) {
    // A target without a column for the crypto key stores it in metadata, which may have another.
    isLossless &&= !missing.some(({ metadata }) => Object.hasOwn(metadata, "crypto_key"));
    if (missing.length > 0) await write(missing);
    count += missing.length;
    report(done);
    emitStep("migrate.copied");
  }
  const isProvable = reading !== undefined && isLossless && known.size === 0;
  const evidence = isProvable
    ? { chunks: written, isSourceUnchanged: () => reading.isUnchanged() }
    : undefined;
  return { count, known, evidence };
}

/** Yields chunks of clients missing in the target, and the number of clients read so far. */
async function* readMissing(
  batches: AsyncIterable<readonly Client[]>,
  target: Database | undefined,
  known: KnownClients,
  size: number,
): AsyncGenerator<{ missing: readonly Client[]; done: number }> {
  let missing: Client[] = [];
  let inChunk = 0;
  let done = 0;
  for await (const batch of batches) {
    // A record that differs was changed since the check. The comparison reports it.
    const found = known.count(batch, await findExisting(batch, target));
    missing.push(...found.map(eraseIfRevoked));
    done += batch.length;
    inChunk += batch.length;
    if (inChunk < size) continue;
    yield { missing, done };
    [missing, inChunk] = [[], 0];
  }
  if (inChunk > 0) yield { missing, done };
}

/** Fills the gaps, except ids of clients that were added to the source since the check. */
export async function fillGaps(destination: Database, gaps: IdSet): Promise<number> {
  let filled = 0;
  for await (const ids of inBatches(gaps, chunkSize)) {
    const found = await destination.getClientsById(ids);
    const unused = ids.filter((_id, index) => found[index] === undefined);
    filled += await destination.addItems(unused.map(revoked));
  }
  return filled;
}
