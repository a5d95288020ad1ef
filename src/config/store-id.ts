/**
 * The id of a store, which its manifests and bundles contain. In a shared target, the backups of
 * several hubs' stores can have the same name: the id distinguishes them.
 *
 * The id is in a record in the state directory and not in the settings: settings are often copied
 * from one hub to the next, and may be read-only. The first backup creates the id. If the record is
 * lost, or a timer has another state directory than the shell, the next backup takes the id from
 * the earlier backups (backup/store-id.ts).
 */
import { randomBytes } from "node:crypto";
import * as z from "../schema.js";
import { readStoreRecord, writeStoreRecord } from "./store-record.js";

/** 16 hex digits. */
export const storeIdSchema = z.string().check(z.regex(/^[0-9a-f]{16}$/));

const recordSchema = z.object({
  id: storeIdSchema,
  /** When this machine created the id or took it over from a backup, UTC. */
  since: z.iso.datetime(),
});

export type StoreId = Readonly<z.infer<typeof recordSchema>>;

/**
 * Returns a store's id, or undefined if this machine has none for it.
 *
 * @param storePath - with every symbolic link resolved
 * @throws {@link StoreError} io - if the record cannot be read
 */
export async function readStoreId(storePath: string): Promise<StoreId | undefined> {
  return await readStoreRecord(storePath, "store-id", recordSchema);
}

/**
 * Records a store's id.
 *
 * @param id - default: a new random id
 * @returns undefined if the state directory cannot be written. An id that is not recorded must not
 *   be used, because the next backup would get another id.
 * @throws {@link StoreError} io - if the record cannot be read back
 */
export async function recordStoreId(
  storePath: string,
  id = randomBytes(8).toString("hex"),
): Promise<StoreId | undefined> {
  await writeStoreRecord(storePath, "store-id", { id, since: new Date().toISOString() });
  const recorded = await readStoreId(storePath);
  return recorded?.id === id ? recorded : undefined;
}
