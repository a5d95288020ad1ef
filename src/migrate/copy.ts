/** Copies the clients that are missing in the target, and fills the gaps between ids. */
import { batchesOf, inBatches, readAhead } from "../client/batches.js";
import { type Client, revoked } from "../client/client.js";
import type { Database } from "../client/database.js";
import type { IdSet } from "../databases/id-set.js";
import { emitStep } from "../operation/step.js";
import { findExisting, KnownClients } from "./check.js";

/**
 * The minimum number of clients in a write, because a JSON store writes its whole file each time.
 * Two such chunks are in memory at a time.
 */
export const chunkSize = 1_000;

export interface Copied {
  readonly count: number;
  readonly known: KnownClients;
  /** Undefined if the target must be compared with the source, client by client. */
  readonly evidence: Evidence | undefined;
}

/** What proves later that the target has all clients of the source. */
export interface Evidence {
  /**
   * For each written chunk, a function to read the target: it returns whether the target still has
   * the written records.
   */
  readonly written: readonly (() => Promise<boolean>)[];
  /** The source's change mark before the copy. */
  readonly mark: string;
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
): Promise<Copied> {
  const mark = destination.addVerifiable && (await origin.changeMark?.());
  const written: (() => Promise<boolean>)[] = [];
  const known = new KnownClients();
  let count = 0;
  let isLossless = true;
  const write = async (clients: readonly Client[]) => {
    if (mark === undefined) await destination.addItems(clients);
    else if (destination.addVerifiable) written.push(await destination.addVerifiable(clients));
  };
  const chunks = readMissing(origin, isEmpty ? undefined : destination, known);
  for await (const { missing, done } of readAhead(chunks)) {
    // A target without a column for the crypto key stores it in metadata, which may have another.
    isLossless &&= !missing.some(({ metadata }) => Object.hasOwn(metadata, "crypto_key"));
    if (missing.length > 0) await write(missing);
    count += missing.length;
    report(done);
    emitStep("migrate.copied");
  }
  const isProvable = mark !== undefined && isLossless && known.size === 0;
  return { count, known, evidence: isProvable ? { written, mark } : undefined };
}

/** Yields chunks of clients missing in the target, and the number of clients read so far. */
async function* readMissing(
  origin: Database,
  target: Database | undefined,
  known: KnownClients,
): AsyncGenerator<{ missing: readonly Client[]; done: number }> {
  let missing: Client[] = [];
  let inChunk = 0;
  let done = 0;
  for await (const batch of batchesOf(origin)) {
    // A record that differs was changed since the check. The comparison reports it.
    missing.push(...known.count(batch, await findExisting(batch, target)));
    done += batch.length;
    inChunk += batch.length;
    if (inChunk < chunkSize) continue;
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
