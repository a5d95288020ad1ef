/**
 * What importing a file would do to a store, worked out before anything is written.
 *
 * Nobody gets in through an import who could not be named: a revoked client stays revoked, an access key that is
 * there already is left alone unless asked, and an id that another client has is refused. Ids that would be left out
 * are given to revoked rows, for the hub gives a new client the number of rows plus one, over whoever has it.
 */
import { type Client, isRevoked, revoked, revokedApiKey } from "../client/client.js";
import { initialTypes } from "../client/permissions.js";
import { hasPermissions, type ImportRow, isRejectedRow, type RejectedRow } from "./incoming.js";

/** A gap of more ids than this is a slip in the file, not a store to be filled up. */
const longestFill = 100_000;

/** Refused rows that are kept to be shown; the others are counted. */
const shownRefusals = 1_000;

/** The store as the plan found it: its ids with their access keys, `revoked` among them. */
export type Known = ReadonlyMap<number, string>;

export interface Update {
  readonly id: number;
  readonly changes: Partial<Client>;
}

export interface Plan {
  /** New rows in order of their ids, the ones that fill gaps among them. */
  readonly added: readonly Client[];
  readonly updated: readonly Update[];
  /** Clients that are active in the store and revoked in the file. */
  readonly revocations: readonly number[];
  /** Rows that say nothing new: revoked here and there. */
  readonly unchanged: number;
  /** How many of `added` only fill gaps. */
  readonly filled: number;
  /** How many of `added` get, at least in part, what a new client may do, for the file does not say it. */
  readonly defaulted: number;
  /**
   * How many of `added` have an empty list of message types, where a released hub would read it as the default one.
   */
  readonly emptyLists: number;
  readonly refused: readonly RejectedRow[];
  readonly refusedRows: number;
}

export interface PlanOptions {
  /** Whether clients that are in the store already are changed to what the file says. */
  readonly update?: boolean;
  readonly schemaVersion: number;
}

export async function planImport(
  rows: AsyncIterable<ImportRow | RejectedRow>,
  known: Known,
  options: PlanOptions,
): Promise<Plan> {
  const planner = new Planner(known, options);
  for await (const row of rows) planner.take(row);
  return planner.finish();
}

class Planner {
  readonly #known: Known;
  readonly #update: boolean;
  readonly #schemaVersion: number;
  readonly #released: boolean;
  readonly #owners = new Map<string, number>();
  readonly #seenIds = new Set<number>();
  readonly #seenKeys = new Set<string>();
  readonly #added = new Map<number, Client>();
  readonly #unnumbered: Client[] = [];
  readonly #updated: Update[] = [];
  readonly #revocations: number[] = [];
  readonly #refused: RejectedRow[] = [];
  #unchanged = 0;
  #defaulted = 0;
  #emptyLists = 0;
  #refusedRows = 0;
  #highest: { id: number; where: string } = { id: 0, where: "" };

  constructor(known: Known, { update = false, schemaVersion }: PlanOptions) {
    this.#known = known;
    this.#update = update;
    this.#schemaVersion = schemaVersion;
    this.#released = schemaVersion < 2;
    for (const [id, key] of known) if (key !== revokedApiKey) this.#owners.set(key, id);
  }

  take(row: ImportRow | RejectedRow): void {
    const why = isRejectedRow(row) ? row.why : this.#take(row);
    if (why !== undefined) this.#refuse(row.where, why);
  }

  /** Why the row is refused, if it is. */
  #take(row: ImportRow): string | undefined {
    const { id, client } = row;
    if (id !== undefined) {
      if (this.#seenIds.has(id)) return `client ${id} is in the file twice`;
      this.#seenIds.add(id);
    }
    if (isRevoked(client)) return this.#takeRevoked(id);
    if (this.#seenKeys.has(client.api_key)) return "its access key is in the file twice";
    this.#seenKeys.add(client.api_key);
    const owner = this.#owners.get(client.api_key);
    if (owner !== undefined) return this.#takeExisting(row, owner);
    const key = id === undefined ? undefined : this.#known.get(id);
    if (key === revokedApiKey) return `client ${id} was revoked here, and stays so`;
    if (key !== undefined)
      return `client ${id} is another one here; without its id it gets the next one`;
    if (!hasPermissions(row)) this.#defaulted += 1;
    if (this.#released && client.allowed_types.length === 0) this.#emptyLists += 1;
    const added = row.given.includes("allowed_types")
      ? client
      : { ...client, allowed_types: initialTypes(undefined, this.#schemaVersion) };
    if (id === undefined) this.#unnumbered.push(added);
    else this.#add(row.where, added);
    return undefined;
  }

  #takeRevoked(id: number | undefined): string | undefined {
    if (id === undefined) return "it is revoked and has no id";
    const key = this.#known.get(id);
    if (key === undefined) this.#add("", revoked(id));
    else if (key === revokedApiKey) this.#unchanged += 1;
    else if (this.#update) this.#revocations.push(id);
    else return `client ${id} is active here; --update revokes it`;
    return undefined;
  }

  #takeExisting(row: ImportRow, owner: number): string | undefined {
    if (row.id !== undefined && row.id !== owner) return `its access key is client ${owner}'s here`;
    if (!this.#update)
      return `client ${owner} has its access key already; --update changes that one`;
    const changes: Record<string, unknown> = {};
    for (const field of row.given) {
      if (field !== "client_id" && field !== "api_key") changes[field] = row.client[field];
    }
    this.#updated.push({ id: owner, changes: changes as Partial<Client> });
    return undefined;
  }

  #add(where: string, client: Client): void {
    this.#added.set(client.client_id, client);
    if (client.client_id > this.#highest.id) this.#highest = { id: client.client_id, where };
  }

  #refuse(where: string, why: string): void {
    this.#refusedRows += 1;
    if (this.#refused.length < shownRefusals) this.#refused.push({ where, why });
  }

  finish(): Plan {
    const filled = this.#fillGaps();
    let next = Math.max(this.#highest.id, highestOf(this.#known)) + 1;
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
      refused: this.#refused,
      refusedRows: this.#refusedRows,
    };
  }

  /** Gives every id below the highest that nobody has to a revoked row. Answers how many. */
  #fillGaps(): number {
    const { id: highest, where } = this.#highest;
    if (highest <= highestOf(this.#known)) return 0;
    const taken = this.#added.size + [...this.#known.keys()].filter((id) => id > 0).length;
    if (highest - taken > longestFill) {
      const gaps = highest - taken;
      this.#refuse(
        where,
        `client ${highest} would leave ${gaps} ids unused; without its id it gets the next one`,
      );
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

function highestOf(known: Known): number {
  let highest = 0;
  for (const id of known.keys()) if (id > highest) highest = id;
  return highest;
}
