/**
 * `setup`: from a hub as it was installed to one on an encrypted store with backups.
 *
 * The order lets the hub start on a complete database at every instant. First the record says that
 * a setup is in progress; then the drop-in starts the hub through `run`, which passes nothing on
 * until `server.json` and the store are ready. So a kill or a power failure leaves nothing to undo:
 * the same command goes on. The store is created or converted by the operations that have journals
 * of their own; the plain copy goes last, after a backup was verified with its bundle.
 */
import { chmod } from "node:fs/promises";
import { dirname } from "node:path";
import { backup } from "../backup/backup.js";
import { recordRestoreTest } from "../backup/restore-test.js";
import { verifyBackup } from "../backup/verify.js";
import { readBundle } from "../bundle/bundle.js";
import { planRecipients, type RecoveryKeyDelivery } from "../bundle/recipients.js";
import { isRevoked } from "../client/client.js";
import { prepareDirectories } from "../config/known-directories.js";
import { loadSection, type Settings, saveSection } from "../config/settings.js";
import { DatabaseFactory } from "../databases/registry.js";
import { sqlcipherPluginName } from "../databases/sqlite.js";
import { isKind, StoreError, wrap } from "../errors.js";
import { assertReplaceable, makeDirectory, removeFile, syncDirectory } from "../fs/atomic.js";
import { sidecars } from "../fs/sidecars.js";
import { databaseIn, readServerJson } from "../hub/server-json.js";
import {
  formerDatabase,
  restoreDatabase,
  setPassword,
  switchModule,
} from "../hub/server-json-edit.js";
import { formatSource } from "../keys/source.js";
import { unlock, unlockStore } from "../keys/unlock.js";
import { type Endpoint, listIds, migrate } from "../migrate/migrate.js";
import {
  assertNoOtherPassword,
  assertUnchanged,
  checksumSource,
  hubDatabase,
} from "../migrate/switch.js";
import { acquireLock, type OperationLock } from "../operation/lock.js";
import { withRecovery } from "../operation/recovery.js";
import { emitStep } from "../operation/step.js";
import { throwIfAborted } from "../process/abort.js";
import { run } from "../process/run.js";
import { withOperation } from "../recovery/recover.js";
import type { Reporter } from "../reporter.js";
import { installSchedule, type Schedule } from "../service/schedule.js";
import { type ServiceChoice, selectService } from "../service/select.js";
import type { ClientStore } from "../store/client-store.js";
import { encrypt } from "../swap/encrypt.js";
import type { BundleOptions } from "../swap/options.js";
import { shellQuote } from "../text/escape.js";
import { adopt } from "./adopt.js";
import { installDropIn } from "./drop-in.js";
import { type HubSurvey, isHubServing, isStartedByRun } from "./hub-survey.js";
import { initStore } from "./init.js";
import { decryptForFailedHub } from "./plain-store.js";
import { formerKind, type Plan, pipArguments, pipLine, type StepId } from "./plan.js";
import {
  assertNotNamed,
  isHandedOver,
  type SetupRecord,
  setupRecordPath,
  writeSetupRecord,
} from "./record.js";
import { type Outage, outageOf, waitUntilServing } from "./serving.js";
import {
  type DatabaseSurvey,
  type SetupChoice,
  type Survey,
  scheduleTimes,
  surveyPackages,
} from "./survey.js";
import { whileStopped } from "./window.js";

export interface SetupRequest extends SetupChoice {
  readonly onlineBackups: boolean;
  /** age recipients that the user named. */
  readonly recipients: readonly string[];
  readonly recoveryKey: RecoveryKeyDelivery;
  readonly recoveryKeyFile: string | undefined;
  /** Reads the recovery key of this setup from its file, if it has one. */
  readonly readRecoveryKey: () => Promise<string | undefined>;
  /** Returns the command line of this program for the store, with the settings file. */
  readonly ownCommand: (...args: string[]) => string[];
  readonly recoveryCommand: readonly string[];
  readonly reporter: Reporter;
  readonly signal: AbortSignal;
}

