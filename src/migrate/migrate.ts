/**
 * Copies every client from one database to another and compares the two.
 *
 * The source is read twice, in parts: first every record is checked before anything is written,
 * then the records are copied. Then every record is read back from the target and compared. If both
 * databases support it, the comparison uses digests of the written records and a mark of the
 * source, which changes with each write to it. Otherwise the source is read again.
 *
 * A note of the migration is kept until the comparison and `beforeEnd` have succeeded. With the
 * note, the same command continues an interrupted migration, although the target is no longer
 * empty. Records already in the target are left unchanged. If such a record differs from the source
 * by more than `last_seen`, one side was changed since, and the migration stops.
 *
 * Ids are kept. Unused ids below the highest are filled with revoked rows: hubs count records to
 * find the next id, and would overwrite a client after a gap. A client revoked in the target stays
 * revoked.
 */
import { batchesOf } from "../client/batches.js";
import { type Client, isRevoked, revoked, revokedApiKey } from "../client/client.js";
import { isSameExceptLastSeen, isSameRecord } from "../client/compare.js";
import type { Database, IdBatch } from "../client/database.js";
import { findGaps, IdSet } from "../databases/id-set.js";
import type { DatabaseConfig } from "../databases/plugin.js";
import { DatabaseFactory, resolveLocation } from "../databases/registry.js";
import { sqlcipherPluginName } from "../databases/sqlite.js";
import { isKind, StoreError, withLine, wrap } from "../errors.js";
import { emitStep } from "../operation/step.js";
import { MigrationNote } from "./note.js";

/** A database: the name of its plugin and its settings. */
export interface Endpoint {
  readonly name: string;
  readonly config: DatabaseConfig;
}

export interface Progress {
  readonly phase: "checking" | "copying" | "comparing";
  readonly done: number;
  /** The records of the source: during the check by its own count, then as checked. */
  readonly total: number;
}

export interface MigrateOptions {
  readonly from: Endpoint;
  readonly to: Endpoint;
  /**
   * Whether the target may contain clients. A different client with the same id or key is refused.
   */
  readonly merge?: boolean;
  /** Whether to report the result without writing. */
  readonly dryRun?: boolean;
  readonly onProgress?: (progress: Progress) => void;
  readonly signal?: AbortSignal;
  /**
   * The last work of the migration, with both databases closed; not called in a dry run. If it
   * fails, the note stays: the same command compares the databases again, then repeats this work.
   */
  readonly beforeEnd?: (migration: Migration) => Promise<void>;
}

export interface Migration {
  readonly from: { name: string; place: string };
  readonly to: { name: string; place: string };
  /** The clients of the source. */
  readonly clients: { active: number; revoked: number };
  /** The number of clients written; in a dry run, the number to be written. */
  readonly copied: number;
  /** The number of clients already in the target. */
  readonly unchanged: number;
  /** The number of unused ids filled with revoked rows, or to be filled in a dry run. */
  readonly filledGaps: number;
  /** Ids active in the source, but revoked in the target. They stay revoked. */
  readonly keptRevoked: readonly number[];
  /** Whether an interrupted migration was continued. */
  readonly resumed: boolean;
  readonly dryRun: boolean;
  /** Whether every record was read back and compared. */
  readonly verified: boolean;
}

const batchSize = 200;
/**
 * The minimum number of clients in a write, because a JSON store writes its whole file each time.
 * Two such chunks are in memory at a time.
 */
const chunkSize = 1_000;
/** The maximum number of ids in a message. */
const namedIds = 10;

/**
 * Copies every client. Writes nothing before every record of the source has been checked.
 *
 * @throws {@link StoreError} refused - if the target is not empty, if clients differ under the same
 *   id or key, if the target has active clients unknown to the source, if the counter of the target
 *   is wrong, or if too many ids are unused
 * @throws {@link StoreError} corrupted - if two records of the source have the same id
 * @throws {@link StoreError} failed - if the comparison found a difference
 * @throws {@link StoreError} usage - if source and target are the same database
 * @throws {@link StoreError} what `beforeEnd` throws
 */
