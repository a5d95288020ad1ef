/**
 * `setup`: from a hub as it was installed to a hub on an encrypted store with backups.
 *
 * The hub can start on a complete database at every instant. First the record is written with the
 * phase `setting-up`; then the drop-in starts the hub through `run`, which passes no passphrase
 * until `server.json` and the store are ready. So after a kill or a power failure nothing has to be
 * undone: the same command continues. The operations that create or convert the store have
 * journals. The plaintext database is removed after a backup was verified.
 */
import { dirname } from "node:path";
import { hubContainer } from "../config/hub-account.js";
import { prepareDirectories } from "../config/known-directories.js";
import { loadSection, type Settings } from "../config/settings-file.js";
import { isKind, StoreError, wrap } from "../errors.js";
import { assertReplaceable, makeDirectory } from "../fs/atomic.js";
import { currentAccount, resolvePythonAccount } from "../hub/account.js";
import { findBlacklisted } from "../hub/schema.js";
import { readServerJson } from "../hub/server-json.js";
import { formerDatabase } from "../hub/server-json-edit.js";
import { formatSource } from "../keys/source.js";
import { journalPath } from "../operation/journal.js";
import { acquireLock } from "../operation/lock.js";
import { updateSection } from "../operation/settings.js";
import { emitStep } from "../operation/step.js";
import { throwIfAborted } from "../process/abort.js";
import { syncFileSystemAs } from "../process/directories.js";
import { run } from "../process/run.js";
import { recoverOnly, withOperation } from "../recovery/recover.js";
import { assertTrusted } from "../service/compose-trust.js";
import { installSchedule } from "../service/schedule.js";
import { resolveBackupTimes, type Schedule } from "../service/schedule-state.js";
import { selectService } from "../service/select.js";
import type { Service } from "../service/service.js";
import { openPlaintext } from "../store/plain-store.js";
import { installDropIn, removeDropIn } from "./drop-in.js";
import { isSealedUnit } from "./facts.js";
import { makeFirstBackup, removePlainCopy } from "./first-backup.js";
import { restartOnStore } from "./hand-over.js";
import { findHiveMind4Obstacle } from "./obstacles.js";
import { type PackagesSurvey, pipArguments, pipLine, surveyPackages } from "./packages.js";
import type { Plan, StepId } from "./plan.js";
import { findProblem } from "./problem.js";
import {
  assertSameRecord,
  isHandedOver,
  outdatedPlanError,
  readSetupRecord,
  recordedContainer,
  type SetupRecord,
  setupRecordPath,
  updateSetupRecord,
  writeSetupRecord,
} from "./record.js";
import { removeIncompleteKey } from "./recovery-key-file.js";
import {
  choiceOfUnit,
  createScope,
  type SetupRequest,
  type SetupResult,
  type SetupScope,
} from "./request.js";
import { logLine, type Outage, staysUp, watchUntilListening } from "./serving.js";
import { adoptStore, createEncryptedStore, encryptStore, sealPassphrase } from "./store.js";
import type { Survey } from "./survey.js";
import { withHubStopped } from "./window.js";

/** The time for pip to download and build the hub's packages on a small board. */
const pipLimitMs = 30 * 60_000;

/**
 * Runs the needed steps of a plan.
 *
 * @throws {@link StoreError} refused - if the hub was changed since the plan was made
 * @throws {@link StoreError} of every kind; the hub then runs, and the same command continues
 */
