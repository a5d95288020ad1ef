/**
 * Plans an import before anything is written.
 *
 * An import never admits a client by accident. A client revoked in the store stays revoked.
 * A row with an access key of the store is rejected unless an update is requested, and a row with
 * the id of another client is always rejected. Unused ids get revoked rows: a hub gives a new
 * client the number of rows plus one as its id, and would otherwise overwrite the client with this
 * id.
 */
import { blacklistKeys, type Client, isRevoked, revoked, revokedApiKey } from "../client/client.js";
import type { JsonObject } from "../client/json.js";
import { initialTypes, isHiveMind4Schema } from "../client/permissions.js";
import {
  hasAllPermissions,
  type ImportRow,
  isRejectedRow,
  type RejectedRow,
} from "./import-row.js";

/** The maximum number of unused ids to fill; more are a mistake in the file. */
const maxFilledIds = 100_000;

/** The number of rejected rows kept for display; further rows are only counted. */
const shownRejections = 1_000;

const idAdvice = "without an id in the file, the client gets the next free id";

/** The store's ids with their access keys; `revoked` for revoked rows. */
export type Known = ReadonlyMap<number, string>;

export interface Update {
  readonly id: number;
  readonly changes: Partial<Client>;
  /** Metadata to set by key, if `changes` does not replace all metadata. */
  readonly metadata: JsonObject;
}

/**
 * Returns the changes to a client. Keys of its metadata that are not in the file stay, unless the
 * file replaces all metadata.
 */
export function mergeChanges(client: Client, { changes, metadata }: Update): Partial<Client> {
  if (changes.metadata !== undefined || Object.keys(metadata).length === 0) return changes;
  const merged = { ...client.metadata, ...metadata };
  for (const key of blacklistKeys) {
    const list = metadata[key];
    if (Array.isArray(list) && list.length === 0) delete merged[key];
  }
  return { ...changes, metadata: merged };
}

export interface ImportPlan {
  /** New rows ordered by id, including the rows that fill gaps. */
  readonly added: readonly Client[];
  readonly updated: readonly Update[];
  /** The ids of clients that the import revokes. */
  readonly revocations: readonly number[];
  /** The number of rows without a change: the client is revoked in the store and in the file. */
  readonly unchanged: number;
  /** How many of `added` only fill gaps. */
  readonly filled: number;
  /** How many of `added` get default permissions because the file lacks some. */
  readonly defaulted: number;
  /**
   * How many of `added` have an empty list of message types, which HiveMind 4 reads as the default
   * list.
   */
  readonly emptyLists: number;
  /** Whether the plan revokes the first clients in a store of HiveMind 4. */
  readonly isFirstRevoked: boolean;
  /** The first rejected rows, at most a thousand. */
  readonly rejected: readonly RejectedRow[];
  readonly rejectedCount: number;
}

export interface PlanOptions {
  /** Whether to change existing clients to their values in the file. */
  readonly update?: boolean;
  readonly schemaVersion: number;
}

export function planImport(
  rows: Iterable<ImportRow | RejectedRow>,
  known: Known,
  options: PlanOptions,
): ImportPlan {
  const planner = new Planner(known, options);
  for (const row of rows) planner.plan(row);
  return planner.finish();
}

class Planner {
  readonly #known: Known;
  readonly #update: boolean;
  readonly #schemaVersion: number;
  readonly #isHiveMind4: boolean;
  readonly #owners = new Map<string, number>();
  readonly #seenIds = new Set<number>();
  readonly #seenKeys = new Set<string>();
  readonly #added = new Map<number, Client>();
  readonly #unnumbered: Client[] = [];
  readonly #updated: Update[] = [];
  readonly #revocations: number[] = [];
  readonly #rejected: RejectedRow[] = [];
  #unchanged = 0;
  #defaulted = 0;
  #emptyLists = 0;
  #rejectedCount = 0;
  #highest = { id: 0, where: "", advice: "" };

  constructor(known: Known, { update = false, schemaVersion }: PlanOptions) {
    this.#known = known;
    this.#update = update;
    this.#schemaVersion = schemaVersion;
    this.#isHiveMind4 = isHiveMind4Schema(schemaVersion);
    for (const [id, key] of known) if (key !== revokedApiKey) this.#owners.set(key, id);
  }

  plan(row: ImportRow | RejectedRow): void {
    const why = isRejectedRow(row) ? row.why : this.#planRow(row);
    if (why !== undefined) this.#reject(row.where, why);
  }

