/** Imports clients from a file into a store: all of them or none. */
import { open } from "node:fs/promises";
import { Socket } from "node:net";
import { addAbortSignal, Readable } from "node:stream";
import { revokedApiKey } from "../client/client.js";
import { noSuchClient } from "../client/database.js";
import { findWidenings, type Widening } from "../client/permissions.js";
import { StoreError, systemError } from "../errors.js";
import { isPipe, openPipe } from "../fs/pipe.js";
import { statIfExists } from "../fs/read.js";
import { findHolders } from "../process/holders.js";
import { parseExactInteger } from "../store/client-row.js";
import type { ClientTable } from "../store/client-table.js";
import { readRowPages } from "../store/schema.js";
import { readCsv } from "./csv.js";
import type { ImportRow, RejectedRow } from "./import-row.js";
import { readJson } from "./json.js";
import { type ImportPlan, type Known, mergeChanges, planImport, type Update } from "./plan.js";
import { splitLines } from "./text.js";

export type Format = "csv" | "json";

/**
 * The maximum number of rows in a transaction while another process has the store open. Writing
 * these rows takes less than half a second; a hub waits five seconds for the lock.
 */
const sharedLimits = { added: 10_000, changed: 1_000 };

/** New rows between two checks of the abort signal. */
const rowsPerStep = 500;

/**
 * `readImport` passes the bytes read and the size of the file (0 if unknown), `applyImport` the
 * rows written and planned.
 */
export type Progress = (done: number, total: number) => void;

export interface ReadOptions {
  /** A path, or the bytes of the file. */
  readonly file: string | AsyncIterable<Uint8Array>;
  readonly progress?: Progress;
  readonly signal?: AbortSignal;
}

/** The contents of a file, read before the store is opened. */
export interface ImportFile {
  readonly format: Format;
  readonly rows: readonly (ImportRow | RejectedRow)[];
}

export interface ImportOptions {
  readonly store: ClientTable;
  /**
   * Whether to change clients with a known access key, and to revoke clients that are revoked in
   * the file.
   */
  readonly update?: boolean;
}

/** A client with more permissions after an import than before. */
export interface WidenedClient {
  readonly clientId: number;
  readonly name: string | null;
  readonly widenings: readonly Widening[];
}

export interface PreparedImport {
  readonly format: Format;
  /** The schema of the store, on which the plan depends. */
  readonly schemaVersion: number;
  readonly plan: ImportPlan;
  readonly widened: readonly WidenedClient[];
}

/**
 * Reads a file of clients, including rejected rows.
 *
 * @throws {@link StoreError} notFound - if the file does not exist or is a directory
 * @throws {@link StoreError} io - if the file cannot be read
 * @throws {@link StoreError} refused - if the file contains neither CSV nor JSON of clients
 * @throws {@link StoreError} interrupted - if the signal is aborted, also during a pause in the
 *   input
 */
