import { ClientTable } from "./client-table.js";
import { Connection } from "./connection.js";
import { readSchema } from "./schema.js";

/**
 * Opens a store that is not encrypted, for reading only.
 *
 * The connection itself is in mode readwrite: a readonly connection leaves `-wal` and `-shm` next
 * to a store in WAL mode that no other process has open.
 *
 * @throws {@link StoreError} as `readSchema`
 */
export async function openPlaintext(path: string): Promise<ClientTable> {
  const connection = await Connection.open(path, { mode: "readwrite" });
  try {
    await connection.exec("PRAGMA query_only = ON");
    return new ClientTable(connection, await readSchema(connection));
  } catch (error) {
    await connection.close();
    throw error;
  }
}