export async function migrate(options: MigrateOptions): Promise<Migration> {
  const { migration, note } = await copyAndCompare(options);
  if (note === undefined) return migration;
  try {
    await options.beforeEnd?.(migration);
  } catch (error) {
    if (!isKind(error, "io")) throw error;
    const line = "Every client is copied: remove the cause, then run the same command again.";
    throw wrap(error, { hint: withLine(error.hint, line) });
  }
  await note.remove();
  return migration;
}

/** Returns the migration and, except for a dry run, its note. The caller removes the note. */
async function copyAndCompare(
  options: MigrateOptions,
): Promise<{ migration: Migration; note: MigrationNote | undefined }> {
  const { from, to, dryRun = false } = options;
  const source = { name: from.name, place: await resolveLocation(from.name, from.config) };
  const target = { name: to.name, place: await resolveLocation(to.name, to.config) };
  if (source.place === target.place && source.name === target.name) {
    throw new StoreError("usage", `${source.place} is source and target at the same time`);
  }
  await using origin = await DatabaseFactory.create(from.name, from.config, { mode: "readonly" });
  const note = await MigrationNote.read(source, target);
  const checked = await checkSource(options, origin, await openIfExists(to), note);
  const begun = { from: source, to: target, clients: checked.clients };
  if (dryRun) {
    const { wouldCopy, unchanged, keptRevoked } = checked;
    const migration = {
      ...begun,
      ...{ copied: wouldCopy, unchanged, filledGaps: checked.gaps.size, keptRevoked },
      ...{ resumed: note !== undefined, dryRun: true, verified: false },
    };
    return { migration, note: undefined };
  }
  await using destination = await DatabaseFactory.create(to.name, to.config, { mode: "create" });
  const journal = note ?? (await MigrationNote.begin(source, target));
  const copying = new Copy(options, origin, destination, checked.targetIds.size > 0);
  await copying.run(checked.clients.active + checked.clients.revoked);
  const filled = await fillGaps(destination, checked);
  await destination.commit();
  await compare(options, copying, checked);
  emitStep("migrate.compared");
  const migration = {
    ...begun,
    ...{ copied: copying.copied, unchanged: copying.unchanged, filledGaps: filled },
    ...{ keptRevoked: copying.keptRevoked, resumed: note !== undefined },
    ...{ dryRun: false, verified: true },
  };
  return { migration, note: journal };
}

interface Checked {
  /** The clients and ids of the source. */
  clients: { active: number; revoked: number };
  ids: IdSet;
  /** The ids of the target. */
  targetIds: IdSet;
  /** The highest id of both. */
  highest: number;
  /** The unused ids below the highest. */
  gaps: IdSet;
  wouldCopy: number;
  unchanged: number;
  keptRevoked: number[];
}

/** Checks every record of the source against the target, then closes the target. */
async function checkSource(
  options: MigrateOptions,
  origin: Database,
  target: Database | undefined,
  note: MigrationNote | undefined,
): Promise<Checked> {
  const { from, to, merge = false, onProgress, signal } = options;
  const checked: Checked = {
    clients: { active: 0, revoked: 0 },
    ids: new IdSet(),
    ...{ highest: 0, gaps: new IdSet(), targetIds: new IdSet() },
    ...{ wouldCopy: 0, unchanged: 0, keptRevoked: [] },
  };
  try {
    const { active, holders } = await readTarget(options, target, note, checked);
    const total = await origin.size();
    const conflicts: number[] = [];
    let done = 0;
    const count = ({ ids, revoked }: IdBatch) => {
      signal?.throwIfAborted();
      for (const id of ids) {
        if (!checked.ids.add(id)) throw duplicateIdError(from.name, id);
        checked.highest = Math.max(checked.highest, id);
      }
      checked.clients.revoked += revoked;
      checked.clients.active += ids.length - revoked;
      done += ids.length;
      onProgress?.({ phase: "checking", done, total });
    };
    const isEmpty = checked.targetIds.size === 0;
    if (isEmpty && origin.idBatches !== undefined) {
      for await (const batch of origin.idBatches()) count(batch);
      checked.wouldCopy = done;
    } else {
      for await (const batch of batchesOf(origin)) {
        const present = await findExisting(batch, isEmpty ? undefined : target);
        for (const [index, client] of batch.entries()) {
          const other = present[index];
          if (other === undefined) checked.wouldCopy += 1;
          else if (isKeptRevoked(client, other)) checked.keptRevoked.push(client.client_id);
          else checked.unchanged += 1;
          if (conflicts.length <= namedIds && isConflict(client, other, holders)) {
            conflicts.push(client.client_id);
          }
        }
        const ids = batch.map(({ client_id }) => client_id);
        count({ ids, revoked: batch.filter(isRevoked).length });
      }
    }
    const unknownIds = merge ? [] : [...difference(active, checked.ids)];
    if (conflicts.length > 0) throw conflictError(conflicts, merge ? undefined : note);
    if (unknownIds.length > 0) throw unknownClientsError(to.name, unknownIds);
    checked.gaps = findGaps([checked.ids, checked.targetIds], checked.highest);
    return checked;
  } finally {
    await target?.close();
  }
}

