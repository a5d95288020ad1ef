/**
 * `upgrade-schema`: the manual's migration to schema 2, in place, in one transaction, and never as a side effect.
 *
 *   upgradeSchema(options: UpgradeSchemaOptions): Promise<UpgradeSchemaResult>
 *
 * A hub that does not know schema 2 enforces the legacy columns alone: under it a migrated store's blacklists are
 * switched off. So its interpreter is asked first.
 */
import { StoreError, systemError } from "../errors.js";
import { hubSchema } from "../hub/schema.js";
import { unlock } from "../keys/unlock.js";
import {
  assertNoHolders,
  Downtime,
  endDowntime,
  type ResolvedService,
  resolveService,
  type ServiceReport,
  stoppedSchema,
} from "../operation/downtime.js";
import { downStep, Journal } from "../operation/journal.js";
import { type Recovery, serviceDownError } from "../operation/recovery.js";
import { emitStep } from "../operation/step.js";
import { throwIfAborted } from "../process/abort.js";
import * as z from "../schema.js";
import { identify, openDatabase, type Secret } from "../store/cipher.js";
import {
  checkSchema,
  migrateSchema,
  newestSchema,
  pagesOfRows,
  readList,
  readObject,
} from "../store/schema.js";
import type { OperationOptions } from "./options.js";

export interface UpgradeSchemaOptions extends Omit<OperationOptions, "hub"> {
  /** The Python that runs the hub; without it the unit's command, then PATH, tell. */
  readonly hubPython?: string | undefined;
}

/** Something in the store that schema 2 has no place for. */
export interface Dropped {
  readonly client_id: string;
  readonly name: string | null;
  readonly what: string;
}

export interface UpgradeSchemaResult {
  readonly upgraded: {
    readonly path: string;
    readonly from: number;
    readonly to: number;
    readonly dropped: Dropped[];
    /** What the hub's interpreter said; null if no hub could be asked. */
    readonly hub: {
      readonly plugin_manager: string | null;
      readonly schema_version: number;
    } | null;
  };
  readonly service: ServiceReport;
}

/** How many of those that lose something are named in the question. */
const named = 10;
/** What the dead-man timer allows for the transaction, beyond the stop itself: 60 s. */
const windowBudgetMs = 60_000;

const journalSchema = z.strictObject({ stopped: z.optional(stoppedSchema) });

/**
 * Migrates the store, after saying what it would lose.
 *
 * @throws StoreError `refused` while the hub's installed plugin-manager knows no schema 2, or if the answer is no; what
 *   `unlock` and `knowService` throw.
 */
export async function upgradeSchema(options: UpgradeSchemaOptions): Promise<UpgradeSchemaResult> {
  const { lock, reporter } = options;
  const { storePath } = lock;
  const secret = await secretOf(options);
  const { from, dropped } = await inspectStore(storePath, secret);
  const service = await resolveService(options.service, reporter);
  const report = {
    unit: service.service.name,
    was_active: service.wasActive,
    active: service.wasActive,
  };
  if (from >= newestSchema) {
    return {
      upgraded: { path: storePath, from, to: from, dropped: [], hub: null },
      service: { ...report, stopped_ms: null },
    };
  }
  const hub = await askHubSchema(service, options.hubPython);
  if (hub === null) {
    await reporter.confirm(
      `No hub was found here that could be asked whether it knows schema ${newestSchema}. Under one that does not, every blacklist is switched off. Upgrade all the same?`,
    );
  }
  if (dropped.length > 0) await reporter.confirm(question(dropped));
  const stoppedMs = await migrate(options, service, secret);
  return {
    upgraded: { path: storePath, from, to: newestSchema, dropped, hub },
    service: { ...report, stopped_ms: stoppedMs },
  };
}

/** The store's key; nothing for one that is not encrypted, which can be migrated as well. */
async function secretOf({ lock, source }: UpgradeSchemaOptions): Promise<Secret> {
  const { format } = await identify(lock.storePath);
  if (format === "plaintext") return undefined;
  const { connection, key } = await unlock(lock.storePath, source, { mode: "readwrite" });
  await connection.close();
  return key;
}

async function inspectStore(
  path: string,
  secret: Secret,
): Promise<{ from: number; dropped: Dropped[] }> {
  await using connection = await openDatabase(path, secret);
  const { version, columns } = await checkSchema(connection);
  const dropped: Dropped[] = [];
  if (version >= newestSchema) return { from: version, dropped };
  const wanted = ["intent_blacklist", "skill_blacklist", "message_blacklist", "metadata"] as const;
  const select = wanted.map((name) => (columns.has(name) ? name : `NULL AS ${name}`)).join(", ");
  type Row = { exact_id: string; name: string | null } & Record<(typeof wanted)[number], unknown>;
  const sources = `CAST(client_id AS TEXT) AS exact_id, name, ${select}`;
  for await (const page of pagesOfRows<Row>(connection, sources)) {
    for (const row of page) {
      for (const what of lossesOf(row)) {
        dropped.push({ client_id: row.exact_id, name: row.name, what });
      }
    }
  }
  return { from: version, dropped };
}