export interface SetupResult {
  readonly changed: boolean;
  readonly unit: string;
  readonly store: string;
  readonly formerDatabase: string;
  readonly settings: string;
  readonly backup: {
    readonly path: string;
    readonly bundle: string;
    readonly tested: boolean;
  } | null;
  /** How long the hub was away; null if it was not restarted. */
  readonly outage: Outage | null;
  readonly schedule: string | null;
  /** The plain copy that was kept, because it changed since it was copied. */
  readonly plainCopy: string | null;
}

/** How long pip may take to download and build the hub's packages on a small board. */
const pipLimitMs = 30 * 60_000;

/**
 * Does the steps of a plan that are needed.
 *
 * @throws {@link StoreError} of every kind; the hub then runs, and the same command goes on
 */
export async function setUp(
  request: SetupRequest,
  found: Survey,
  plan: Plan,
): Promise<SetupResult> {
  const { storePath, settingsPath } = request;
  const needed = new Set(plan.steps.filter(({ state }) => state === "needed").map(({ id }) => id));
  const [hub] = found.hubs;
  const { database } = found;
  if (hub === undefined || database === undefined) throw new Error("the plan has no obstacle");
  await makeDirectory(dirname(settingsPath));
  await using _ = await acquireLock(setupRecordPath(settingsPath, storePath));
  const once = { ...request, reporter: withoutRepetition(request.reporter, plan.notices) };
  return new Setup(once, found, hub, database, needed).run();
}

/** A plain store is readable for other users on most machines; the encrypted one need not be. */
async function narrowAccess(storePath: string): Promise<void> {
  for (const path of ["", ...sidecars].map((suffix) => storePath + suffix)) {
    await chmod(path, 0o600).catch(() => undefined);
  }
}

/**
 * Copies every client.
 *
 * @returns the checksum of the source; undefined if it has no file, because the hub has no clients
 * @throws {@link StoreError} refused - if a client was added or changed during the copy
 */
async function copyUnchanged(
  from: Endpoint,
  to: Endpoint,
  signal: AbortSignal,
): Promise<string | undefined> {
  const checksum = await checksumSource(from);
  const check = async () => {
    try {
      await assertUnchanged(from, checksum);
    } catch (error) {
      if (!isKind(error, "refused")) throw error;
      throw wrap(error, { hint: "Stop the program that writes to it, then run setup again." });
    }
  };
  if (checksum === undefined) await check();
  else await migrate({ from, to, signal, beforeEnd: check });
  return checksum;
}

/** Returns the ids of the clients that are not revoked: a copy fills gaps with revoked rows. */
async function activeIds(store: ClientStore): Promise<Set<number>> {
  const ids = new Set<number>();
  for await (const client of store) if (!isRevoked(client)) ids.add(client.client_id);
  return ids;
}

/** Returns the ids that are not in a database, which the hub may not have written yet. */
async function idsNotIn({ name, config }: Endpoint, ids: Set<number>): Promise<number[]> {
  const lacking = new Set(ids);
  try {
    await using database = await DatabaseFactory.create(name, config, { mode: "readonly" });
    for await (const { client_id } of database) lacking.delete(client_id);
  } catch (error) {
    if (!isKind(error, "notFound")) throw error;
  }
  return [...lacking];
}

/** Each operation reports the same about the directories and the unit. */
function withoutRepetition(reporter: Reporter, known: readonly string[]): Reporter {
  const seen = new Set(known);
  return {
    ...reporter,
    notice: (text) => {
      if (!seen.has(text)) reporter.notice(text);
      seen.add(text);
    },
  };
}

class Setup {
  readonly #kind: DatabaseSurvey["kind"];
  #record: SetupRecord | undefined;
  /** The recovery key, to try the first backup with; never stored here. */
  #identity: string | undefined;
  /** What this run did to `server.json`, which a hub that fails to start makes it take back. */
  #changedServerJson: "named the store" | "removed the password" | undefined;

  constructor(
    readonly request: SetupRequest,
    readonly found: Survey,
    readonly hub: HubSurvey,
    readonly database: DatabaseSurvey,
    readonly needed: ReadonlySet<StepId>,
  ) {
    this.#kind = formerKind(found);
    this.#record = found.record;
  }

