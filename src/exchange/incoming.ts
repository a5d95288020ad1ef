/** What a row or a record of a file says about one client. */
import { type Client, clientSchema, newClient } from "../client/client.js";

export interface ImportRow {
  /** Where in the file: `line 7`. */
  readonly where: string;
  /** Undefined where the client is to get the next one. */
  readonly id: number | undefined;
  /** As it would be if it were new; its `client_id` means nothing where `id` is undefined. */
  readonly client: Client;
  /** The fields that the file says something about: an existing client keeps the others. */
  readonly given: readonly (keyof Client)[];
}

/** A row that could not be read, and why, in words that hold none of its values. */
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

/** Whether the file says all of what the client may do; if it were new, the rest would be a new client's. */
export function hasPermissions(incoming: ImportRow): boolean {
  return permissionFields.every((field) => incoming.given.includes(field));
}

/** Takes a row if it is a client that the store can hold. */
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
  if (id !== undefined && id < 1) return { where, why: "a client_id is 1 or more" };
  if (client.api_key === "") return { where, why: "it has no access key" };
  for (const field of ["api_key", "name", "description", "password", "crypto_key"] as const) {
    if (client[field]?.includes("\0")) return { where, why: `${field} holds a NUL character` };
  }
  return { where, id, client, given };
}

export function isRejectedRow(row: ImportRow | RejectedRow): row is RejectedRow {
  return "why" in row;
}
