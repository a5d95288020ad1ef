import { revokedApiKey } from "../client/client.js";
import type { ClientTable } from "./client-table.js";

/** A client in a list to choose from. */
export interface Match {
  /** Digits of the client_id. */
  readonly id: string;
  readonly name: string;
}

/**
 * Returns up to `limit` active clients. `text` must be part of the id and the name, joined by two
 * spaces as in a list; the case of ASCII letters is ignored. A client with exactly this id comes
 * first, then the others in the order of their ids.
 */
export function findMatchingClients(
  store: ClientTable,
  text: string,
  limit: number,
): Promise<Match[]> {
  return store.connection.all<Match>(
    `SELECT id, name FROM
      (SELECT CAST(client_id AS TEXT) AS id, coalesce(name, '') AS name, client_id FROM clients WHERE api_key <> ?1)
      WHERE instr(lower(id || '  ' || name), lower(?2)) > 0
      ORDER BY id = ?2 DESC, client_id LIMIT ${limit}`,
    [revokedApiKey, text],
  );
}