/**
 * Reads the ids of the target into `checked`.
 *
 * @returns the ids of its active clients, and for `merge`, the id of the client with each API key
 */
async function readTarget(
  { to, merge = false }: MigrateOptions,
  target: Database | undefined,
  note: MigrationNote | undefined,
  checked: Checked,
): Promise<{ active: IdSet; holders: ReadonlyMap<string, number> }> {
  const active = new IdSet();
  const holders = new Map<string, number>();
  if (target === undefined) return { active, holders };
  for await (const client of target) {
    if (!merge && note === undefined) throw notEmptyError(to.name);
    checked.targetIds.add(client.client_id);
    checked.highest = Math.max(checked.highest, client.client_id);
    if (isRevoked(client)) continue;
    active.add(client.client_id);
    if (merge) holders.set(client.api_key, client.client_id);
  }
  if (!merge) await assertCountMatches(target, checked.targetIds.size, to.name);
  return { active, holders };
}

function isKeptRevoked(client: Client, other: Client): boolean {
  return isRevoked(other) && !isRevoked(client);
}

function isConflict(
  client: Client,
  other: Client | undefined,
  holders: ReadonlyMap<string, number>,
): boolean {
  const holder = isRevoked(client) ? undefined : holders.get(client.api_key);
  if (holder !== undefined && holder !== client.client_id) return true;
  return (
    other !== undefined && !isKeptRevoked(client, other) && !isSameExceptLastSeen(client, other)
  );
}

/**
 * Checks the counter of a Redis database. A hub derives the id of the next client from it, so a
 * wrong counter lets the hub overwrite a client.
 *
 * @throws {@link StoreError} refused - if the counter differs from the number of records
 */
async function assertCountMatches(
  database: Database,
  records: number,
  name: string,
): Promise<void> {
  const counted = await database.size();
  if (counted === records) return;
  throw new StoreError(
    "refused",
    `the target, ${name}, counts ${counted} records, but has ${records}`,
    {
      hint: `Stop the hub that writes to it. Without such a hub, correct its counter: redis-cli SET client:count ${records} (replace client with the index_prefix in the settings, if it is another).`,
    },
  );
}

/** Opens the target. Returns undefined if it does not exist and the copy can create it. */
async function openIfExists({ name, config }: Endpoint): Promise<Database | undefined> {
  try {
    return await DatabaseFactory.create(name, config, { mode: "readwrite" });
  } catch (error) {
    const canBeCreated = name !== sqlcipherPluginName || config.password !== undefined;
    if (isKind(error, "notFound") && canBeCreated) return undefined;
    throw error;
  }
}

class Copy {
  copied = 0;
  unchanged = 0;
  readonly keptRevoked: number[] = [];
  /**
   * For each written chunk, a function to read the target: it returns whether the target still has
   * the written records.
   */
  readonly #verifications: (() => Promise<boolean>)[] = [];
  /** The source's change mark before the copy. */
  #mark: string | undefined;
  /** Whether each target stores what was written completely, so that its digest proves it. */
  #isLossless = true;

  constructor(
    readonly options: MigrateOptions,
    readonly origin: Database,
    readonly destination: Database,
    readonly mayHaveClients: boolean,
  ) {}

