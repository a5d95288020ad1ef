/**
 * Compares the present store with an older one: which clients are revoked now, and which
 * permissions the older store would widen.
 */
import { type Client, isRevoked } from "../client/client.js";
import { formatJson } from "../client/json.js";
import { findWidenings, type Widening } from "../client/permissions.js";
import { throwIfAborted } from "../process/abort.js";
import { decodeRow, findUnreadableLists, type Row } from "../store/client-row.js";
import type { ClientTable } from "../store/client-table.js";
import { allIds, type IdRange } from "../store/row-reader.js";

/** A client with wider permissions in the older store than now. */
export interface Widened {
  readonly clientId: number;
  readonly name: string | null;
  readonly what: string[];
}

export interface Differences {
  /**
   * The clients that are revoked now, but not in the older store, and the ids of other missing
   * clients before the last of them.
   */
  readonly revoked: number[];
  readonly widened: Widened[];
  /** How many present clients, not revoked, are missing from the older store. */
  readonly missing: number;
}

/**
 * Compares in the order of ids. Memory grows with the number of differences only.
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
  /** Compares only these ids again, and keeps what is known about the others. */
  readonly ranges?: readonly IdRange[] | undefined;
  readonly signal?: AbortSignal | undefined;
}

/** The differences between two stores. Parts can be compared again. */
export class Comparison {
  /** The clients revoked now, but not in the older store. */
  readonly #revoked = new Set<number>();
  readonly #widened = new Map<number, Widened>();
  /** Whether each client missing from the older store is revoked. */
  readonly #missing = new Map<number, boolean>();

  async compare(
    present: ClientTable,
    older: ClientTable,
    { ranges = [allIds], signal }: CompareOptions,
  ): Promise<void> {
    for (const findings of [this.#revoked, this.#widened, this.#missing]) {
      for (const id of findings.keys()) if (isIn(ranges, id)) findings.delete(id);
    }
    for (const range of ranges) {
      for await (const [now, then] of sideBySide(present, older, range)) {
        throwIfAborted(signal);
        this.#note(now, then);
      }
    }
  }

  get differences(): Differences {
    const missing = sorted(this.#missing.keys());
    // The hub gives its next clients the first free ids. A revoked row after a gap would be
    // overwritten, so the gap is filled, too.
    const lastRevoked = missing.findLast((id) => this.#missing.get(id)) ?? -1;
    const gaps = missing.filter((id) => id <= lastRevoked);
    return {
      revoked: [...sorted(this.#revoked), ...gaps],
      widened: sorted(this.#widened.keys()).flatMap((id) => this.#widened.get(id) ?? []),
      missing: missing.filter((id) => !this.#missing.get(id)).length,
    };
  }

  /**
   * Notes clients as revoked in the older store, too.
   *
   * @returns how many of them were missing from it
   */
  noteRevoked(ids: readonly number[]): number {
    for (const id of ids) this.#revoked.delete(id);
    return ids.filter((id) => this.#missing.delete(id)).length;
  }

  #note(now: Read | undefined, then: Read | undefined): void {
    if (!now) {
      if (then && !isRevoked(then.client)) {
        this.#noteWidened(then.client, ["is not in the present store"]);
      }
    } else if (!then) {
      this.#missing.set(now.client.client_id, isRevoked(now.client));
    } else if (isRevoked(now.client)) {
      if (!isRevoked(then.client)) this.#revoked.add(now.client.client_id);
    } else if (!isRevoked(then.client)) {
      const what = gains(now, then);
      if (what.length > 0) this.#noteWidened(then.client, what);
    }
  }

  #noteWidened({ client_id: clientId, name }: Client, what: string[]): void {
    this.#widened.set(clientId, { clientId, name, what });
  }
}

function isIn(ranges: readonly IdRange[], id: number): boolean {
  return ranges.some(
    ({ after, before }) =>
      (after === undefined || id > after) && (before === undefined || id < before),
  );
}

function sorted(ids: Iterable<number>): number[] {
  return [...ids].sort((a, b) => a - b);
}

/** A client and its row. */
interface Read {
  readonly client: Client;
  readonly row: Row;
}

async function* sideBySide(
  present: ClientTable,
  older: ClientTable,
  range: IdRange,
): AsyncGenerator<[now: Read | undefined, then: Read | undefined]> {
  const presents = rowsOf(present, range);
  const pasts = rowsOf(older, range);
  try {
    let now = await presents.next();
    let then = await pasts.next();
    while (!now.done || !then.done) {
      const here: number = now.done ? Number.POSITIVE_INFINITY : now.value.client.client_id;
      const there: number = then.done ? Number.POSITIVE_INFINITY : then.value.client.client_id;
      yield [
        here <= there && !now.done ? now.value : undefined,
        there <= here && !then.done ? then.value : undefined,
      ];
      if (here <= there) now = await presents.next();
      if (there <= here) then = await pasts.next();
    }
  } finally {
    // A statement that is not finalized would prevent the connection from closing.
    await presents.return(undefined);
    await pasts.return(undefined);
  }
}

async function* rowsOf(table: ClientTable, range: IdRange): AsyncGenerator<Read, undefined> {
  for await (const page of table.pages(range)) {
    for (const row of page) yield { client: decodeRow(row), row };
  }
}

function gains(now: Read, then: Read): string[] {
  const what = findWidenings(now.client, then.client).map((each) => describe(each, then.client));
  const unreadable = findUnreadableLists(now.row, then.row);
  if (unreadable.length > 0) {
    what.push(
      `has no valid list in ${unreadable.join(", ")}, now or in the backup: its effect in a hub is unknown`,
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

function describe(widening: Widening, then: Client): string {
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
        return `would have another ${kind} blacklist, and either is not a list`;
      const names = widening.removed.map((entry) =>
        typeof entry === "string" ? entry : formatJson(entry),
      );
      return `would no longer have these on its ${kind} blacklist: ${names.join(", ")}`;
    }
  }
}