  async run(): Promise<SetupResult> {
    const { needed, request } = this;
    const { python } = this.found.packages ?? {};
    if (needed.has("packages")) await this.#installPackages();
    else if (python !== undefined) await surveyPackages([python], { remember: true });
    await this.#prepare();
    const changesHub = (["drop-in", "store", "server.json", "restart"] as const).some((id) =>
      needed.has(id),
    );
    if (changesHub) await this.#begin();
    // A JSON hub does not notice the new store, so the store comes first and may fail.
    if (this.#kind === "json" && needed.has("store")) await this.#createStore();
    if (needed.has("drop-in")) await this.#installDropIn();
    let outage: Outage | null = null;
    if (this.#kind === "sqlite" && needed.has("store")) outage = await this.#encrypt();
    if (this.#kind === "sqlcipher" && needed.has("server.json")) await this.#adopt();
    if (outage === null && needed.has("restart")) outage = await this.#restart();
    emitStep("setup.handed-over");
    throwIfAborted(request.signal);
    const made = needed.has("backup") ? await this.#backUp() : null;
    const kept = needed.has("plain-copy") ? await this.#removePlainCopy() : null;
    const schedule = needed.has("schedule") ? await this.#schedule() : undefined;
    if (this.#record !== undefined && this.#record.phase !== "complete") {
      await this.#write({ ...this.#record, phase: "complete" });
    }
    emitStep("setup.complete");
    return {
      changed: true,
      unit: this.hub.name,
      store: request.storePath,
      formerDatabase: this.#record?.database.place ?? this.database.place,
      settings: request.settingsPath,
      backup: made,
      outage,
      schedule: schedule?.unit ?? this.found.schedule?.unit ?? null,
      plainCopy: kept,
    };
  }

  async #write(record: SetupRecord): Promise<void> {
    const { format: _, version: __, ...rest } = record;
    this.#record = await writeSetupRecord(this.request.settingsPath, rest);
  }

  async #installPackages(): Promise<void> {
    const { reporter } = this.request;
    const { python } = this.found.packages ?? {};
    if (python === undefined) throw new Error("the plan has no obstacle");
    const [program = "", ...args] = pipArguments(python);
    reporter.notice(`installing packages into ${python}`);
    const outcome = await run(program, args, { timeoutMs: pipLimitMs });
    const after = await surveyPackages([python], { remember: true });
    if (after.canEncrypt) return emitStep("setup.packages");
    const line = outcome.stderr.trim().split("\n").at(-1) || after.problem || "pip failed";
    throw new StoreError("failed", `the hub's packages in ${python} were not installed: ${line}`, {
      hint: `Run it to see why: ${pipLine(python)}`,
    });
  }

  /** Makes the directories, and saves the settings that the unit and the timer read. */
  async #prepare(): Promise<void> {
    const { section, storePath, reporter, settings } = this.request;
    const { backups, bundles } = this.found.directories;
    const known = [settings.backup?.to, settings.backup?.bundle_to].filter(
      (path) => path !== undefined,
    );
    await prepareDirectories([backups, bundles], { storePath, known, reporter });
    const saved = await loadSection(section);
    const wanted = { ...saved, ...this.#settings(saved) };
    if (JSON.stringify(wanted) !== JSON.stringify(saved)) await saveSection(section, wanted);
    emitStep("setup.settings");
  }

  #settings(saved: Settings | undefined): Settings {
    const { source, settings } = this.request;
    const { backups, bundles } = this.found.directories;
    const { store } = settings;
    const { manager } = this.hub;
    return {
      ...(store && Object.keys(store).length > 0 && { store }),
      passphrase_source: formatSource(source),
      backup: {
        ...saved?.backup,
        ...{ to: backups, bundle_to: bundles, service: manager, unit: this.#unit },
      },
    };
  }

  get #unit(): string {
    return this.hub.name.replace(/\.service$/, "");
  }

  get #service(): ServiceChoice {
    return { service: this.hub.manager, unit: this.#unit, storePath: this.request.storePath };
  }