export async function setUp(
  request: SetupRequest,
  found: Survey,
  plan: Plan,
): Promise<SetupResult> {
  const { storePath, settingsPath } = request;
  const planned = createScope(request, found, plan);
  const needed = new Set(plan.steps.filter(({ state }) => state === "needed").map(({ id }) => id));
  await makeDirectory(dirname(settingsPath));
  await using _ = await acquireLock(setupRecordPath(settingsPath, storePath));
  await assertSameRecord(settingsPath, storePath, found.record);
  if ((await isHandedOver(storePath)) !== found.isHandedOver) throw outdatedPlanError();
  await removeIncompleteKey(request.recoveryKeyFile);
  const scope = await prepareHub(planned, needed);
  const outage = await moveHub(scope, needed).catch((error: unknown) =>
    removeBrokenDropIn(error, scope, needed),
  );
  emitStep("setup.handed-over");
  throwIfAborted(request.signal);
  // The plain copy is removed only if a backup of its clients opens.
  const isBackupNeeded = needed.has("backup") || needed.has("plain-copy");
  const makesKeys = needed.has("keys") && !makesStore(scope, needed);
  const backup = isBackupNeeded ? await makeFirstBackup(scope, { makesKeys }) : null;
  const kept = needed.has("plain-copy") ? await removePlainCopy(scope) : null;
  const schedule = needed.has("schedule") ? await installTimer(scope) : found.schedule;
  const record = await completeRecord(scope);
  emitStep("setup.complete");
  return {
    changed: true,
    unit: scope.hub.name,
    store: storePath,
    formerDatabase: record?.database.place ?? scope.database.place,
    settings: settingsPath,
    recoveryKey: scope.recoveryKey.identity() === undefined ? "kept" : "new",
    backup,
    outage,
    schedule: schedule?.unit ?? null,
    plainCopy: kept,
  };
}

/**
 * Runs the steps that do not affect the running hub: packages, directories and settings.
 *
 * @returns the scope, with the packages that the hub has now
 */
async function prepareHub(scope: SetupScope, needed: ReadonlySet<StepId>): Promise<SetupScope> {
  const { request, found } = scope;
  const { section, storePath, reporter, settings } = request;
  const { backups, bundles } = found.directories;
  const isMissing = needed.has("packages");
  if (isMissing) await assertBlacklistsKept(scope);
  const packages = isMissing ? await installPackages(scope) : found.packages;
  if (packages && !isMissing && found.hubContainer === undefined) {
    // Remembers the packages for `run`, which starts the hub.
    await surveyPackages([packages.python], currentAccount(), { remember: true });
  }
  const known = [settings.backup?.to, settings.backup?.bundle_to].filter(
    (path) => path !== undefined,
  );
  await prepareDirectories([backups, bundles], { storePath, known, reporter });
  await updateSection(section, (saved) => ({ ...saved, ...buildSettings(scope, saved) }));
  emitStep("setup.settings");
  return { ...scope, found: { ...found, packages } };
}

/**
 * Checks the clients of a plain store, which the hub opens with the new packages at its next start.
 *
 * @throws {@link StoreError} refused - if the hub would not enforce the clients' blacklists
 */
async function assertBlacklistsKept({ found, database }: SetupScope): Promise<void> {
  const finding = found.packages && findHiveMind4Obstacle(found.packages);
  if (database.kind !== "sqlite" || finding === undefined) return;
  await using store = await openPlaintext(database.place);
  if ((await findBlacklisted(store)) === undefined) return;
  throw new StoreError(finding.kind, finding.problem, { hint: finding.fix });
}

/**
 * Installs the hub's packages, and inspects them again, because they determine the format.
 *
 * The lock on the directory lets pip wait for a pip that a killed setup has left running. Ctrl-C
 * has an effect when pip has ended: a package in the middle of its replacement would break the hub.
 */
async function installPackages({ request, found }: SetupScope): Promise<PackagesSurvey> {
  const { python, directory } = found.packages ?? {};
  if (python === undefined || directory === undefined) throw new Error("the plan has obstacles");
  request.reporter.notice(`installing packages into ${python}`);
  const account = await resolvePythonAccount(python, currentAccount());
  const args = [directory, ...pipArguments(python)];
  const outcome = await run("flock", args, { timeoutMs: pipLimitMs, account });
  const after = await surveyPackages([python], account, { remember: true });
  if (after.canEncrypt) {
    // pip syncs nothing: after a power failure its new files could be empty.
    await syncFileSystemAs(account, directory);
    emitStep("setup.packages");
    throwIfAborted(request.signal);
    return after;
  }
  const line = outcome.stderr.trim().split("\n").at(-1) || after.problem || "pip failed";
  throw new StoreError("failed", `the hub's packages in ${python} were not installed: ${line}`, {
    hint: `Run it to see why: ${pipLine(python)}`,
  });
}

