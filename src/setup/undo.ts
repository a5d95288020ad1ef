/**
 * `setup --undo`: returns the hub to its former database, with the present clients.
 *
 * The encrypted store is kept in a last backup, and after a return to JSON also under another name.
 */
import { backup } from "../backup/backup.js";
import { hubContainer } from "../config/hub-account.js";
import { ignoreKind, StoreError } from "../errors.js";
import { readHubCommand } from "../hub/existing-unit.js";
import { serverJsonPath } from "../hub/server-json.js";
import { acquireLock } from "../operation/lock.js";
import { emitStep } from "../operation/step.js";
import { withOperation } from "../recovery/recover.js";
import { assertTrusted } from "../service/compose-trust.js";
import { removeSchedules } from "../service/schedule.js";
import { isUnit, systemctlLine } from "../service/systemctl.js";
import { quoteExpandedCommand } from "../service/unit-file.js";
import { installDropIn, removeDropIn } from "./drop-in.js";
import { isSealedUnit } from "./facts.js";
import { chooseUndoStrategy, type UndoStrategy } from "./former.js";
import { findOtherRun, isStartedByRun } from "./hub-survey.js";
import type { PlanStep } from "./plan.js";
import {
  assertSameRecord,
  assertUndoable,
  isHandedOver,
  readSetupRecord,
  removeSetupRecord,
  type SetupRecord,
  setupRecordPath,
  updateSetupRecord,
} from "./record.js";
import { choiceOfUnit, type SetupRequest } from "./request.js";
import { type Outage, watchUntilListening } from "./serving.js";
import { withHubStopped } from "./window.js";

export interface UndoResult {
  readonly changed: boolean;
  readonly unit: string | null;
  /** The database that the hub uses now. */
  readonly database: string | null;
  /** The paths of the last backup and of the encrypted store. */
  readonly kept: { readonly backup: string | null; readonly store: string | null };
  readonly outage: Outage | null;
}

export interface UndoPlan {
  readonly steps: readonly PlanStep[];
  readonly record: SetupRecord | undefined;
}

/**
 * Plans an undo. Changes nothing.
 *
 * @throws {@link StoreError} refused - if the hub was changed since its setup, or if its unit
 *   starts it through `run` without the drop-in
 */
export async function planUndo(request: SetupRequest): Promise<UndoPlan> {
  const record = await readSetupRecord(request.settingsPath, request.storePath);
  if (record === undefined) return { steps: [], record };
  await assertUndoable(record);
  await assertNoOtherRun(record);
  const { unit, database, drop_in: dropIn } = record;
  const step = (id: PlanStep["id"], changes: string): PlanStep => ({
    id,
    state: "needed",
    changes,
    undo: "run setup again",
  });
  const back = {
    json: `write ${database.place} with the clients of the encrypted store, in plain text, and move the store aside`,
    sqlite: `convert ${database.place} to plain SQLite`,
    sqlcipher: `write the password into ${serverJsonPath()}, in plain text`,
  };
  return {
    record,
    steps: [
      step("backup", "make a last encrypted backup"),
      step("store", back[database.kind]),
      ...(database.kind === "json"
        ? [step("server.json", `let ${serverJsonPath()} name the former database`)]
        : []),
      step("drop-in", `remove ${dropIn}`),
      step("restart", `restart ${unit.name}`),
      step("schedule", "remove the timer"),
    ],
  };
}

/**
 * Undoes a setup. After a kill at any point the hub runs, and the same command continues.
 *
 * @throws {@link StoreError} service - if the hub does not work on its former database; it is then
 *   started on the encrypted store if possible
 * @throws {@link StoreError} of every other kind; the hub then runs as before
 */
