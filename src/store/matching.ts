/** Clients that a person means by a part of a name or an id. */
import { revokedApiKey } from "../client/client.js";
import type { ClientTable } from "./client-table.js";

export interface Match {
  /** The id's digits. */
  readonly id: string;
  readonly name: string;
}

/**
 * Up to `limit` clients that are not revoked and have `text` in their id, two spaces and their name, whatever its case:
 * the one with that very id first, then in order of their ids.
 */
export function matchingClients(store: ClientTable, text: string, limit: number): Promise<Match[]> {
  return store.connection.all<Match>(
    `SELECT id, name FROM
      (SELECT CAST(client_id AS TEXT) AS id, coalesce(name, '') AS name, client_id FROM clients WHERE api_key <> ?1)
      WHERE instr(lower(id || '  ' || name), lower(?2)) > 0
      ORDER BY id = ?2 DESC, client_id LIMIT ${limit}`,
    [revokedApiKey, text],
  );
}