/** Returns the settings that the unit and the timer read. */
function buildSettings({ request, found, hub }: SetupScope, saved: Settings | undefined): Settings {
  const { source, settings, storePath } = request;
  const { backups, bundles } = found.directories;
  const { store } = settings;
  const { service, unit } = choiceOfUnit(storePath, hub);
  return {
    ...(store && Object.keys(store).length > 0 && { store }),
    passphrase_source: formatSource(source),
    backup: {
      ...saved?.backup,
      to: backups,
      bundle_to: bundles,
      service,
      unit,
    },
  };
}

/**
 * Returns whether this setup creates, encrypts or adopts the store, which generates its keys.
 * Otherwise the first backup generates the missing keys.
 */
function makesStore({ former }: SetupScope, needed: ReadonlySet<StepId>): boolean {
  return needed.has(former === "sqlcipher" ? "server.json" : "store");
}

/**
 * Moves the hub to the encrypted store.
 *
 * @returns the outage; null if the hub was not restarted
 */
async function moveHub(scope: SetupScope, needed: ReadonlySet<StepId>): Promise<Outage | null> {
  const { former, request } = scope;
  const changesHub = (["drop-in", "store", "server.json", "restart"] as const).some((id) =>
    needed.has(id),
  );
  if (changesHub) {
    const { compose } = hubContainer() ?? {};
    if (compose) await assertTrusted(compose.directory);
    await beginRecord(scope);
    await sealPassphrase(scope);
  }
  // A JSON hub does not notice the new store, so the store comes first and may fail.
  if (former === "json" && needed.has("store")) {
    await createEncryptedStore(scope, buildSettings(scope, await loadSection(request.section)));
  }
  const isEncrypted = former === "sqlite" && needed.has("store");
  const isPasswordRemoved = former === "sqlcipher" && needed.has("server.json");
  // The drop-in of a complete setup would not start a sealed unit on its former database.
  const isWritten = needed.has("drop-in") || (changesHub && isSealedUnit(request, scope.hub));
  const isComposed = hubContainer()?.compose !== undefined;
  // The container is created again while the hub is stopped for its restart. Only the operations
  // on a store in use need the copy before.
  const isLate = isWritten && isComposed && !isEncrypted && !isPasswordRemoved;
  const write = async () => {
    await installDropIn(request, scope.hub, "in-progress");
    emitStep("setup.drop-in");
  };
  if (isWritten && !isLate) await (isComposed ? createWhileStopped(scope, write) : write());
  if (isEncrypted) return encryptStore(scope);
  if (isPasswordRemoved) await adoptStore(scope);
  if (!isLate && !needed.has("restart")) return null;
  return restartOnStore(scope, { isPasswordRemoved, createContainer: isLate ? write : undefined });
}

/** Creates the container of compose again, in a service window. */
async function createWhileStopped(
  { request, hub }: SetupScope,
  createContainer: () => Promise<void>,
): Promise<void> {
  const { storePath, recoveryCommand, reporter, signal } = request;
  const nothing = async () => undefined;
  await withOperation(storePath, reporter, (lock) =>
    withHubStopped({
      lock,
      service: choiceOfUnit(storePath, hub),
      recoveryCommand,
      reporter,
      signal,
      createContainer,
      work: nothing,
      revert: nothing,
      mayBeStopped: false,
      waitUntilServing: watchUntilListening,
    }),
  );
}

/**
 * Removes the drop-in that this run wrote if the hub does not stay up with it, for example because
 * other settings of the unit break Node.js. The hub then starts as before.
 *
 * The drop-in stays if the hub uses the encrypted store, because only `run` passes the passphrase.
 *
 * @throws `error`, with what was done in its message
 */