  /** Copies the missing clients. Writes each chunk while the next chunk is read. */
  async run(total: number): Promise<void> {
    if (this.destination.addVerifiable) this.#mark = await this.origin.changeMark?.();
    let writing = Promise.resolve();
    try {
      for await (const { missing, done } of this.#chunks()) {
        await writing;
        this.options.signal?.throwIfAborted();
        writing = this.#write(missing, { phase: "copying", done, total });
        // A failure is thrown where `writing` is awaited.
        writing.catch(() => undefined);
      }
    } finally {
      await writing;
    }
  }

  async #write(missing: readonly Client[], progress: Progress): Promise<void> {
    if (missing.length > 0) await this.#add(missing);
    this.copied += missing.length;
    this.options.onProgress?.(progress);
    emitStep("migrate.copied");
  }

  async #add(clients: readonly Client[]): Promise<void> {
    // A target without a column for the crypto key stores it in metadata, which may have another.
    this.#isLossless &&= !clients.some(({ metadata }) => Object.hasOwn(metadata, "crypto_key"));
    if (this.#mark === undefined || this.destination.addVerifiable === undefined) {
      await this.destination.addItems(clients);
    } else this.#verifications.push(await this.destination.addVerifiable(clients));
  }

  /**
   * Reads every record back from the target. Returns true only if the target has each record as it
   * was written, and the source has not changed since. Returns false if this cannot be verified
   * without the source, as for records that were already in the target.
   */
  async verify(onProgress: (done: number) => void): Promise<boolean> {
    const others = this.unchanged + this.keptRevoked.length;
    if (this.#verifications.length === 0 || others > 0 || !this.#isLossless) return false;
    const [first, ...rest] = this.#verifications;
    let next = first?.();
    next?.catch(() => undefined);
    for (let index = 0; next !== undefined; index++) {
      const current = next;
      next = rest[index]?.();
      next?.catch(() => undefined);
      onProgress(Math.min(index * chunkSize, this.copied));
      if (!(await current)) return false;
    }
    onProgress(this.copied);
    return (await this.origin.changeMark?.()) === this.#mark;
  }

  /** Yields, for each chunk of the source, its clients missing in the target. */
  async *#chunks(): AsyncGenerator<{ missing: Client[]; done: number }> {
    let missing: Client[] = [];
    let inChunk = 0;
    let done = 0;
    for await (const batch of batchesOf(this.origin)) {
      this.options.signal?.throwIfAborted();
      const present = await findExisting(batch, this.mayHaveClients ? this.destination : undefined);
      for (const [index, client] of batch.entries()) {
        const other = present[index];
        // A record that differs was changed since the check. The comparison reports it.
        if (other === undefined) missing.push(client);
        else if (isKeptRevoked(client, other)) this.keptRevoked.push(client.client_id);
        else this.unchanged += 1;
      }
      done += batch.length;
      inChunk += batch.length;
      if (inChunk < chunkSize) continue;
      yield { missing, done };
      [missing, inChunk] = [[], 0];
    }
    yield { missing, done };
  }
}

/** Fills the gaps, except ids of clients that were added to the source since the check. */
async function fillGaps(destination: Database, { gaps }: Checked): Promise<number> {
  let filled = 0;
  const fill = async (ids: readonly number[]) => {
    const rows = ids.map(revoked);
    const present = await findExisting(rows, destination);
    filled += await destination.addItems(rows.filter((_, index) => present[index] === undefined));
  };
  let batch: number[] = [];
  for (const id of gaps) {
    if (batch.push(id) < chunkSize) continue;
    await fill(batch);
    batch = [];
  }
  await fill(batch);
  return filled;
}

/** Yields the ids in `some` that are not in `others`. */
function* difference(some: IdSet, others: IdSet): Generator<number> {
  for (const id of some) if (!others.has(id)) yield id;
}

/**
 * Reads every record back from the target and compares it with the source.
 *
 * @throws {@link StoreError} failed - if a record differs, or the target has another number of
 *   records
 */
