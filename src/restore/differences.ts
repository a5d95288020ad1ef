/**
 * Compares the present store with an older store: finds the clients revoked only in the present
 * store, and the clients able to do more in the older store.
 */
import { type Client, isRevoked } from "../client/client.js";
import { formatJson } from "../client/json.js";
import { findWidenings, type Widening } from "../client/permissions.js";
import { throwIfAborted } from "../process/abort.js";
import { decodeRow, findUnreadableLists, type Row } from "../store/client-row.js";
import type { ClientTable } from "../store/client-table.js";
import { allIds, type IdRange } from "../store/row-reader.js";

/**
 * A client able to do more in the older store than now: it has more permissions or another secret
 * there, or is missing now.
 */
export interface Widened {
  readonly clientId: number;
  readonly name: string | null;
  /** What a restore would change. The client is the subject of each sentence. */
  readonly what: string[];
}

export interface Differences {
  /**
   * The ids to revoke in the older store: `stayRevoked`, and the active clients that are missing
   * there and have a smaller id than the last missing client that is revoked.
   */
  readonly revoked: number[];
  /** The clients revoked now, but active in or missing from the older store. */
  readonly stayRevoked: number[];
  /** The clients revoked now, but active in the older store. */
  readonly readmitted: number[];
  readonly widened: Widened[];
  /** The number of active clients in the present store that are missing from the older store. */
  readonly missing: number;
}

/**
 * Compares all clients. The memory depends only on the number of differences.
 *
 * @throws {@link StoreError} interrupted - if the signal is aborted
 */
export async function compareClients(
  present: ClientTable,
  older: ClientTable,
  signal?: AbortSignal,
): Promise<Differences> {
  const comparison = new Comparison();
  await comparison.compare(present, older, { signal });
  return comparison.differences;
}

interface CompareOptions {
  /** The ids to compare; the differences of other ids are kept. Default: all ids. */
  readonly ranges?: readonly IdRange[] | undefined;
  readonly signal?: AbortSignal | undefined;
}

/** The differences between two stores, updated by each comparison of a range of ids. */
export class Comparison {
  /** The clients revoked now, but active in the older store. */
  readonly #readmitted = new Set<number>();
  readonly #widened = new Map<number, Widened>();
  /** The clients missing from the older store, and whether each is revoked now. */
  readonly #missing = new Map<number, boolean>();

