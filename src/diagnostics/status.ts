/** The state of a store for `status`. Only reads; an error becomes an entry of `problems`. */
import { type Drill, readDrills } from "../backup/drill-record.js";
import { findNewestBackup } from "../backup/manifest.js";
import { findLastRestoreTests, type RestoreTest } from "../backup/restore-test.js";
import { type ClientCounts, countClients } from "../client/client.js";
import { type ConfiguredTarget, type CopyState, readCopyStates } from "../copies/copy-record.js";
import { type LocatedDatabase, openToRead } from "../databases/copy-clients.js";
import { StoreError } from "../errors.js";
import type { PassphraseSource } from "../keys/source.js";
import { openWithSource } from "../keys/unlock.js";
import { Journal } from "../operation/journal.js";
import { type Run, readRuns } from "../operation/run-record.js";
import { waitForOperation } from "../recovery/wait.js";
import { readSchedule, type Schedule } from "../service/schedule-state.js";
import { type ServiceChoice, selectService } from "../service/select.js";
import type { ServiceKind } from "../service/service.js";
import { type CipherCompatibility, type Identity, identify } from "../store/cipher.js";
import { openPlaintext } from "../store/plain-store.js";

export interface StatusOptions {
  readonly storePath: string;
  readonly source: PassphraseSource;
  readonly service: ServiceChoice;
  readonly backupFolder: string | undefined;
  readonly copyTargets: readonly ConfiguredTarget[];
  /** Returns the hub's database; undefined if the hub uses the store at `storePath`. */
  readonly findHubDatabase: () => Promise<LocatedDatabase | undefined>;
  /** Errors in the settings, to report. The settings in error are ignored. */
  readonly settingsProblems: readonly StoreError[];
}

export interface StoreStatus {
  readonly path: string;
  readonly format: Identity["format"];
  readonly cipherCompatibility: CipherCompatibility | null;
  readonly keyId: string | null;
  readonly schemaVersion: number | null;
  readonly clients: ClientCounts | null;
  /** The hub's database, if there is no store and the hub uses another database. */
  readonly database: { readonly module: string; readonly location: string } | null;
  readonly service: {
    readonly kind: ServiceKind;
    readonly unit: string | null;
    readonly active: boolean;
  } | null;
  /** The newest backup by its unverified manifest. */
  readonly lastBackup: { readonly path: string; readonly createdAt: string } | null;
  /** The schedule and its last run; null if no backups are scheduled. */
  readonly schedule: Schedule | null;
  readonly runs: ReadonlyMap<string, Run>;
  /** The last copy to each target in the settings. */
  readonly copies: readonly CopyState[];
  readonly drills: readonly Drill[];
  readonly lastRestoreTest: BackupTest | null;
  /** The last restore test with a bundle and its key. */
  readonly lastBundleTest: BackupTest | null;
  /** A running or interrupted operation. */
  readonly pending: {
    readonly operation: string;
    readonly startedAt: string;
    readonly step: string;
  } | null;
  /** The errors of the settings and of the parts that could not be read, each once. */
  readonly problems: string[];
}

type BackupTest = Pick<RestoreTest, "at" | "backup">;

/** Reads the state of a store. Throws no error: what cannot be read is null or empty. */
export async function readStoreStatus(options: StatusOptions): Promise<StoreStatus> {
  const { storePath } = options;
  const problems = options.settingsProblems.map(({ message }) => message);
  /** Returns null on an error and adds its message to the problems. */
  const attempt = async <Part>(part: () => Promise<Part>): Promise<Part | null> => {
    try {
      return await part();
    } catch (error) {
      problems.push(error instanceof StoreError ? error.message : String(error));
      return null;
    }
  };

  const identity = (await attempt(() => identify(storePath))) ?? { format: "unknown" as const };
  const inside =
    identity.format === "sqlcipher" || identity.format === "plaintext"
      ? await attempt(() => inspectStore(storePath, options.source, identity.format))
      : null;
  const hubDatabase = await attempt(options.findHubDatabase);
  const counted = hubDatabase && (await attempt(() => countHubClients(hubDatabase)));
  const service = await attempt(async () => {
    const found = await selectService(options.service);
    const { active, restarting = false } = await found.state();
    if (restarting) problems.push(`${found.name} is in a restart loop: the hub does not run`);
    return { kind: found.kind, unit: found.name, active: active && !restarting };
  });
  const { backupFolder } = options;
  const lastBackup =
    backupFolder && (await attempt(() => findNewestBackup(backupFolder, storePath)));
  const schedule = await attempt(() => readSchedule(storePath, "backup"));
  const journal = await attempt(() => Journal.read(storePath));
  const runs = await attempt(() => readRuns(storePath));
  const copies = await attempt(() => readCopyStates(storePath, options.copyTargets));
  const drills = await attempt(() => readDrills(storePath));
  const tests = await attempt(() => findLastRestoreTests(storePath));
  return {
    path: storePath,
    format: identity.format,
    cipherCompatibility: inside?.cipherCompatibility ?? null,
    keyId: "keyId" in identity ? (identity.keyId ?? null) : null,
    schemaVersion: inside?.schemaVersion ?? null,
    clients: inside?.clients ?? counted ?? null,
    database: hubDatabase ? { module: hubDatabase.name, location: hubDatabase.location } : null,
    service,
    lastBackup: lastBackup || null,
    schedule: schedule ?? null,
    runs: new Map(Object.entries(runs ?? {})),
    copies: copies ?? [],
    drills: drills ?? [],
    lastRestoreTest: toBackupTest(tests?.last),
    lastBundleTest: toBackupTest(tests?.withBundle),
    pending: journal
      ? {
          operation: journal.entry.operation,
          startedAt: journal.entry.started_at,
          step: journal.entry.step,
        }
      : null,
    problems: [...new Set(problems)],
  };
}

function toBackupTest(test: RestoreTest | undefined): BackupTest | null {
  return test ? { at: test.at, backup: test.backup } : null;
}

async function countHubClients(database: LocatedDatabase) {
  await using clients = await openToRead(database);
  return await countClients(clients);
}

/** How long `status` waits for a running operation before it reports that the store is in use. */
const maxWaitMs = 5_000;

async function inspectStore(
  storePath: string,
  source: PassphraseSource,
  format: Identity["format"],
) {
  if (format === "plaintext") {
    await using plain = await waitForOperation(
      storePath,
      () => openPlaintext(storePath),
      maxWaitMs,
    );
    const { schemaVersion } = plain;
    return { cipherCompatibility: null, schemaVersion, clients: await plain.counts() };
  }
  const open = () => openWithSource(storePath, source, { mode: "readwrite" });
  await using store = await waitForOperation(storePath, open, maxWaitMs);
  return {
    cipherCompatibility: store.key.cipherCompatibility,
    schemaVersion: store.schemaVersion,
    clients: await store.counts(),
  };
}
