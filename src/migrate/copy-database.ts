/**
 * Copies every client from one database to another and compares the two.
 *
 * The source is read twice, in parts: first every record is checked before anything is written,
 * then the records are copied. Then every record is read back from the target and compared. If both
 * databases support it, the comparison uses digests of the written records, and the source only
 * shows that it has not changed. Otherwise the source is read again.
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
import type { ClientCounts } from "../client/client.js";
import type { Endpoint } from "../databases/plugin.js";
import { DatabaseFactory, resolveLocation } from "../databases/registry.js";
import { addHint, isKind, StoreError } from "../errors.js";
import { emitStep } from "../operation/step.js";
import { throwIfAborted } from "../process/abort.js";
import { withSignal } from "../process/interaction.js";
import { checkSource, type KnownClients } from "./check.js";
import { compareWithTarget } from "./compare.js";
import { copyMissing, fillGaps } from "./copy.js";
import { MigrationNote } from "./note.js";

export interface Progress {
  readonly phase: "checking" | "copying" | "comparing";
  readonly done: number;
  /** The records of the source: during the check by its own count, then as checked. */
  readonly total: number;
}

export interface CopyDatabaseOptions {
  readonly from: Endpoint;
  readonly to: Endpoint;
  /**
   * Whether the target may contain clients. A different client with the same id or key is refused.
   */
  readonly merge?: boolean;
  /** Whether to report the result without writing. */
  readonly dryRun?: boolean;
  readonly onProgress?: (progress: Progress) => void;
  /** Interrupts the copy. The same call continues it later. */
  readonly signal?: AbortSignal;
  /**
   * The last work of the migration, with both databases closed; not called in a dry run. If it
   * fails, the note stays: the same command compares the databases again, then repeats this work.
   *
   * @param inTarget - the clients of the target after the copy
   */
  readonly beforeEnd?: (migration: Migration, inTarget: ClientCounts) => Promise<void>;
}

export interface Migration {
  readonly from: { name: string; place: string };
  readonly to: { name: string; place: string };
  /** The clients of the source. */
  readonly clients: ClientCounts;
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

/**
 * Copies every client. Writes nothing before every record of the source has been checked. The
 * caller must hold the locks of `findStores`.
 *
 * @throws {@link StoreError} refused - if the target is not empty, if clients differ under the same
 *   id or key, if the target has active clients unknown to the source, if the counter of the target
 *   is wrong, if a client of the source is not valid, or if too many ids are unused
 * @throws {@link StoreError} corrupted - if two records of the source have the same id
 * @throws {@link StoreError} failed - if the comparison found a difference
 * @throws {@link StoreError} usage - if source and target are the same database
 * @throws {@link StoreError} interrupted - if `signal` is aborted, or its reason if that is a
 *   StoreError
 * @throws {@link StoreError} what `beforeEnd` throws
 */
export async function copyDatabase(options: CopyDatabaseOptions): Promise<Migration> {
  const { migration, inTarget, note } = await withSignal(options.signal, () =>
    copyAndCompare(options),
  );
  if (note === undefined) return migration;
  try {
    await options.beforeEnd?.(migration, inTarget);
  } catch (error) {
    if (!isKind(error, "io")) throw error;
    const line = "Every client is copied: remove the cause, then run the same command again.";
    throw addHint(error, line);
  }
  await note.remove();
  return migration;
}

interface Compared {
  readonly migration: Migration;
  /** The clients of the target, after the copy. */
  readonly inTarget: ClientCounts;
  /** The note, which the caller removes; undefined for a dry run. */
  readonly note: MigrationNote | undefined;
}

async function copyAndCompare(options: CopyDatabaseOptions): Promise<Compared> {
  const { from, to, merge = false, dryRun = false } = options;
  const source = { name: from.name, place: await resolveLocation(from.name, from.config) };
  const target = { name: to.name, place: await resolveLocation(to.name, to.config) };
  if (source.place === target.place && source.name === target.name) {
    throw new StoreError("usage", `${source.place} is source and target at the same time`);
  }
  const report = (phase: Progress["phase"], done: number, total: number) => {
    options.onProgress?.({ phase, done, total });
    throwIfAborted(options.signal);
  };
  await using origin = await DatabaseFactory.create(from.name, from.config, { mode: "readonly" });
  const interrupted = await MigrationNote.read(source, target);
  const checked = await checkSource(origin, {
    from: from.name,
    to,
    merge,
    note: interrupted,
    report: (done, total) => report("checking", done, total),
  });
  const { clients, gaps, others } = checked;
  const describe = (known: KnownClients, copied: number, filledGaps: number) => ({
    migration: {
      from: source,
      to: target,
      clients,
      copied,
      unchanged: known.unchanged,
      filledGaps,
      keptRevoked: known.keptRevoked,
      resumed: interrupted !== undefined,
      dryRun,
      verified: !dryRun,
    },
    inTarget: {
      active: clients.active - known.keptRevoked.length + others.active,
      revoked: clients.revoked + known.keptRevoked.length + others.revoked + filledGaps,
    },
  });
  if (dryRun) {
    return { ...describe(checked.known, checked.missing, gaps.size), note: undefined };
  }
  await using destination = await DatabaseFactory.create(to.name, to.config, { mode: "create" });
  const note = interrupted ?? (await MigrationNote.begin(source, target));
  const total = clients.active + clients.revoked;
  const copied = await copyMissing(origin, destination, {
    isEmpty: checked.targetIds.size === 0,
    report: (done) => report("copying", done, total),
  });
  const filled = await fillGaps(destination, gaps);
  await destination.commit();
  await compareWithTarget(origin, destination, {
    checked,
    copied,
    merge,
    report: (done) => report("comparing", done, total),
  });
  emitStep("migrate.compared");
  return { ...describe(copied.known, copied.count, filled), note };
}
