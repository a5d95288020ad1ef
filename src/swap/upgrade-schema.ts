/**
 * `upgrade-schema`: migrates the store to schema 2 as the manual describes it, in place and in a
 * transaction.
 *
 * A hub without support for schema 2 enforces only the old columns, so it would ignore all
 * blacklists of a migrated store. Therefore the hub's interpreter is asked first.
 */
import { StoreError } from "../errors.js";
import { hubSchema } from "../hub/schema.js";
import { unlock } from "../keys/unlock.js";
import type { Restart } from "../operation/downtime.js";
import { Journal } from "../operation/journal.js";
import { recoverStop, withRecovery } from "../operation/recovery.js";
import {
  assertNoHolders,
  type ResolvedService,
  resolveService,
  type ServiceReport,
} from "../operation/service.js";
import { emitStep } from "../operation/step.js";
import { reportService, withServiceStopped } from "../operation/window.js";
import { throwIfAborted } from "../process/abort.js";
import { identify, openDatabase, type Secret } from "../store/cipher.js";
import {
  migrateSchema,
  newestSchema,
  pagesOfRows,
  readList,
  readObject,
  readSchema,
} from "../store/schema.js";
import type { OperationOptions } from "./options.js";

export interface UpgradeSchemaOptions extends Omit<OperationOptions, "hub"> {
  /** The hub's Python. Default: from the unit's command, or else from PATH. */
  readonly hubPython?: string | undefined;
}

/** A value of a client without a representation in schema 2. */
export interface Dropped {
  readonly clientId: string;
  readonly name: string | null;
  readonly what: string;
}

export interface UpgradeSchemaResult {
  readonly upgraded: {
    readonly path: string;
    readonly from: number;
    readonly to: number;
    readonly dropped: Dropped[];
    /** The answer of the hub's interpreter; null if no hub was found. */
    readonly hub: {
      readonly pluginManager: string | null;
      readonly schemaVersion: number;
    } | null;
  };
  readonly service: ServiceReport;
}

/** How many clients with losses the question names. */
const namedLosses = 10;
/** Time limit of the transaction: 60 s. */
const windowBudgetMs = 60_000;

/**
 * Migrates the store, after a question about the lost values.
 *
 * @throws {@link StoreError} refused - if the hub does not know schema 2, or the user declines
 * @throws {@link StoreError} - what `unlock` and `resolveService` throw
 */
export async function upgradeSchema(options: UpgradeSchemaOptions): Promise<UpgradeSchemaResult> {
  const { lock, reporter } = options;
  const { storePath } = lock;
  const secret = await secretOf(options);
  const { from, dropped } = await inspectStore(storePath, secret);
  const service = await resolveService(options.service, reporter);
  if (from >= newestSchema) {
    return {
      upgraded: { path: storePath, from, to: from, dropped: [], hub: null },
      service: await reportService(service, undefined, reporter),
    };
  }
  const hub = await askHubSchema(service, options.hubPython);
  if (hub === null) {
    await reporter.confirm(
      `No hub was found on this machine. A hub that does not know schema ${newestSchema} would ignore all blacklists. Upgrade the store?`,
    );
  }
  if (dropped.length > 0) await reporter.confirm(question(dropped));
  const restart = await migrate(options, service, secret);
  return {
    upgraded: { path: storePath, from, to: newestSchema, dropped, hub },
    service: await reportService(service, restart, reporter),
  };
}

/** Returns the store's key; undefined for a plaintext store, which is migrated, too. */
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
  const { version, columns } = await readSchema(connection);
  const dropped: Dropped[] = [];
  if (version >= newestSchema) return { from: version, dropped };
  const wanted = ["intent_blacklist", "skill_blacklist", "message_blacklist", "metadata"] as const;
  const select = wanted.map((name) => (columns.has(name) ? name : `NULL AS ${name}`)).join(", ");
  type Row = { exact_id: string; name: string | null } & Record<(typeof wanted)[number], unknown>;
  const sources = `CAST(client_id AS TEXT) AS exact_id, name, ${select}`;
  for await (const page of pagesOfRows<Row>(connection, sources)) {
    for (const row of page) {
      for (const what of lossesOf(row)) {
        dropped.push({ clientId: row.exact_id, name: row.name, what });
      }
    }
  }
  return { from: version, dropped };
}

/** Returns the values of a row without a representation in schema 2. */
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
    .slice(0, namedLosses)
    .map(({ clientId, name, what }) => `  ${clientId}${name ? ` (${name})` : ""}: ${what}`);
  const more = dropped.length > namedLosses ? [`  and ${dropped.length - namedLosses} more`] : [];
  return [
    `Schema ${newestSchema} cannot represent these values, which would be lost:`,
    ...lines,
    ...more,
    "Upgrade the store?",
  ].join("\n");
}

/** @throws {@link StoreError} refused - if the hub does not know schema 2 */
async function askHubSchema(
  service: ResolvedService,
  hubPython: string | undefined,
): Promise<UpgradeSchemaResult["upgraded"]["hub"]> {
  const hub = await hubSchema(service, hubPython);
  if (hub === undefined) return null;
  const { pluginManager, schemaVersion, objection } = hub;
  if (objection !== undefined) {
    throw new StoreError("refused", objection, {
      hint: "Update the hub first, or name its Python with --hub-python PATH.",
    });
  }
  return { pluginManager, schemaVersion };
}

/** @returns how the service was started again; undefined if it was not stopped */
async function migrate(
  { lock, recoveryCommand, signal, reporter }: UpgradeSchemaOptions,
  service: ResolvedService,
  secret: Secret,
): Promise<Restart | undefined> {
  const { storePath } = lock;
  throwIfAborted(signal);
  const journal = await Journal.begin(storePath, "upgrade-schema", "stopping", {});
  const { restart } = await withServiceStopped(
    {
      service,
      budgetMs: windowBudgetMs,
      recoveryCommand,
      reporter,
      signal,
      journalStop: async (stopped) => {
        if (stopped) await journal.write("stopping", { stopped });
        emitStep("upgrade-schema.stopping");
      },
      recover: async (failed) => {
        const recovery = await recoverStop(journal, storePath, failed);
        const isMigrated = failed.downtime?.startFailure === failed.failure;
        const outcome = isMigrated ? `has schema ${newestSchema} now` : "was not upgraded";
        return withRecovery(failed.failure, recovery, `${storePath} ${outcome}`);
      },
    },
    async () => {
      await assertNoHolders(storePath);
      emitStep("upgrade-schema.stopped");
      await using connection = await openDatabase(storePath, secret);
      await migrateSchema(connection);
      emitStep("upgrade-schema.migrated");
    },
  );
  emitStep("upgrade-schema.started");
  await journal.remove();
  return restart;
}
