/**
 * Finds and fills gaps between client ids.
 *
 * The hub gives a new client the id `count + 1` and inserts or replaces. If an id below the highest
 * is missing, a later `add-client` of the hub overwrites an existing client. A revoked row in each
 * gap corrects the count.
 */
import { revoked } from "../client/client.js";
import { StoreError } from "../errors.js";
import type { ClientStore } from "../store/client-store.js";
import { type Check, checksNamed } from "./check.js";

/** Rows of a transaction. It takes some milliseconds, so a running hub does not time out. */
const batchRows = 1000;

/** The maximum number of gaps to fill. More are the result of an id that was chosen by hand. */
const maxMissingIds = 100_000;

const smallerIdHint =
  "Give the client with the highest id a free id: hivemind-sqlcipher sql --write 'UPDATE clients SET client_id = FREE WHERE client_id = HIGHEST'";

export interface IdGaps {
  /** The number of missing ids below the highest; 0 if the hub's next ids are free. */
  readonly missing: number;
  /** The first id to be overwritten, and how many clients the hub can add before that. */
  readonly next: { readonly overwrites: number; readonly after: number } | undefined;
}

/** Finds gaps. Compares ids in SQL, where integers are exact. */
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
  const { good, error } = checksNamed("id-gaps");
  if (next === undefined) return good("the next ids that the hub assigns are free");
  const when =
    next.after === 0
      ? "the next client that the hub adds"
      : `after ${next.after} more ${next.after === 1 ? "client" : "clients"}, the next client that the hub adds`;
  return error(
    `${missing} ${missing === 1 ? "id is" : "ids are"} missing, and ${when} overwrites client ${next.overwrites}`,
    missing > maxMissingIds ? smallerIdHint : "hivemind-sqlcipher doctor --fill-gaps",
  );
}

/**
 * Inserts a revoked row into every gap.
 *
 * @returns the number of rows
 * @throws {@link StoreError} refused - if more than 100,000 ids are missing
 */
export async function fillIdGaps(store: ClientStore): Promise<number> {
  const { missing, next } = await findIdGaps(store);
  if (next === undefined) return 0;
  if (missing > maxMissingIds) {
    throw new StoreError("refused", `${missing} ids are missing, which are too many to fill`, {
      hint: smallerIdHint,
    });
  }
  let filled = 0;
  for (;;) {
    // Find and fill in the same transaction, because a hub may use an id in between.
    const ids = await store.transaction(async () => {
      const rows = await store.connection.all<{ id: number }>(
        `WITH RECURSIVE wanted(id) AS (
          SELECT 1 UNION ALL SELECT id + 1 FROM wanted WHERE id < (SELECT max(client_id) FROM clients)
        ) SELECT id FROM wanted WHERE id NOT IN (SELECT client_id FROM clients) LIMIT ${batchRows}`,
      );
      await store.addItems(rows.map(({ id }) => revoked(id)));
      return rows;
    });
    filled += ids.length;
    if (ids.length < batchRows) return filled;
  }
}
