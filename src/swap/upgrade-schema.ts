/**
 * `upgrade-schema`: migrates the store to schema 2, in place and in a transaction.
 *
 * The migration empties the columns of the blacklists. A hub without support for schema 2 reads
 * only these columns, and would then enforce no blacklist, so its interpreter is queried first.
 */
import { type JsonObject, sameJson } from "../client/json.js";
import { StoreError } from "../errors.js";
import { probeHubSchema } from "../hub/schema.js";
import { unlockSecret } from "../keys/unlock.js";
import type { Restart } from "../operation/downtime.js";
import { Journal } from "../operation/journal.js";
import { recoverStop, withRecovery } from "../operation/recovery-parts.js";
import {
  assertNoHolders,
  type ResolvedService,
  resolveService,
  type ServiceReport,
} from "../operation/service.js";
import { emitStep } from "../operation/step.js";
import { baseBudgetMs, reportService, withServiceStopped } from "../operation/window.js";
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
export interface Loss {
  readonly clientId: string;
  readonly name: string | null;
  readonly what: string;
}

export interface UpgradeSchemaResult {
  readonly upgraded: {
    readonly path: string;
    readonly from: number;
    readonly to: number;
    readonly dropped: Loss[];
    /**
     * The result of the query of the hub's interpreter; null if its Python was not found, or was
     * not queried because the store already has the newest schema.
     */
    readonly hub: {
      readonly pluginManager: string | null;
      readonly schemaVersion: number;
    } | null;
  };
  readonly service: ServiceReport;
}

/** The maximum number of losses in the question and in an error. */
const maxListedLosses = 10;

/**
 * Migrates the store, after a question about the lost values.
 *
 * @throws {@link StoreError} refused - if the hub does not know schema 2, the user declines, or a
 *   value would be lost without having been in the question
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
      service: {
        ...(await reportService(service, undefined, reporter)),
        active: service.wasActive,
      },
    };
  }
  const hub = await askHubSchema(service, options.hubPython);
  if (hub === null) {
    await reporter.confirm(
      `The hub's Python was not found (--hub-python names it), so it is unknown whether the hub knows schema ${newestSchema}. A hub that does not would ignore all blacklists. Upgrade the store?`,
    );
  }
  if (confirmed.length > 0) await reporter.confirm(buildQuestion(confirmed));
  const { dropped, restart } = await upgradeInPlace(options, service, secret, confirmed);
  return {
    upgraded: { path: storePath, from, to: newestSchema, dropped, hub },
    service: await reportService(service, restart, reporter),
  };
}

/** Returns the store's key; undefined for a plaintext store, which is migrated, too. */
async function resolveSecret({ lock, source }: UpgradeSchemaOptions): Promise<Secret> {
  const { format } = await identify(lock.storePath);
  if (format === "plaintext") return undefined;
  return (await unlockSecret(lock.storePath, source)).key;
}

interface Inspected {
  readonly from: number;
  readonly dropped: Loss[];
}

async function inspectStore(path: string, secret: Secret): Promise<Inspected> {
  await using connection = await openDatabase(path, secret);
  return await inspect(connection);
}