  /** Returns the reason if the row is rejected. */
  #planRow(row: ImportRow): string | undefined {
    const { id, client } = row;
    if (id !== undefined) {
      if (this.#seenIds.has(id)) return `client ${id} is duplicated in the file`;
      this.#seenIds.add(id);
    }
    if (isRevoked(client)) return this.#planRevoked(row);
    if (this.#seenKeys.has(client.api_key)) return "its access key is duplicated in the file";
    this.#seenKeys.add(client.api_key);
    const owner = this.#owners.get(client.api_key);
    if (owner !== undefined) return this.#planExisting(row, owner);
    const key = id === undefined ? undefined : this.#known.get(id);
    if (key === revokedApiKey) return `client ${id} is revoked in the store and stays revoked`;
    if (key !== undefined) return `client ${id} is a different client in the store; ${idAdvice}`;
    if (!hasAllPermissions(row)) this.#defaulted += 1;
    if (this.#isHiveMind4 && client.allowed_types.length === 0) this.#emptyLists += 1;
    const added = row.given.includes("allowed_types")
      ? client
      : { ...client, allowed_types: initialTypes(undefined, this.#schemaVersion) };
    if (id === undefined) this.#unnumbered.push(added);
    else this.#add(row.where, added);
    return undefined;
  }

  #planRevoked({ id, where }: ImportRow): string | undefined {
    if (id === undefined) return "the client is revoked and has no id";
    const key = this.#known.get(id);
    if (key === undefined) this.#add(where, revoked(id));
    else if (key === revokedApiKey) this.#unchanged += 1;
    else if (this.#update) this.#revocations.push(id);
    else return `client ${id} is active in the store; --update revokes it`;
    return undefined;
  }

  #planExisting(row: ImportRow, owner: number): string | undefined {
    if (row.id !== undefined && row.id !== owner)
      return `its access key belongs to client ${owner}`;
    if (row.id === undefined && this.#seenIds.has(owner)) {
      return `client ${owner} is duplicated in the file`;
    }
    this.#seenIds.add(owner);
    if (!this.#update) return `client ${owner} has this access key; --update changes the client`;
    const changes: Record<string, unknown> = {};
    for (const field of row.given) {
      if (field !== "client_id" && field !== "api_key") changes[field] = row.client[field];
    }
    const { givenMetadata: metadata = {} } = row;
    this.#updated.push({ id: owner, changes: changes as Partial<Client>, metadata });
    return undefined;
  }

  #add(where: string, client: Client): void {
    this.#added.set(client.client_id, client);
    const { client_id: id } = client;
    if (id <= this.#highest.id) return;
    const advice = isRevoked(client) ? "" : `; ${idAdvice}`;
    this.#highest = { id, where, advice };
  }

  #reject(where: string, why: string): void {
    this.#rejectedCount += 1;
    if (this.#rejected.length < shownRejections) this.#rejected.push({ where, why });
  }

  finish(): ImportPlan {
    const filled = this.#fillGaps();
    let next = Math.max(this.#highest.id, findHighestId(this.#known)) + 1;
    for (const client of this.#unnumbered) {
      this.#added.set(next, { ...client, client_id: next });
      next += 1;
    }
    return {
      added: [...this.#added.values()].sort((a, b) => a.client_id - b.client_id),
      updated: this.#updated,
      revocations: this.#revocations,
      unchanged: this.#unchanged,
      filled,
      defaulted: this.#defaulted,
      emptyLists: this.#emptyLists,
      isFirstRevoked:
        this.#isHiveMind4 &&
        ![...this.#known.values()].includes(revokedApiKey) &&
        (this.#revocations.length > 0 || [...this.#added.values()].some(isRevoked)),
      rejected: this.#rejected,
      rejectedCount: this.#rejectedCount,
    };
  }

  /**
   * If the highest id of the file is above the ids of the store, adds a revoked row for every
   * unused id below it, or rejects its row if too many ids are unused.
   *
   * @returns the number of added rows
   */
  #fillGaps(): number {
    const { id: highest, where, advice } = this.#highest;
    if (highest <= findHighestId(this.#known)) return 0;
    const taken = this.#added.size + [...this.#known.keys()].filter((id) => id > 0).length;
    if (highest - taken > maxFilledIds) {
      const gaps = highest - taken;
      this.#reject(where, `client ${highest} would leave ${gaps} ids unused${advice}`);
      return 0;
    }
    let filled = 0;
    for (let id = 1; id < highest; id += 1) {
      if (this.#known.has(id) || this.#added.has(id)) continue;
      this.#added.set(id, revoked(id));
      filled += 1;
    }
    return filled;
  }
}

function findHighestId(known: Known): number {
  let highest = 0;
  for (const id of known.keys()) if (id > highest) highest = id;
  return highest;
}