  /** Writes the record: from now on the drop-in may start the hub on either database. */
  async #begin(): Promise<void> {
    const { record, isHandedOver, server } = this.found;
    const database = await this.#formerDatabase();
    const isSame =
      database.kind === record?.database.kind && database.place === record.database.place;
    if (record?.phase === "setting-up" && isSame) return;
    // Setup changes no server.json of a plain SQLite store.
    if (!isHandedOver && database.kind !== "sqlite") {
      await assertReplaceable((await readServerJson(server.path)).file);
    }
    const { manager, name, dropIn } = this.hub;
    this.#record = await writeSetupRecord(this.request.settingsPath, {
      store: this.request.storePath,
      phase: "setting-up",
      started_at: new Date().toISOString(),
      unit: { manager, name },
      drop_in: dropIn,
      database,
      recovery_key_file: this.request.recoveryKeyFile ?? null,
    });
    emitStep("setup.recorded");
  }

  /** Returns what undo brings back: what the hub uses now, or used before it was handed over. */
  async #formerDatabase(): Promise<SetupRecord["database"]> {
    const { record, isHandedOver, server } = this.found;
    if (isHandedOver && record !== undefined) return record.database;
    const kind = this.#kind;
    if (kind !== "json" && kind !== "sqlite" && kind !== "sqlcipher") throw new Error(kind);
    return {
      ...{ kind, place: this.database.place },
      ...formerDatabase(await readServerJson(server.path)),
    };
  }

  /** The recovery key goes to the user, and is used once more to try the first backup. */
  get #delivery(): RecoveryKeyDelivery {
    const { recoveryKey } = this.request;
    return {
      isRequested: recoveryKey.isRequested,
      assertPossible: () => recoveryKey.assertPossible(),
      deliver: async (identity, recipient) => {
        await recoveryKey.deliver(identity, recipient);
        this.#identity = identity;
      },
      report: () => recoveryKey.report(),
      revoke: () => recoveryKey.revoke(),
    };
  }

  async #createStore(): Promise<void> {
    const { request, found } = this;
    const { storePath, section, source, reporter, recipients } = request;
    // Left by a killed setup, without a bundle: no hub has used it.
    if (found.store !== "absent") {
      await assertNotNamed(storePath);
      for (const suffix of ["", ...sidecars]) await removeFile(storePath + suffix);
    }
    await initStore({
      ...{ storePath, source, reporter, recipients, settings: section },
      recoveryKey: this.#delivery,
      remember: this.#settings(await loadSection(section)),
      schemaVersion: found.packages?.schemaVersion ?? 0,
      cipherCompatibility: found.packages?.format,
      bundleDirectory: found.directories.bundles,
    });
    emitStep("setup.stored");
  }

  async #installDropIn(): Promise<void> {
    const { manager, dropIn, command } = this.hub;
    await installDropIn(manager, dropIn, { run: this.request.ownCommand("run"), hub: command });
    emitStep("setup.drop-in");
  }

  #operationOptions(lock: OperationLock) {
    const { source, recoveryCommand, reporter, signal } = this.request;
    const service = this.#service;
    return { lock, source, service, hub: "auto" as const, recoveryCommand, reporter, signal };
  }

  async #bundleTarget<Result>(use: (target: BundleOptions) => Promise<Result>): Promise<Result> {
    const { backups, bundles } = this.found.directories;
    const plan = await planRecipients(this.#recipientOptions);
    return plan.use(bundles, (recipients) =>
      use({ bundleTo: bundles, backupFolder: backups, recipients }),
    );
  }

  get #recipientOptions() {
    const { section, recipients } = this.request;
    return { settings: section, recipients, recoveryKey: this.#delivery };
  }

  async #encrypt(): Promise<Outage | null> {
    const { storePath, reporter } = this.request;
    const cipherCompatibility = this.found.packages?.format;
    const { service } = await this.#bundleTarget((target) =>
      withOperation(storePath, reporter, (lock) =>
        encrypt({ ...this.#operationOptions(lock), ...target, cipherCompatibility }),
      ),
    );
    emitStep("setup.stored");
    await narrowAccess(storePath);
    try {
      await this.#waitUntilServing();
    } catch (error) {
      const outcome = await decryptForFailedHub(this.request, this.#service);
      throw withRecovery(error, { messages: [] }, outcome);
    }
    return outageOf(service);
  }

  async #adopt(): Promise<void> {
    const { storePath, reporter } = this.request;
    const { backups, bundles } = this.found.directories;
    const recipientPlan = await planRecipients(this.#recipientOptions);
    await withOperation(storePath, reporter, (lock) =>
      adopt({
        ...this.#operationOptions(lock),
        ...{ bundleTo: bundles, backupDirectory: backups, recipientPlan, removePassword: true },
      }),
    );
    this.#changedServerJson = "removed the password";
    emitStep("setup.stored");
  }

  /** Restarts the hub through `run`; a JSON hub's clients are copied while it is stopped. */
  async #restart(): Promise<Outage | null> {
    const { request } = this;
    if (this.found.isHandedOver && (await this.#isStartedOnStore())) return null;
    const handOver = await this.#planHandover();
    return withOperation(request.storePath, request.reporter, (lock) =>
      whileStopped({
        lock,
        service: this.#service,
        recoveryCommand: request.recoveryCommand,
        reporter: request.reporter,
        signal: request.signal,
        work: handOver,
        putBack: () => this.#putBack(),
        isServing: () => this.#isServing(),
        mayBeStopped: false,
      }),
    );
  }

  /**
   * Waits for a hub that was started on the encrypted store after a setup was killed: it may still
   * be opening it. Returns false if it has to be restarted.
   */
  async #isStartedOnStore(): Promise<boolean> {
    if (!(await isStartedByRun(this.hub))) return false;
    try {
      await this.#waitUntilServing();
      return true;
    } catch (error) {
      if (isKind(error, "service")) return false;
      throw error;
    }
  }

  /**
   * Lets `server.json` name the former database again, if this run changed that: an earlier run may
   * have done so long ago, and the store may have new clients since.
   */
  async #putBack(): Promise<string | undefined> {
    const { path } = this.found.server;
    const database = this.#record?.database;
    if (this.#changedServerJson === "named the store" && database) {
      await restoreDatabase(path, database);
      return "the hub uses its former database";
    }
    if (this.#changedServerJson === "removed the password") {
      const { storePath, source } = this.request;
      const { connection, passphrase } = await unlock(storePath, source, { mode: "readwrite" });
      await connection.close();
      await setPassword(path, passphrase);
      return `${path} has the password again`;
    }
    return undefined;
  }

  /** Tries the copy, and returns what makes it and lets `server.json` name the store. */
  async #planHandover(): Promise<() => Promise<void>> {
    if (this.#kind !== "json" || (await isHandedOver(this.request.storePath))) {
      return async () => undefined;
    }
    // The store is emptied below.
    await assertNotNamed(this.request.storePath);
    const { signal } = this.request;
    const { path } = this.found.server;
    const file = await readServerJson(path);
    const { module = this.database.module, settings } = databaseIn(file);
    const from: Endpoint = { name: module, config: settings };
    const to = this.#target();
    const hub = hubDatabase(to);
    await assertNoOtherPassword(file, hub, to);
    await assertReplaceable(file.file);
    await this.#emptyStore(from);
    if ((await checksumSource(from)) !== undefined)
      await migrate({ from, to, dryRun: true, signal });
    return async () => {
      const checksum = await copyUnchanged(from, to, signal);
      const record = this.#record as SetupRecord;
      await this.#write({
        ...record,
        database: { ...record.database, ...(checksum && { checksum }) },
      });
      emitStep("setup.copied");
      this.#changedServerJson = "named the store";
      await switchModule(path, hub.module, hub.settings);
      emitStep("setup.switched");
    };
  }

  #target(): Endpoint {
    const { storePath, source } = this.request;
    const noCache = source.kind === "keyring" && source.withoutKeyCache && { key_cache: false };
    const config = { db_path: storePath, password_source: formatSource(source), ...noCache };
    return { name: sqlcipherPluginName, config };
  }

  /**
   * Removes what a killed setup has copied: the hub may have changed its clients since.
   *
   * @throws {@link StoreError} refused - if the store has clients that the hub's database lacks: a
   *   hub has used the store
   */
  async #emptyStore(from: Endpoint): Promise<void> {
    const { storePath, source } = this.request;
    await using store = await unlockStore(storePath, source, { mode: "readwrite" });
    const lacking = await idsNotIn(from, await activeIds(store));
    if (lacking.length > 0) {
      throw new StoreError(
        "refused",
        `${storePath} has clients that ${this.database.place} lacks: ${listIds(lacking)}`,
        {
          hint: `Nothing was removed. If they are needed, let ${this.found.server.path} name the store again, or add them to the hub's database.\nIf not, move the store away: mv ${shellQuote(storePath)} ${shellQuote(`${storePath}.old`)}`,
        },
      );
    }
    await store.connection.run("DELETE FROM clients");
  }

  async #isServing(): Promise<boolean> {
    const { storePath } = this.request;
    return (await isHandedOver(storePath)) && (await isHubServing(this.hub, storePath));
  }

  async #waitUntilServing(): Promise<void> {
    await waitUntilServing(await selectService(this.#service), () => this.#isServing());
  }

  async #backUp(): Promise<NonNullable<SetupResult["backup"]>> {
    const { path, bundle } = this.found.lastBackup ?? (await this.#makeBackup());
    const tested = await this.#testRestore(path, bundle);
    return { path, bundle, tested };
  }

  async #makeBackup(): Promise<{ path: string; bundle: string }> {
    const { request, found } = this;
    const { backups, bundles } = found.directories;
    const { recipients = [] } = (await loadSection(request.section)) ?? {};
    const { backup: made, bundle } = await withOperation(
      request.storePath,
      request.reporter,
      (lock) =>
        backup({
          ...this.#operationOptions(lock),
          ...{ to: backups, bundleTo: bundles, knownDirectories: [backups, bundles] },
          recipients,
          online: request.onlineBackups,
        }),
    );
    emitStep("setup.backed-up");
    return { path: made.path, bundle: bundle.path };
  }

  /**
   * Opens the bundle with the recovery key, and the backup with the passphrase from it.
   *
   * @returns false if the recovery key is not at hand, as after a kill
   */
  async #testRestore(path: string, bundle: string): Promise<boolean> {
    const identity = this.#identity ?? (await this.request.readRecoveryKey());
    if (identity === undefined) return false;
    const { passphrase, key_id } = await readBundle(bundle, { identity });
    const { ok } = await verifyBackup(path, { passphrase });
    if (!ok) {
      throw new StoreError("corrupted", `the first backup ${path} is damaged`, {
        hint: "Check the disk of the backups, then run setup again.",
      });
    }
    await recordRestoreTest(this.request.storePath, { how: "verify", backup: path, key_id });
    emitStep("setup.tested");
    return true;
  }

  /** @returns the file if it changed since it was copied, and was therefore kept */
  async #removePlainCopy(): Promise<string | null> {
    const database = this.#record?.database;
    if (database?.kind !== "json") return null;
    const file = await readServerJson(this.found.server.path);
    const module = database.module ?? this.database.module;
    const block = (file.settings.database as Record<string, unknown> | undefined)?.[module];
    const from = { name: module, config: (block ?? {}) as Endpoint["config"] };
    try {
      await assertUnchanged(from, database.checksum);
    } catch (error) {
      if (!(error instanceof StoreError)) throw error;
      this.request.reporter.notice(`${database.place} has changed since it was copied: kept`);
      return database.place;
    }
    // The file with the schema version stays: it has no secret, and undo needs it.
    await removeFile(database.place);
    await syncDirectory(dirname(database.place));
    emitStep("setup.plain-removed");
    return null;
  }

  async #schedule(): Promise<Schedule> {
    const { storePath, ownCommand, onlineBackups } = this.request;
    const command = ownCommand("backup", ...(onlineBackups ? ["--online"] : []));
    const schedule = { storePath, command, ...scheduleTimes };
    const installed = await installSchedule(schedule);
    emitStep("setup.scheduled");
    return installed;
  }
}
