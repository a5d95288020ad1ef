/**
 * `upgrade-schema`: migrates the store to schema 2, in place and in a transaction.
 *
 * A hub without support for schema 2 enforces only the old columns, so it would ignore all
 * blacklists of a migrated store. Therefore the hub's interpreter is queried first.
 */
import { StoreError } from "../errors.js";
import { probeHubSchema } from "../hub/schema.js";
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
import type { Connection } from "../store/connection.js";
import {
  holdsList,
  holdsObject,
  migrateSchema,
  newestSchema,
  readList,
  readObject,
  readRowPages,
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

/** The maximum number of losses that the question lists. */
const namedLosses = 10;
/** Time limit of the transaction: 60 s. */
const windowBudgetMs = 60_000;

/**
 * Migrates the store, after a question about the lost values.
 *
 * @throws {@link StoreError} refused - if the hub does not know schema 2, the user declines, or the
 *   question did not cover a lost value
 * @throws {@link StoreError} - what `unlock` and `resolveService` throw
 */
export async function upgradeSchema(options: UpgradeSchemaOptions): Promise<UpgradeSchemaResult> {
  const { lock, reporter } = options;
  const { storePath } = lock;
  const secret = await resolveSecret(options);
  const { from, dropped: confirmed } = await inspectStore(storePath, secret);
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
  if (confirmed.length > 0) await reporter.confirm(buildQuestion(confirmed));
  const { dropped, restart } = await migrate(options, service, secret, confirmed);
  return {
    upgraded: { path: storePath, from, to: newestSchema, dropped, hub },
    service: await reportService(service, restart, reporter),
  };
}

/** Returns the store's key; undefined for a plaintext store, which is migrated, too. */
async function resolveSecret({ lock, source }: UpgradeSchemaOptions): Promise<Secret> {
  const { format } = await identify(lock.storePath);
  if (format === "plaintext") return undefined;
  const { connection, key } = await unlock(lock.storePath, source, { mode: "readwrite" });
  await connection.close();
  return key;
}

interface Inspected {
  readonly from: number;
  readonly dropped: Dropped[];
}

async function inspectStore(path: string, secret: Secret): Promise<Inspected> {
  await using connection = await openDatabase(path, secret);
  return await inspect(connection);
}

async function inspect(connection: Connection): Promise<Inspected> {
  const { version, columns } = await readSchema(connection);
  const dropped: Dropped[] = [];
  if (version >= newestSchema) return { from: version, dropped };
  const wanted = ["intent_blacklist", "skill_blacklist", "message_blacklist", "metadata"] as const;
  const select = wanted.map((name) => (columns.has(name) ? name : `NULL AS ${name}`)).join(", ");
  type Row = { exact_id: string; name: string | null } & Record<(typeof wanted)[number], unknown>;
  const sources = `CAST(client_id AS TEXT) AS exact_id, name, ${select}`;
  for await (const page of readRowPages<Row>(connection, sources)) {
    for (const row of page) {
      for (const what of findLosses(row)) {
        dropped.push({ clientId: row.exact_id, name: row.name, what });
      }
    }
  }
  return { from: version, dropped };
}

/**
 * Returns the values of a row without a representation in schema 2. The migration reads a column
 * with another value than a list as empty, but HiveMind 4 enforces some of these values.
 */
function findLosses(row: Readonly<Record<string, unknown>>): string[] {
  const metadata = readObject(row.metadata);
  const losses: string[] = [];
  if (!isEmptyList(row.message_blacklist) || Object.hasOwn(metadata, "message_blacklist"))
    losses.push("its message blacklist");
  for (const kind of ["intent", "skill"]) {
    const key = `${kind}_blacklist`;
    if (!holdsList(row[key])) {
      losses.push(`the ${kind} blacklist in its column: it is not a list`);
    } else if (!isEmptyList(row[key]) && Object.hasOwn(metadata, key)) {
      losses.push(`the ${kind} blacklist in its column: metadata has another`);
    }
  }
  if (!holdsObject(row.metadata)) losses.push("its metadata: it is not an object");
  return losses;
}

/** Returns whether a column contains an empty list, or what every hub reads as one. */
function isEmptyList(column: unknown): boolean {
  return holdsList(column) && readList(column).length === 0;
}

function buildQuestion(dropped: readonly Dropped[]): string {
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
  const hub = await probeHubSchema(service, hubPython);
  if (hub === undefined) return null;
  const { pluginManager, schemaVersion, objection } = hub;
  if (objection !== undefined) {
    throw new StoreError("refused", objection, {
      hint: "Update the hub first, or name its Python with --hub-python PATH.",
    });
  }
  return { pluginManager, schemaVersion };
}

/**
 * Checks that the user has confirmed all losses: the hub was running during the question.
 *
 * @throws {@link StoreError} refused - if the question did not cover one of the losses
 */
function assertConfirmed(found: readonly Dropped[], confirmed: readonly Dropped[]): void {
  const describeLoss = ({ clientId, what }: Dropped) => `${clientId}: ${what}`;
  const known = new Set(confirmed.map(describeLoss));
  const added = found.filter((loss) => !known.has(describeLoss(loss)));
  if (added.length === 0) return;
  throw new StoreError(
    "refused",
    `the store has changed since the question, which did not cover these losses: ${added.slice(0, namedLosses).map(describeLoss).join(", ")}`,
    { hint: "Nothing was changed. Run upgrade-schema again, and read the question once more." },
  );
}

interface Migrated {
  readonly dropped: Dropped[];
  /** How the service was started again; undefined if it was not stopped. */
  readonly restart: Restart | undefined;
}

async function migrate(
  { lock, recoveryCommand, signal, reporter }: UpgradeSchemaOptions,
  service: ResolvedService,
  secret: Secret,
  confirmed: readonly Dropped[],
): Promise<Migrated> {
  const { storePath } = lock;
  throwIfAborted(signal);
  const journal = await Journal.begin(storePath, "upgrade-schema", "stopping", {});
  const { result: dropped, restart } = await withServiceStopped(
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
      const { dropped: found } = await inspect(connection);
      assertConfirmed(found, confirmed);
      await migrateSchema(connection);
      emitStep("upgrade-schema.migrated");
      return found;
    },
  );
  emitStep("upgrade-schema.started");
  await journal.remove();
  return { dropped, restart };
}
