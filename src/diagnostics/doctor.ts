/**
 * `doctor`: everything that could cost an operator the store, or somebody else's knowing it, with what to do about it.
 *
 * It reads; the one thing it can mend itself, gaps between ids, it mends only when asked.
 */
import { StoreError } from "../errors.js";
import type { PassphraseSource } from "../keys/source.js";
import { unlock, unlockStore } from "../keys/unlock.js";
import { Journal } from "../operation/journal.js";
import { waitForOperation } from "../recovery/wait.js";
import { type ServiceChoice, selectService } from "../service/select.js";
import { identify, type StoreKey } from "../store/cipher.js";
import { ClientStore } from "../store/client-store.js";
import { checkBundle, checkLastBackup, checkRestoreTest, checkSchedule } from "./backups.js";
import { attempt, type Check, finding, good } from "./check.js";
import { checkCopies, checkPermissions, type StoreLocations } from "./files.js";
import { checkHub, checkServerJson, type StoreFacts } from "./hub.js";
import { checkIdGaps, fillIdGaps } from "./id-gaps.js";
import { checkKeyring } from "./keyring.js";
import { checkCoreDumps, checkSwap } from "./machine.js";

export type { Check, Severity } from "./check.js";

export interface DoctorOptions extends StoreLocations {
  readonly source: PassphraseSource;
  readonly service: ServiceChoice;
  readonly hubPython?: string | undefined;
  /** Put revoked rows into the gaps between ids. */
  readonly fillGaps: boolean;
}

export interface Diagnosis {
  /** Whether there is no finding. */
  readonly ok: boolean;
  /** How many revoked rows were put into gaps; null if that was not asked for. */
  readonly filled: number | null;
  readonly checks: Check[];
}

/**
 * Runs every check. What cannot be looked at is a finding, not an error.
 *
 * @throws StoreError if gaps are to be filled and cannot be: what opening the store throws, `refused` for gaps too large.
 */
export async function doctor(options: DoctorOptions): Promise<Diagnosis> {
  const { storePath, source } = options;
  const checks: Check[] = [];
  let filled: number | null = null;
  let facts: StoreFacts | undefined;
  let storeKey: StoreKey | undefined;
  if (options.fillGaps) {
    await using store = await waitForOperation(storePath, () =>
      unlockStore(storePath, source, { mode: "readwrite" }),
    );
    filled = await fillIdGaps(store);
  }
  checks.push(...(await attempt("interrupted", () => checkJournal(storePath))));
  try {
    // By the passphrase itself, whatever key is kept beside it.
    await using store = await waitForOperation(storePath, async () =>
      ClientStore.from(await unlock(storePath, source, { mode: "readwrite" })),
    );
    const { schemaVersion, key } = store;
    storeKey = key;
    facts = { schemaVersion, cipherCompatibility: key.cipherCompatibility };
    const { active } = await store.counts();
    const what = `SQLCipher ${key.cipherCompatibility}, schema ${schemaVersion}, ${active} clients`;
    checks.push(good("store", `${storePath} opens: ${what}`), await checkIdGaps(store));
  } catch (error) {
    if (!(error instanceof StoreError)) throw error;
    const mend = error.hint ?? "hivemind-sqlcipher restore puts a backup in its place";
    checks.push(finding("store", "error", error.message, mend));
  }
  const service = await quietly(() => selectService(options.service));
  const pid = (await quietly(async () => service?.state()))?.mainPid;
  const keyId = (await quietly(() => identify(storePath)))?.keyId;
  const groups: [string, () => Promise<Check[]>][] = [
    ["permissions", () => checkPermissions(options)],
    ["copies", () => checkCopies(options)],
    ["server.json", () => checkServerJson(storePath)],
    ["hub", () => checkHub({ ...options, service, choice: options.service, store: facts })],
    ["keyring", () => checkKeyring(source)],
    ["swap", () => checkSwap()],
    ["core-dumps", () => checkCoreDumps(pid)],
    ["last-backup", () => checkLastBackup(options)],
    ["schedule", () => checkSchedule(storePath)],
    ["bundle", () => checkBundle(options, keyId, storeKey)],
    ["restore-tried", () => checkRestoreTest(storePath, keyId)],
  ];
  for (const [name, group] of groups) checks.push(...(await attempt(name, group)));
  return { ok: checks.every(({ ok }) => ok), filled, checks };
}

async function checkJournal(storePath: string): Promise<Check[]> {
  const journal = await Journal.read(storePath);
  if (journal === undefined) return [good("interrupted", "no operation was interrupted")];
  const { operation, started_at: since } = journal.entry;
  return [
    finding(
      "interrupted",
      "error",
      `${operation}, begun ${since}, is at work or was interrupted`,
      "any other command finishes or undoes it, as: hivemind-sqlcipher list-clients",
    ),
  ];
}

/** A service, or a file, that cannot be asked is another check's finding. */
async function quietly<Result>(ask: () => Promise<Result>): Promise<Result | undefined> {
  try {
    return await ask();
  } catch (error) {
    if (error instanceof StoreError) return undefined;
    throw error;
  }
}
