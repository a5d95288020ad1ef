/**
 * `doctor`: checks for everything that could lose the store or expose its secrets, with a fix for
 * each finding. Changes nothing, except that `--fill-gaps` fills gaps between client ids.
 */
import type { ConfiguredTarget } from "../copies/copy-record.js";
import { isKind, StoreError } from "../errors.js";
import { noCoreDumpsCommand } from "../hub/existing-unit.js";
import type { PassphraseSource } from "../keys/source.js";
import { openWithSource, unlock } from "../keys/unlock.js";
import { Journal } from "../operation/journal.js";
import { withInteraction } from "../process/interaction.js";
import { waitForOperation } from "../recovery/wait.js";
import { type ServiceChoice, selectService } from "../service/select.js";
import { identify, type StoreKey, withDerivedKeys } from "../store/cipher.js";
import { ClientStore } from "../store/client-store.js";
import { findIntegrityErrors } from "../store/integrity.js";
import { counted } from "../text/count.js";
import { shellQuote } from "../text/escape.js";
import { checkCopyTargets, checkDirectories, checkLastBackup, restoreFix } from "./backups.js";
import { checkBundle, checkRestoreTest } from "./bundle.js";
import { attempt, type Check, checksNamed } from "./check.js";
import { checkContainers } from "./containers.js";
import { checkCopies, checkFileSystem, checkPermissions, type StoreLocations } from "./files.js";
import { checkHub, checkServerJson, type StoreFacts } from "./hub.js";
import { checkHubUnits } from "./hub-unit.js";
import { checkIdGaps, fillIdGaps } from "./id-gaps.js";
import { checkKeyring } from "./keyring.js";
import { checkCoreDumps, checkSwap } from "./machine.js";
import { checkSchedule } from "./schedule.js";

export type { Check, Severity } from "./check.js";

export interface DoctorOptions extends StoreLocations {
  readonly source: PassphraseSource;
  readonly service: ServiceChoice;
  readonly copyTargets: readonly ConfiguredTarget[];
  /** Errors in the settings, to report. The settings in error are ignored. */
  readonly settingsProblems: readonly StoreError[];
  /** The script of this program, with symbolic links resolved. Units should start no other. */
  readonly script: string;
  /** The program's name and options in the commands of fixes. Default: `hivemind-sqlcipher`. */
  readonly program?: string;
  readonly hubPython?: string | undefined;
  /** Inserts revoked rows into the gaps between client ids. */
  readonly fillGaps: boolean;
}

export interface Diagnosis {
  readonly ok: boolean;
  /** The number of revoked rows inserted into gaps; null without `fillGaps`. */
  readonly filled: number | null;
  readonly checks: Check[];
}

/**
 * Runs every check. A failed check is a finding, not an error.
 *
 * @throws {@link StoreError} refused - if `fillGaps` finds too large a gap
 * @throws {@link StoreError} what `openWithSource` throws, with `fillGaps`
 */
export async function doctor(options: DoctorOptions): Promise<Diagnosis> {
  // `doctor` asks no questions: a check that needs a confirmation fails, which is a finding.
  return await withInteraction({ confirm: undefined }, () =>
    withDerivedKeys(() => diagnose(options)),
  );
}

async function diagnose(options: DoctorOptions): Promise<Diagnosis> {
  const { storePath, source } = options;
  const filled = options.fillGaps ? await fillGaps(storePath, source) : null;
  const checks = [
    ...checkSettings(options.settingsProblems),
    ...(await attempt("interrupted", () => checkJournal(storePath))),
  ];
  const opened = await checkStore(options);
  checks.push(...opened.checks);
  const service = await quietly(() => selectService(options.service));
  const pid = (await quietly(async () => service?.state()))?.mainPid;
  const coreLimitFix = service && (await quietly(() => noCoreDumpsCommand(service)));
  const identity = await quietly(() => identify(storePath));
  const keyId = identity?.keyId;
  const secret = {
    isEncrypted: identity?.format === "sqlcipher",
    passphrase: opened.passphrase,
  };
  const groups: [string, () => Promise<Check | Check[]>][] = [
    ["permissions", () => checkPermissions(options)],
    ["copies", () => checkCopies(options)],
    ["server.json", () => checkServerJson(options)],
    ["hub", () => checkHub({ ...options, service, choice: options.service, store: opened.facts })],
    ["container", () => checkContainers(options, service, secret)],
    ["file-system", () => checkFileSystem(storePath)],
    ["hub-unit", () => checkHubUnits(storePath, secret, { script: options.script, service })],
    ["keyring", () => checkKeyring(storePath, source)],
    ["swap", () => checkSwap()],
    ["core-dumps", () => checkCoreDumps({ pid, fix: coreLimitFix })],
    ["directories", () => checkDirectories(options)],
    ["last-backup", () => checkLastBackup(options)],
    ["copy-targets", () => checkCopyTargets(storePath, options.copyTargets)],
    ["schedule", () => checkSchedule(storePath, source, options.script)],
    ["bundle", () => checkBundle(options, keyId, opened.key)],
    ["restore-tried", () => checkRestoreTest(options, keyId)],
  ];
  for (const [name, group] of groups) checks.push(...(await attempt(name, group)));
  return {
    ok: checks.every(({ ok }) => ok),
    filled,
    checks: checks.map((check) => withProgram(check, options.program)),
  };
}