async function removeBrokenDropIn(
  error: unknown,
  { hub, request: { storePath } }: SetupScope,
  needed: ReadonlySet<StepId>,
): Promise<never> {
  if (!needed.has("drop-in") || !isKind(error, "service")) throw error;
  const service = await selectService(choiceOfUnit(storePath, hub));
  if ((await staysUp(service)) || (await isHandedOver(storePath))) throw error;
  const problems = [
    await findProblem(() => removeDropIn({ storePath }, hub)),
    await findProblem(() => restartHub(service, storePath)),
  ].flatMap((problem) => problem?.message ?? []);
  if (problems.length > 0) {
    throw wrap(error, { message: [error.message, ...problems].join("; ") });
  }
  throw wrap(error, {
    message: `${error.message}; the drop-in was removed, and ${hub.name} runs as before`,
    hint: `Run ${logLine(hub)} to see why it ended with the drop-in, then run setup again.`,
  });
}

/** @throws {@link StoreError} service - if the hub does not stay up */
async function restartHub(service: Service, storePath: string): Promise<void> {
  await service.stop();
  // Starts the hub if a journal names it as stopped. A hub that ended later has no journal.
  await recoverOnly(storePath);
  if (!(await service.state()).active) await service.start([]);
  if (await staysUp(service)) return;
  throw new StoreError("service", `${service.name} ends without the drop-in, too`);
}

/** Writes the record. From now on, the drop-in may start the hub on either database. */
async function beginRecord(scope: SetupScope): Promise<void> {
  const { request, found, hub } = scope;
  const { record, isHandedOver, server } = found;
  const database = await readFormerDatabase(scope);
  const isSame =
    database.kind === record?.database.kind && database.place === record.database.place;
  if (record?.phase === "setting-up" && isSame) return;
  // Setup changes no server.json of a plain SQLite store.
  if (!isHandedOver && database.kind !== "sqlite") {
    await assertReplaceable((await readServerJson(server.path)).file);
  }
  await writeSetupRecord(request.settingsPath, {
    store: request.storePath,
    phase: "setting-up",
    started_at: new Date().toISOString(),
    unit: { manager: hub.manager, name: hub.name },
    drop_in: hub.dropIn,
    ...recordedContainer(),
    database,
    recovery_key_file: request.recoveryKeyFile.path ?? null,
  });
  emitStep("setup.recorded");
}

/** Returns the database for an undo: the hub's present one, or the one before setup. */
async function readFormerDatabase(scope: SetupScope): Promise<SetupRecord["database"]> {
  const { former: kind, found, database } = scope;
  const { record, isHandedOver, server } = found;
  if (isHandedOver && record !== undefined) return record.database;
  if (kind !== "json" && kind !== "sqlite" && kind !== "sqlcipher") throw new Error(kind);
  const named = formerDatabase(await readServerJson(server.path));
  return { kind, place: database.place, ...named };
}

async function installTimer({ request }: SetupScope): Promise<Schedule> {
  const { storePath, backupCommand: command, recoveryCommand } = request;
  const recovery = { command: recoveryCommand, journal: journalPath(storePath) };
  const times = await resolveBackupTimes(storePath);
  const installed = await installSchedule({
    storePath,
    job: "backup",
    command,
    recovery,
    ...times,
  });
  emitStep("setup.scheduled");
  return installed;
}

/** Completes the record. From now on, `run` refuses a store that is not encrypted. */
async function completeRecord(scope: SetupScope): Promise<SetupRecord | undefined> {
  const { settingsPath, storePath } = scope.request;
  const record = await readSetupRecord(settingsPath, storePath);
  if (record === undefined || record.phase === "complete") return record;
  if (isSealedUnit(scope.request, scope.hub)) {
    await installDropIn(scope.request, scope.hub, "complete");
  }
  return updateSetupRecord(settingsPath, storePath, () => ({ phase: "complete" }));
}