export async function readImport(options: ReadOptions): Promise<ImportFile> {
  const { file, progress = () => {}, signal } = options;
  const total = typeof file === "string" ? await readInputSize(file) : 0;
  const bytes = typeof file === "string" ? await openInput(file) : file;
  if (signal && bytes instanceof Readable) addAbortSignal(signal, bytes);
  const lines = splitLines(bytes, (done) => {
    signal?.throwIfAborted();
    progress(done, total);
  });
  try {
    let number = 1;
    let next = await lines.next();
    for (; !next.done && next.value.trim() === ""; next = await lines.next()) number += 1;
    if (next.done) throw new StoreError("refused", "the file is empty");
    const first = { text: next.value, number };
    const format = /^\s*[[{]/.test(first.text) ? "json" : "csv";
    const rows: (ImportRow | RejectedRow)[] = [];
    const read = format === "json" ? readJson(lines, first) : readCsv(lines, first);
    for await (const row of read) rows.push(row);
    return { format, rows };
  } catch (error) {
    signal?.throwIfAborted();
    throw systemError(error, `cannot read ${typeof file === "string" ? file : "standard input"}`);
  } finally {
    await lines.return(undefined);
  }
}

/** Plans the import of a file. Writes nothing. The plan includes rejected rows. */
export async function prepareImport(
  { format, rows }: ImportFile,
  { store, update = false }: ImportOptions,
): Promise<PreparedImport> {
  const { schemaVersion } = store;
  const plan = planImport(rows, await readKnownClients(store), { update, schemaVersion });
  return { format, schemaVersion, plan, widened: await findWidened(plan, store) };
}

async function findWidened({ updated }: ImportPlan, store: ClientTable): Promise<WidenedClient[]> {
  const found: WidenedClient[] = [];
  for (const update of updated) {
    const before = await store.getClientById(update.id);
    if (before === undefined) continue;
    const widenings = findWidenings(before, { ...before, ...mergeChanges(before, update) });
    if (widenings.length > 0) found.push({ clientId: update.id, name: before.name, widenings });
  }
  return found;
}

/**
 * Opens the file or pipe. The stream closes it.
 *
 * A pipe is read as a socket, because a thread blocked in `read` would keep Node.js from ending.
 */
async function openInput(path: string): Promise<Readable> {
  try {
    if (await isPipe(path)) return new Socket({ fd: await openPipe(path), writable: false });
    return (await open(path)).createReadStream();
  } catch (error) {
    throw systemError(error, `cannot read ${path}`);
  }
}

async function readInputSize(path: string): Promise<number> {
  const stats = await statIfExists(path);
  if (!stats) throw new StoreError("notFound", `no such file or directory: ${path}`);
  if (stats.isDirectory()) throw new StoreError("notFound", `${path} is a directory`);
  return stats.size;
}

async function readKnownClients(store: ClientTable): Promise<Known> {
  const known = new Map<number, string>();
  const columns = "CAST(client_id AS TEXT) AS exact_id, CAST(api_key AS TEXT) AS api_key";
  for await (const page of readRowPages<{ exact_id: string; api_key: string }>(
    store.connection,
    columns,
  )) {
    for (const row of page) known.set(parseExactInteger(row.exact_id, "a client_id"), row.api_key);
  }
  return known;
}

/**
 * Applies an import in a single transaction. The caller must not pass a plan with rejected rows,
 * which this function does not check.
 *
 * @throws {@link StoreError} refused - if too many rows are to be written while another process has
 *   the store open
 * @throws {@link StoreError} inUse - if the store has changed since the import was prepared
 * @throws the reason of `signal` - if it is aborted; nothing is written then
 */
export async function applyImport(
  prepared: PreparedImport,
  options: Pick<ImportOptions, "store"> & Omit<ReadOptions, "file">,
): Promise<void> {
  const { plan } = prepared;
  const { store, progress = () => {}, signal } = options;
  await assertShortEnough(plan, store.connection.path);
  const total = plan.added.length + plan.updated.length + plan.revocations.length;
  let done = 0;
  await store.transaction(async () => {
    await assertUnchanged(prepared, store);
    while (done < plan.added.length) {
      signal?.throwIfAborted();
      done += await store.addItems(plan.added.slice(done, done + rowsPerStep));
      progress(done, total);
    }
    for (const update of plan.updated) {
      signal?.throwIfAborted();
      const before = await store.getClientById(update.id);
      if (before === undefined) throw noSuchClient(update.id);
      await store.updateClient(update.id, mergeChanges(before, update));
      progress(++done, total);
    }
    for (const id of plan.revocations) {
      await store.deleteItem(id);
      progress(++done, total);
    }
  });
}

/**
 * Throws if the transaction would block another process for too long.
 *
 * @throws {@link StoreError} refused - if it would
 */
async function assertShortEnough(plan: ImportPlan, storePath: string): Promise<void> {
  const changed = plan.updated.length + plan.revocations.length;
  if (plan.added.length <= sharedLimits.added && changed <= sharedLimits.changed) return;
  const { holders } = await findHolders(storePath);
  const [holder] = holders;
  if (holder === undefined) return;
  throw new StoreError(
    "refused",
    `${holder.command} (process ${holder.pid}) has the store open, and a large import would block it`,
    {
      hint: `Stop it first, or import in parts of at most ${sharedLimits.added} new and ${sharedLimits.changed} changed clients.`,
    },
  );
}

/**
 * Checks the assumptions of an import: the schema is the same, no client would gain a permission
 * without a confirmation, the new ids and access keys are still free, and the clients to change are
 * still active.
 *
 * @throws {@link StoreError} inUse - if not
 */
async function assertUnchanged(
  { schemaVersion, plan, widened }: PreparedImport,
  store: ClientTable,
): Promise<void> {
  const known = new Set(widened.map(widenedKey));
  const found = await findWidened(plan, store);
  if (
    store.schemaVersion === schemaVersion &&
    found.every((client) => known.has(widenedKey(client))) &&
    (await isApplicable(plan, store))
  ) {
    return;
  }
  throw new StoreError("inUse", "the store has changed since the import was prepared", {
    hint: "Run the command again; nothing was imported.",
  });
}

/** Returns a text of the client and each permission that it gains, with its value. */
function widenedKey({ clientId, widenings }: WidenedClient): string {
  return JSON.stringify([clientId, widenings]);
}

/** Returns whether new ids and access keys are free, and clients to change are active. */
async function isApplicable(plan: ImportPlan, store: ClientTable): Promise<boolean> {
  const changed = [...plan.updated.map(({ id }: Update) => id), ...plan.revocations];
  const [row] = await store.connection.all<{ clashes: number; present: number }>(
    `SELECT
      (SELECT count(*) FROM clients WHERE client_id IN (SELECT value FROM json_each(?1))) +
      (SELECT count(*) FROM clients WHERE api_key <> ?2 AND api_key IN (SELECT value FROM json_each(?3))) AS clashes,
      (SELECT count(*) FROM clients WHERE api_key <> ?2 AND client_id IN (SELECT value FROM json_each(?4))) AS present`,
    [
      JSON.stringify(plan.added.map((client) => client.client_id)),
      revokedApiKey,
      JSON.stringify(plan.added.map((client) => client.api_key)),
      JSON.stringify(changed),
    ],
  );
  return row?.clashes === 0 && row.present === changed.length;
}