async function fillGaps(storePath: string, source: PassphraseSource): Promise<number> {
  await using store = await waitForOperation(storePath, () =>
    openWithSource(storePath, source, { mode: "readwrite" }),
  );
  return await fillIdGaps(store);
}

/** The checks of the store and, if it opens, the values that other checks need. */
interface OpenedStore {
  readonly checks: Check[];
  readonly passphrase?: string;
  readonly key?: StoreKey;
  readonly facts?: StoreFacts;
}

/** Checks whether the store opens, whether it is undamaged, and whether client ids have gaps. */
async function checkStore(options: DoctorOptions): Promise<OpenedStore> {
  const { storePath, source } = options;
  const { good, error: unopened } = checksNamed("store");
  let opened: Omit<OpenedStore, "checks"> = {};
  const checks: Check[] = [];
  try {
    // Open with the passphrase: a cached key would hide the loss of the passphrase.
    await using store = await waitForOperation(storePath, async () => {
      const unlocked = await unlock(storePath, source, { mode: "readwrite" });
      opened = { passphrase: unlocked.passphrase };
      return ClientStore.from(unlocked);
    });
    const { schemaVersion, key } = store;
    const { cipherCompatibility } = key;
    opened = { ...opened, key };
    const { active, revoked } = await store.counts();
    opened = { ...opened, facts: { schemaVersion, cipherCompatibility, revoked } };
    const what = `SQLCipher ${cipherCompatibility}, schema ${schemaVersion}, ${counted(active, "client")}`;
    checks.push(good(`${storePath} opens: ${what}`));
    const damage = await checkStructure(store, options);
    // A damaged index hides clients, so gaps among the ids would be counted wrongly.
    checks.push(damage, ...(damage.ok ? [await checkIdGaps(store)] : []));
  } catch (error) {
    if (!(error instanceof StoreError)) throw error;
    // A store that is in use or cannot be read need not be damaged, and must not be replaced.
    const cause = isKind(error, "inUse", "io")
      ? "Remove the cause, then run doctor again."
      : undefined;
    const fix = error.hint ?? cause ?? (await restoreFix(options));
    checks.push(unopened(error.message, fix));
  }
  return { checks, ...opened };
}

/** Adds the program's options to a fix: without them, it would apply to the default store. */
function withProgram(check: Check, program: string | undefined): Check {
  if (check.fix === null || program === undefined) return check;
  return {
    ...check,
    fix: check.fix.replaceAll(/\bhivemind-sqlcipher (?=[a-z])/g, () => `${program} `),
  };
}

/** Reports errors in the settings. Commands other than `run`, `status` and `doctor` refuse them. */
function checkSettings(problems: readonly StoreError[]): Check[] {
  const { error } = checksNamed("settings");
  return problems.map(({ message, hint }) => error(message, hint ?? "Correct this setting."));
}

/** Checks for damaged pages and indexes, which opening the store does not detect. */
async function checkStructure(store: ClientStore, locations: StoreLocations): Promise<Check> {
  const { good, error } = checksNamed("structure");
  const [first, ...more] = await findIntegrityErrors(store.connection);
  if (first === undefined) return good("the structure and the indexes are sound");
  const others = more.length > 0 ? `, and ${counted(more.length, "more problem")}` : "";
  return error(`the store is damaged: ${first}${others}`, await restoreFix(locations));
}

async function checkJournal(storePath: string): Promise<Check> {
  const { good, error } = checksNamed("interrupted");
  const journal = await Journal.read(storePath);
  if (journal === undefined) return good("no operation was interrupted");
  const { operation, started_at: since } = journal.entry;
  const path = shellQuote(journal.path);
  const wayOut = `If a file that the recovery needs is lost for good, give the operation up with mv ${path} ${shellQuote(`${journal.path}.left`)}.`;
  return error(
    `${operation}, started ${since}, is running or was interrupted; its journal is ${journal.path}`,
    `Keep the journal until a command reports that it is not needed: only the journal records which file and which passphrase belong together. ${wayOut} Finish or undo the operation: hivemind-sqlcipher list-clients`,
  );
}

/** Returns undefined after an error, which another check reports. Rethrows a usage error. */
async function quietly<Result>(ask: () => Promise<Result>): Promise<Result | undefined> {
  try {
    return await ask();
  } catch (error) {
    if (error instanceof StoreError && error.kind !== "usage") return undefined;
    throw error;
  }
}
