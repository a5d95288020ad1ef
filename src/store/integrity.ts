import { isKind } from "../errors.js";
import type { Connection } from "./connection.js";

/**
 * Checks a database's structure, and each index against its table (`PRAGMA integrity_check`).
 *
 * Opening a store does not detect all damage. If a file was copied over a store whose log stayed
 * behind, the index has pages of the other file, and a lookup by api_key misses clients.
 *
 * @returns a message for each problem; empty if there is none
 */
export async function findIntegrityErrors(connection: Connection): Promise<string[]> {
  try {
    const rows = await connection.all<{ integrity_check: string }>("PRAGMA integrity_check");
    const errors = rows.map((row) => row.integrity_check).filter((line) => line !== "ok");
    if (errors.length > 0) connection.damaged = true;
    return errors;
  } catch (error) {
    if (isKind(error, "corrupted")) return [error.message];
    throw error;
  }
}