/** What of a row has no place in schema 2. */
function lossesOf(row: Readonly<Record<string, unknown>>): string[] {
  const metadata = readObject(row.metadata);
  const losses: string[] = [];
  const messages = readList(row.message_blacklist).length > 0;
  if (messages || Object.hasOwn(metadata, "message_blacklist"))
    losses.push("its message blacklist");
  for (const kind of ["intent", "skill"]) {
    const key = `${kind}_blacklist`;
    if (readList(row[key]).length > 0 && Object.hasOwn(metadata, key)) {
      losses.push(`the ${kind} blacklist in its column: metadata has another`);
    }
  }
  return losses;
}

function question(dropped: readonly Dropped[]): string {
  const lines = dropped
    .slice(0, named)
    .map(({ client_id: id, name, what }) => `  ${id}${name ? ` (${name})` : ""}: ${what}`);
  const more = dropped.length > named ? [`  and ${dropped.length - named} more`] : [];
  return [
    `Schema ${newestSchema} has no place for what these clients have, and it would be gone for good:`,
    ...lines,
    ...more,
    "Upgrade?",
  ].join("\n");
}

/** @throws StoreError `refused` if the hub that is installed knows no schema 2. */
async function askHubSchema(
  service: ResolvedService,
  hubPython: string | undefined,
): Promise<UpgradeSchemaResult["upgraded"]["hub"]> {
  const hub = await hubSchema(service, hubPython);
  if (hub === undefined) return null;
  const { pluginManager, schemaVersion, objection } = hub;
  if (objection !== undefined) {
    throw new StoreError("refused", objection, {
      hint: "update the hub first, or name its Python: --hub-python PATH",
    });
  }
  return { plugin_manager: pluginManager, schema_version: schemaVersion };
}

/** @returns how long the service was away; null if it was not stopped. */
async function migrate(
  { lock, recoveryCommand, signal, reporter }: UpgradeSchemaOptions,
  known: ResolvedService,
  secret: Secret,
): Promise<number | null> {
  const { storePath } = lock;
  throwIfAborted(signal);
  const downtime = known.wasActive ? await Downtime.of(known) : undefined;
  const journal = await Journal.begin(storePath, "upgrade-schema", "stopping", {
    ...(downtime && { stopped: downtime.stopped }),
  });
  emitStep("upgrade-schema.stopping");
  let failure: unknown;
  try {
    if (downtime) {
      await downtime.arm(windowBudgetMs, recoveryCommand);
      reporter.detail(`stopping ${known.service.name ?? "the service"}`);
      await downtime.stop();
    }
    await assertNoHolders(storePath);
    emitStep("upgrade-schema.stopped");
    await using connection = await openDatabase(storePath, secret);
    await migrateSchema(connection);
    emitStep("upgrade-schema.migrated");
  } catch (error) {
    failure = error;
  }
  let stoppedMs: number | null = null;
  if (downtime) {
    const started = await downtime.start().catch((error: unknown) => {
      const { kind, message, hint } = systemError(error, "it could not be started", "service");
      const outcome = failure
        ? `was not upgraded (${systemError(failure, "unexpected").message})`
        : `has schema ${newestSchema} now`;
      throw new StoreError(kind, `${message}; ${storePath} ${outcome}`, {
        hint,
        cause: error,
      });
    });
    await downtime.disarm();
    stoppedMs = downtime.durationMs(started);
  }
  emitStep("upgrade-schema.started");
  await journal.remove();
  if (failure) throw systemError(failure, `cannot upgrade ${storePath}`);
  return stoppedMs;
}

/** The transaction is there, or it is not: only the service has to be started. */
export async function recoverSchemaUpgrade(journal: Journal, storePath: string): Promise<Recovery> {
  const { stopped } = journal.dataAs(journalSchema);
  let started: string | undefined;
  try {
    if (stopped) started = await endDowntime(stopped, storePath);
  } catch (error) {
    await journal.write(downStep, journal.entry.data).catch(() => undefined);
    return { messages: [], serviceDown: serviceDownError(journal, error) };
  }
  await journal.remove();
  return {
    messages: started ? [`started ${started}, which an interrupted upgrade had stopped`] : [],
  };
}
