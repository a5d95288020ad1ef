/**
 * Gaps between client ids. Every hub gives a new client the id `count + 1` and inserts or replaces: where an id is
 * missing below the highest one, a later `add-client` of the hub overwrites a client that is there. A revoked row in each
 * gap, as a revoked client leaves one, makes the count right again.
 */
import { revoked } from "../client/client.js";
import { StoreError } from "../errors.js";
import type { ClientStore } from "../store/client-store.js";
import { type Check, finding, good } from "./check.js";

/** Rows that are written in one transaction: some milliseconds, so that a hub at work is not held up. */
const rowsAtOnce = 1000;

/** More is no gap but an id that somebody chose. */
const mostRows = 100_000;

export interface IdGaps {
  /** How many ids are missing below the highest; 0 if the hub's next ids are free. */
  readonly missing: number;
  /** The id that the hub overwrites first, and how many clients it can add before that. */
  readonly next: { readonly overwrites: number; readonly after: number } | undefined;
}

/** Looks for gaps. Ids are compared in SQL, where they are exact. */
export async function findIdGaps(store: ClientStore): Promise<IdGaps> {
  const row = await store.connection.get<{ missing: number; next: number | null; count: number }>(
    `SELECT max(coalesce((SELECT max(client_id) FROM clients), 0) - positive, 0) AS missing, count,
      (SELECT min(client_id) FROM clients WHERE client_id > count) AS next
      FROM (SELECT count(*) AS count, count(*) FILTER (WHERE client_id > 0) AS positive FROM clients)`,
  );
  if (row === undefined || row.next === null) return { missing: 0, next: undefined };
  return {
    missing: row.missing,
    next: { overwrites: row.next, after: row.next - row.count - 1 },
  };
}

export async function checkIdGaps(store: ClientStore): Promise<Check> {
  const { missing, next } = await findIdGaps(store);
  if (next === undefined) return good("id-gaps", "the ids that the hub gives next are free");
  const when =
    next.after === 0
      ? "the next client that the hub adds"
      : `the hub's add-client after the next ${next.after === 1 ? "one" : next.after}`;
  return finding(
    "id-gaps",
    "error",
    `${missing} ${missing === 1 ? "id is" : "ids are"} missing, and ${when} overwrites client ${next.overwrites}`,
    "hivemind-sqlcipher doctor --fill-gaps",
  );
}

/**
 * Puts a revoked row into every gap.
 *
 * @returns how many.
 * @throws StoreError `refused` if the gap is too large to be one.
 */
export async function fillIdGaps(store: ClientStore): Promise<number> {
  const { missing, next } = await findIdGaps(store);
  if (next === undefined) return 0;
  if (missing > mostRows) {
    throw new StoreError("refused", `${missing} ids are missing: that is no gap to fill`, {
      hint: "give the client with the highest id a smaller one: export it, delete it, and add it again",
    });
  }
  let filled = 0;
  for (;;) {
    // What is missing is asked for in the transaction that fills it: the hub may have used an id meanwhile.
    const ids = await store.transaction(async () => {
      const rows = await store.connection.all<{ id: number }>(
        `WITH RECURSIVE wanted(id) AS (
          SELECT 1 UNION ALL SELECT id + 1 FROM wanted WHERE id < (SELECT max(client_id) FROM clients)
        ) SELECT id FROM wanted WHERE id NOT IN (SELECT client_id FROM clients) LIMIT ${rowsAtOnce}`,
      );
      await store.addItems(rows.map(({ id }) => revoked(id)));
      return rows;
    });
    filled += ids.length;
    if (ids.length < rowsAtOnce) return filled;
  }
}