async function inspect(connection: Connection): Promise<Inspected> {
  const { version, columns } = await readSchema(connection);
  const dropped: Loss[] = [];
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
 * Returns the values of a row without a representation in schema 2. The migration treats any other
 * value than a list as an empty list. HiveMind 4 enforces some such values: it reads an object as
 * the list of its keys.
 */
function findLosses(row: Readonly<Record<string, unknown>>): string[] {
  const metadata = readObject(row.metadata);
  const losses: string[] = [];
  const hasMessages = hasOther(metadata, "message_blacklist", null);
  if (!isEmptyList(row.message_blacklist) || hasMessages) losses.push("its message blacklist");
  for (const kind of ["intent", "skill"]) {
    const key = `${kind}_blacklist`;
    if (!holdsList(row[key])) {
      losses.push(`its ${kind} blacklist (column ${key}): not a list`);
    } else if (!isEmptyList(row[key]) && hasOther(metadata, key, row[key])) {
      losses.push(`its ${kind} blacklist (column ${key}): metadata has another, which is kept`);
    }
  }
  if (!holdsObject(row.metadata)) losses.push("its metadata: not an object");
  return losses;
}

/** Returns whether metadata has a value for the key other than the list in the column. */
function hasOther(metadata: JsonObject, key: string, column: unknown): boolean {
  const kept = metadata[key];
  return kept !== undefined && !sameJson(kept, [...readList(column)]);
}

/** Returns whether a column contains an empty list, or a value that every hub reads as one. */
function isEmptyList(column: unknown): boolean {
  return holdsList(column) && readList(column).length === 0;
}

function buildQuestion(dropped: readonly Loss[]): string {
  const lines = dropped
    .slice(0, maxListedLosses)
    .map(({ clientId, name, what }) => `  ${clientId}${name ? ` (${name})` : ""}: ${what}`);
  return [
    `Schema ${newestSchema} cannot represent these values, which would be lost:`,
    ...lines,
    ...andMore(dropped).map((line) => `  ${line}`),
    "Upgrade the store?",
  ].join("\n");
}

/** Returns the number of losses omitted from a list, as text; nothing if none is omitted. */
function andMore(losses: readonly Loss[]): string[] {
  return losses.length > maxListedLosses ? [`and ${losses.length - maxListedLosses} more`] : [];
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
 * Checks the losses against the confirmed losses: since the question, a running hub may have
 * changed clients.
 *
 * @throws {@link StoreError} refused - if the question did not name one of the losses
 */
function assertConfirmed(found: readonly Loss[], confirmed: readonly Loss[]): void {
  const describeLoss = ({ clientId, what }: Loss) => `client ${clientId}: ${what}`;
  const known = new Set(confirmed.map(describeLoss));
  const added = found.filter((loss) => !known.has(describeLoss(loss)));
  if (added.length === 0) return;
  const listed = [...added.slice(0, maxListedLosses).map(describeLoss), ...andMore(added)];
  throw new StoreError(
    "refused",
    `the store changed while its service was running, and these values would be lost without a confirmation: ${listed.join(", ")}`,
    { hint: "Nothing was changed. Run upgrade-schema again, which asks about them, too." },
  );
}

interface Migrated {
  readonly dropped: Loss[];
  /** How the service was started again; undefined if it was not stopped. */
  readonly restart: Restart | undefined;
}

async function upgradeInPlace(
  { lock, recoveryCommand, signal, reporter }: UpgradeSchemaOptions,
  service: ResolvedService,
  secret: Secret,
  confirmed: readonly Loss[],
): Promise<Migrated> {
  const { storePath } = lock;
  throwIfAborted(signal);
  const journal = await Journal.begin(storePath, "upgrade-schema", "stopping", {});
  let isMigrated = false;
  const { result: dropped, restart } = await withServiceStopped(
    {
      service,
      budgetMs: baseBudgetMs,
      recoveryCommand,
      reporter,
      signal,
      journalStop: async (stopped) => {
        if (stopped) await journal.write("stopping", { stopped });
        emitStep("upgrade-schema.stopping");
      },
      recover: async (failed) => {
        const recovery = await recoverStop(journal, storePath, failed);
        const outcome = isMigrated ? `has schema ${newestSchema} now` : "was not upgraded";
        return withRecovery(failed.failure, recovery, `${storePath} ${outcome}`);
      },
    },
    async () => {
      await assertNoHolders(storePath);
      emitStep("upgrade-schema.stopped");
      await using connection = await openDatabase(storePath, secret);
      // One transaction, so that no other command adds a loss between the check and the migration.
      const losses = await connection.transaction(async () => {
        const { dropped: found } = await inspect(connection);
        assertConfirmed(found, confirmed);
        await migrateSchema(connection);
        return found;
      });
      isMigrated = true;
      emitStep("upgrade-schema.migrated");
      return losses;
    },
  );
  emitStep("upgrade-schema.started");
  await journal.remove();
  return { dropped, restart };
}