export async function undoSetup(request: SetupRequest, found: SetupRecord): Promise<UndoResult> {
  const { storePath, settingsPath } = request;
  await using _ = await acquireLock(setupRecordPath(settingsPath, storePath));
  await assertSameRecord(settingsPath, storePath, found);
  await assertUndoable(found);
  const { compose } = hubContainer() ?? {};
  if (compose) await assertTrusted(compose.directory);
  const strategy = chooseUndoStrategy(request, found);
  await strategy.check?.();
  const last = (await isHandedOver(storePath)) ? await backUp(request, found) : null;
  // The drop-in of a complete setup would not start a sealed unit on its former database.
  if (isSealedUnit(request, found.unit)) await writeDropIn(request, found);
  const record = await updateSetupRecord(settingsPath, storePath, () => ({ phase: "undoing" }));
  emitStep("undo.recorded");
  await strategy.beforeStop?.();
  const outage = await returnHub(request, record, strategy);
  const kept = (await strategy.afterStart?.()) ?? null;
  await removeSchedules(storePath).catch(ignoreKind("notFound", undefined));
  emitStep("undo.schedule");
  await removeSetupRecord(settingsPath, storePath);
  const { unit, database } = record;
  return {
    changed: true,
    unit: unit.name,
    database: database.place,
    outage,
    kept: { backup: last, store: kept },
  };
}

/**
 * Checks that the unit starts the hub without `run` once the drop-in is removed. When the record is
 * gone, `run` refuses the former database.
 *
 * @throws {@link StoreError} refused - if the unit itself, or another drop-in, uses `run`
 */
async function assertNoOtherRun({ unit, drop_in: dropIn }: SetupRecord): Promise<void> {
  if (!isUnit(unit)) return;
  const path = await findOtherRun(unit, dropIn);
  if (path === undefined) return;
  const { manager, name } = unit;
  const change = hubContainer()
    ? `Remove the lines of run --print-unit quadlet from ${path}`
    : `Set ExecStart=${quoteExpandedCommand(...(await readHubCommand(unit)))} in ${path}`;
  const problem = `${path} itself starts ${name} through run, which refuses the former database`;
  throw new StoreError("refused", problem, {
    hint: `${change}, run ${systemctlLine(manager, "daemon-reload")}, and run setup --undo at once: a restart before it would start the hub without its passphrase.`,
  });
}

async function backUp(request: SetupRequest, { unit }: SetupRecord): Promise<string | null> {
  const { storePath, source, settings, recoveryCommand, signal, reporter } = request;
  const { backup: directories, recipients = [] } = settings;
  const { to, bundle_to: bundleTo } = directories ?? {};
  if (to === undefined || bundleTo === undefined) {
    throw new StoreError("usage", "the settings name no directories for a last backup", {
      hint: "Make one: hivemind-sqlcipher backup --to DIRECTORY --bundle-to OTHER-DIRECTORY.",
    });
  }
  const made = await withOperation(storePath, reporter, (lock) =>
    backup({
      lock,
      source,
      to,
      bundleTo,
      knownDirectories: [to, bundleTo],
      recipients,
      // The hub is restarted only once, on its former database.
      service: choiceOfUnit(storePath, unit),
      online: true,
      recoveryCommand,
      signal,
      reporter,
    }),
  );
  emitStep("undo.backed-up");
  return made.backup.path;
}

/** Restarts the hub on its former database, without the drop-in. */
async function returnHub(
  request: SetupRequest,
  record: SetupRecord,
  strategy: UndoStrategy,
): Promise<Outage | null> {
  const { storePath, recoveryCommand, reporter, signal } = request;
  const { unit, drop_in: dropIn } = record;
  if (!(await strategy.isPending()) && !(await isStartedByRun(unit))) {
    await removeDropIn(request, { ...unit, dropIn });
    return null;
  }
  return withOperation(storePath, reporter, (lock) =>
    withHubStopped({
      lock,
      service: choiceOfUnit(storePath, unit),
      recoveryCommand,
      reporter,
      signal,
      work: async () => {
        await strategy.work?.();
        await removeDropIn(request, { ...unit, dropIn });
        emitStep("undo.drop-in");
      },
      revert: async () => {
        await writeDropIn(request, record);
        return strategy.revert?.();
      },
      waitUntilServing: watchUntilListening,
      // A hub that fails on the encrypted store is a reason to undo.
      mayBeStopped: true,
    }),
  );
}

/** Writes the drop-in again: the unit then starts on the database in `server.json`. */
async function writeDropIn(request: SetupRequest, { unit, drop_in }: SetupRecord): Promise<void> {
  const command = hubContainer() || !isUnit(unit) ? [] : await readHubCommand(unit);
  await installDropIn(request, { ...unit, dropIn: drop_in, command }, "in-progress");
}
