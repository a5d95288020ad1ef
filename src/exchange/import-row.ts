/** A row or record of a file, which describes a client. */
import { type Client, clientSchema, newClient } from "../client/client.js";
import type { JsonObject } from "../client/json.js";

export interface ImportRow {
  /** The position in the file: `line 7` or `record 7`. */
  readonly where: string;
  /** Undefined if the client gets the next free id. */
  readonly id: number | undefined;
  /** The client as if it were new. Its `client_id` has no meaning if `id` is undefined. */
  readonly client: Client;
  /** The fields in the file. An existing client keeps the others. */
  readonly given: readonly (keyof Client)[];
  /**
   * The metadata in the file, by key. An existing client keeps its other keys, unless `given`
   * contains `metadata`, which replaces all of them.
   */
  readonly givenMetadata?: JsonObject;
}

/** A row that cannot be imported. The reason contains no secret of the row. */
export interface RejectedRow {
  readonly where: string;
  readonly why: string;
}

const permissionFields = [
  "allowed_types",
  "can_broadcast",
  "can_escalate",
  "can_propagate",
] as const;

/**
 * Returns whether the file states every permission field. A new client gets defaults for missing
 * fields.
 */
export function hasAllPermissions(row: ImportRow): boolean {
  return permissionFields.every((field) => row.given.includes(field));
}

/** Returns the row of a client, or a rejected row if the store cannot hold the client. */
export function toImportRow(
  where: string,
  id: number | undefined,
  fields: Partial<Client> & Pick<Client, "api_key">,
): ImportRow | RejectedRow {
  const client = newClient({ ...fields, client_id: id ?? 0 });
  const given = Object.keys(fields) as (keyof Client)[];
  const checked = clientSchema.safeParse(client);
  if (!checked.success) {
    const problem = checked.error.issues[0];
    return { where, why: `${problem?.path.join(".")}: ${problem?.message}` };
  }
  if (id !== undefined && id < 1) return { where, why: "client_id must be 1 or more" };
  if (client.api_key === "") return { where, why: "access key missing" };
  for (const field of ["api_key", "name", "description", "password", "crypto_key"] as const) {
    if (client[field]?.includes("\0")) return { where, why: `${field} contains a NUL character` };
  }
  return { where, id, client, given };
}

export function isRejectedRow(row: ImportRow | RejectedRow): row is RejectedRow {
  return "why" in row;
}
