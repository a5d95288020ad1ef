/**
 * What putting an older store in the present one's place would do to who may do what: which clients stay revoked, and
 * which permissions would widen.
 */
import { blacklistKeys, type Client, isRevoked } from "../client/client.js";
import type { JsonValue } from "../client/json.js";
import type { ClientTable } from "../store/client-table.js";

/** A client that could do more in the older store than it can now. */
export interface Widened {
  readonly client_id: number;
  readonly name: string | null;
  readonly what: string[];
}

export interface Differences {
  /** Clients that are revoked now, and are not in the older store, or not revoked there; ids that fill a gap included. */
  readonly revoked: number[];
  readonly widened: Widened[];
  /** How many clients of now, not revoked, the older store does not have. */
  readonly missing: number;
}

/** Compares the two, in the order of their ids, in memory that grows with the differences alone. */
export async function compareClients(now: ClientTable, older: ClientTable): Promise<Differences> {
  const revoked: number[] = [];
  const widened: Widened[] = [];
  const missing: Client[] = [];
  let lastRevoked = -1;
  for await (const [present, past] of sideBySide(now, older)) {
    if (!present) {
      if (past && !isRevoked(past)) widened.push(changed(past, ["is not in the present store"]));
    } else if (!past) {
      missing.push(present);
      if (isRevoked(present)) lastRevoked = present.client_id;
    } else if (isRevoked(present)) {
      if (!isRevoked(past)) revoked.push(present.client_id);
    } else if (!isRevoked(past)) {
      const what = widenings(present, past);
      if (what.length > 0) widened.push(changed(past, what));
    }
  }
  // A revoked row behind a gap would be overwritten by the hub's next clients: the ids before it are taken too.
  for (const { client_id: id } of missing) if (id <= lastRevoked) revoked.push(id);
  return { revoked, widened, missing: missing.filter((client) => !isRevoked(client)).length };
}

async function* sideBySide(
  now: ClientTable,
  older: ClientTable,
): AsyncGenerator<[present: Client | undefined, past: Client | undefined]> {
  const presents = now[Symbol.asyncIterator]();
  const pasts = older[Symbol.asyncIterator]();
  let present = await presents.next();
  let past = await pasts.next();
  while (!present.done || !past.done) {
    const here: number = present.done ? Number.POSITIVE_INFINITY : present.value.client_id;
    const there: number = past.done ? Number.POSITIVE_INFINITY : past.value.client_id;
    yield [
      here <= there && !present.done ? present.value : undefined,
      there <= here && !past.done ? past.value : undefined,
    ];
    if (here <= there) present = await presents.next();
    if (there <= here) past = await pasts.next();
  }
}

function changed({ client_id, name }: Client, what: string[]): Widened {
  return { client_id, name, what };
}

function widenings(present: Client, past: Client): string[] {
  const what: string[] = [];
  if (past.is_admin && !present.is_admin) what.push("would be an admin again");
  for (const key of ["can_broadcast", "can_escalate", "can_propagate"] as const) {
    if (past[key] && !present[key]) what.push(`could ${key.slice("can_".length)} again`);
  }
  const allowed = new Set(present.allowed_types);
  const more = past.allowed_types.filter((type) => !allowed.has(type));
  if (more.length > 0) what.push(`could send ${more.join(", ")} again`);
  // To a released hub an empty list means the default one.
  if (past.allowed_types.length === 0 && present.allowed_types.length > 0) {
    what.push(
      "would have no list of allowed messages, which released hubs read as the default one",
    );
  }
  for (const key of blacklistKeys) {
    const kept = new Set(listOf(past.metadata[key]));
    const fewer = listOf(present.metadata[key]).filter((entry) => !kept.has(entry));
    const kind = key.replace("_blacklist", "");
    if (fewer.length > 0)
      what.push(`would have these off its ${kind} blacklist: ${fewer.join(", ")}`);
  }
  if (past.api_key !== present.api_key) what.push("would have its earlier access key again");
  // One that was replaced is one that somebody else may know by now.
  if (past.password !== present.password) what.push("would have its earlier password again");
  if (past.crypto_key !== present.crypto_key) what.push("would have its earlier crypto key again");
  return what;
}

function listOf(value: JsonValue | undefined): string[] {
  return Array.isArray(value) ? value.map(String) : [];
}