async function compare(options: MigrateOptions, copying: Copy, checked: Checked): Promise<void> {
  const { destination } = copying;
  const total = checked.clients.active + checked.clients.revoked;
  const report = (done: number) => {
    options.signal?.throwIfAborted();
    options.onProgress?.({ phase: "comparing", done, total });
  };
  const isVerified = await copying.verify(report);
  const compared = isVerified
    ? { count: copying.copied, different: [] }
    : await compareWithSource(copying, checked, report);
  const different = [...compared.different, ...(await findUnrevoked(destination, checked.gaps))];
  let expected = compared.count + checked.gaps.size;
  for (const _ of difference(checked.targetIds, checked.ids)) expected += 1;
  const counted = await destination.size();
  if (different.length === 0 && (options.merge || counted === expected)) return;
  throw new StoreError(
    "failed",
    different.length > 0
      ? `clients ${listIds(different)} differ from the source after reading them back`
      : `after reading back, the target has ${counted} records; ${expected} were expected`,
    {
      hint: "Stop the hub that writes to either side, then run the command again.",
    },
  );
}

/** Reads both databases. Returns the number of clients and the first ids that differ. */
async function compareWithSource(
  { origin, destination }: Copy,
  checked: Checked,
  report: (done: number) => void,
): Promise<{ count: number; different: number[] }> {
  const different: number[] = [];
  const compareBatch = async (batch: readonly Client[]) => {
    const present = await findExisting(batch, destination);
    for (const [index, client] of batch.entries()) {
      const other = present[index];
      const isAsExpected =
        other !== undefined &&
        (isSameRecord(client, other) ||
          // A client from before the migration stays revoked, and keeps its own `last_seen`.
          (checked.targetIds.has(client.client_id) &&
            (isKeptRevoked(client, other) || isSameExceptLastSeen(client, other))));
      if (!isAsExpected && different.length <= namedIds) different.push(client.client_id);
    }
  };
  let count = 0;
  // Compare a batch while the next batch is read.
  let comparing = Promise.resolve();
  try {
    for await (const batch of batchesOf(origin)) {
      await comparing;
      report(count);
      comparing = compareBatch(batch);
      comparing.catch(() => undefined);
      count += batch.length;
    }
  } finally {
    await comparing;
  }
  report(count);
  return { count, different };
}

/** Returns filled ids that are not revoked in the target: from each batch the first few. */
async function findUnrevoked(destination: Database, gaps: IdSet): Promise<number[]> {
  const different: number[] = [];
  let batch: number[] = [];
  const expectRevoked = async () => {
    const found = await destination.getClientsById(batch);
    const wrong = batch.filter((_id, index) => found[index]?.api_key !== revokedApiKey);
    different.push(...wrong.slice(0, namedIds + 1));
    batch = [];
  };
  for (const id of gaps) {
    if (batch.push(id) === batchSize) await expectRevoked();
  }
  await expectRevoked();
  return different;
}

async function findExisting(
  batch: readonly Client[],
  database: Database | undefined,
): Promise<(Client | undefined)[]> {
  if (database === undefined) return [];
  return database.getClientsById(batch.map(({ client_id }) => client_id));
}

function notEmptyError(name: string): StoreError {
  return new StoreError("refused", `the target, ${name}, already holds clients`, {
    hint: "Add --merge to add the missing clients; --dry-run reports what it would do.",
  });
}

function duplicateIdError(name: string, id: number): StoreError {
  return new StoreError("corrupted", `the source, ${name}, has two records with id ${id}`, {
    hint: "Remove the record that is wrong.",
  });
}

/** @param note - the note of a continued migration, with a target that was empty at the start */
function conflictError(ids: readonly number[], note: MigrationNote | undefined): StoreError {
  if (note === undefined) {
    return new StoreError(
      "refused",
      `source and target differ in clients ${listIds(ids)}, which have the same id or api_key`,
      {
        hint: "Make them equal on both sides, or free their ids on one side; nothing was changed.",
      },
    );
  }
  return new StoreError(
    "refused",
    `source and target differ in clients ${listIds(ids)}: one side has changed since the migration started`,
    {
      hint: `Remove ${note.path} if a hub uses the target already: the migration is complete. Otherwise make them equal or empty the target, and run the command again. Nothing was changed.`,
    },
  );
}

function unknownClientsError(name: string, ids: readonly number[]): StoreError {
  return new StoreError(
    "refused",
    `the target, ${name}, holds clients that the source lacks: ${listIds(ids)}`,
    { hint: "Add --merge to keep them and continue; nothing was changed." },
  );
}

export function listIds(ids: readonly number[]): string {
  const named = ids.slice(0, namedIds).join(", ");
  return ids.length > namedIds ? `${named} and more` : named;
}