  async compare(
    present: ClientTable,
    older: ClientTable,
    { ranges = [allIds], signal }: CompareOptions,
  ): Promise<void> {
    for (const findings of [this.#readmitted, this.#widened, this.#missing]) {
      for (const id of findings.keys()) if (isInRanges(ranges, id)) findings.delete(id);
    }
    for (const range of ranges) {
      for await (const [now, then] of pairClients(present, older, range)) {
        throwIfAborted(signal);
        this.#record(now, then);
      }
    }
  }

  get differences(): Differences {
    const missing = sortIds(this.#missing.keys());
    // A hub counts rows to find its next id, so it would overwrite a revoked row after a gap. So
    // the missing ids before the last revoked row are filled, too.
    const missingRevoked = missing.filter((id) => this.#missing.get(id));
    const lastRevoked = missingRevoked.at(-1) ?? -1;
    const gaps = missing.filter((id) => id <= lastRevoked);
    const readmitted = sortIds(this.#readmitted);
    return {
      revoked: [...readmitted, ...gaps],
      stayRevoked: [...readmitted, ...missingRevoked],
      readmitted,
      widened: sortIds(this.#widened.keys()).flatMap((id) => this.#widened.get(id) ?? []),
      missing: missing.length - missingRevoked.length,
    };
  }

  /**
   * Records that these clients have been revoked in the older store, too.
   *
   * @returns the number of these clients that were missing from the older store
   */
  recordRevoked(ids: readonly number[]): number {
    for (const id of ids) this.#readmitted.delete(id);
    return ids.filter((id) => this.#missing.delete(id)).length;
  }

  #record(now: ReadClient | undefined, then: ReadClient | undefined): void {
    if (!now) {
      if (then && !isRevoked(then.client)) {
        this.#recordWidened(then.client, ["is not in the present store"]);
      }
    } else if (!then) {
      this.#missing.set(now.client.client_id, isRevoked(now.client));
    } else if (isRevoked(now.client)) {
      if (!isRevoked(then.client)) this.#readmitted.add(now.client.client_id);
    } else if (!isRevoked(then.client)) {
      const what = describeGains(now, then);
      if (what.length > 0) this.#recordWidened(then.client, what);
    }
  }

  #recordWidened({ client_id: clientId, name }: Client, what: string[]): void {
    this.#widened.set(clientId, { clientId, name, what });
  }
}

function isInRanges(ranges: readonly IdRange[], id: number): boolean {
  return ranges.some(
    ({ after, before }) =>
      (after === undefined || id > after) && (before === undefined || id < before),
  );
}

function sortIds(ids: Iterable<number>): number[] {
  return [...ids].sort((a, b) => a - b);
}

interface ReadClient {
  readonly client: Client;
  readonly row: Row;
}

async function* pairClients(
  present: ClientTable,
  older: ClientTable,
  range: IdRange,
): AsyncGenerator<[now: ReadClient | undefined, then: ReadClient | undefined]> {
  const presentRows = readRows(present, range);
  const olderRows = readRows(older, range);
  try {
    let now = await presentRows.next();
    let then = await olderRows.next();
    while (!now.done || !then.done) {
      const here: number = now.done ? Number.POSITIVE_INFINITY : now.value.client.client_id;
      const there: number = then.done ? Number.POSITIVE_INFINITY : then.value.client.client_id;
      yield [
        here <= there && !now.done ? now.value : undefined,
        there <= here && !then.done ? then.value : undefined,
      ];
      if (here <= there) now = await presentRows.next();
      if (there <= here) then = await olderRows.next();
    }
  } finally {
    // A statement that is not finalized would prevent the connection from closing.
    await presentRows.return(undefined);
    await olderRows.return(undefined);
  }
}

async function* readRows(
  table: ClientTable,
  range: IdRange,
): AsyncGenerator<ReadClient, undefined> {
  for await (const page of table.pages(range)) {
    for (const row of page) yield { client: decodeRow(row), row };
  }
}

function describeGains(now: ReadClient, then: ReadClient): string[] {
  const what = findWidenings(now.client, then.client).map((each) =>
    describeWidening(each, then.client),
  );
  const unreadable = findUnreadableLists(now.row, then.row);
  if (unreadable.length > 0) {
    what.push(
      `has no valid list in ${unreadable.join(", ")}, now or in the backup: how a hub reads the value is unknown`,
    );
  }
  if (then.client.api_key !== now.client.api_key) {
    what.push("would have its earlier access key again");
  }
  // A replaced password may have been compromised.
  if (then.client.password !== now.client.password) {
    what.push("would have its earlier password again");
  }
  if (then.client.crypto_key !== now.client.crypto_key) {
    what.push("would have its earlier crypto key again");
  }
  return what;
}

function describeWidening(widening: Widening, then: Client): string {
  switch (widening.field) {
    case "is_admin":
      return "would be an admin again";
    case "allowed_types": {
      const types = widening.added.join(", ");
      return then.allowed_types.length > 0
        ? `could send ${types} again`
        : `would have an empty list of allowed messages, with which HiveMind 4 lets it send ${types}`;
    }
    case "can_broadcast":
    case "can_escalate":
    case "can_propagate":
      return `could ${widening.field.slice("can_".length)} again`;
    default: {
      const kind = widening.field.replace("_blacklist", "");
      if (!widening.removed)
        return `would have another ${kind} blacklist, and the present or the earlier value is not a list`;
      const names = widening.removed.map((entry) =>
        typeof entry === "string" ? entry : formatJson(entry),
      );
      return `would no longer have these on its ${kind} blacklist: ${names.join(", ")}`;
    }
  }
}
