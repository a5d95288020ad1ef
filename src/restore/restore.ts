import { dirname } from "node:path";
import { revoked } from "../client/client.js";
import { realPath } from "../config/paths.js";
import { StoreError } from "../errors.js";
import { moveFile, syncDirectory } from "../fs/atomic.js";
import { copyFile } from "../fs/copy.js";
import { lstatIfExists } from "../fs/read.js";
import { sidecars } from "../fs/sidecars.js";
import {
  findPasswordDelivery,
  type PasswordDelivery,
  passwordToReplace,
  resolvePasswordDelivery,
} from "../hub/password-delivery.js";
import { hubSchema } from "../hub/schema.js";
import { adoptPending, firstPassphrase, planRotation } from "../keys/rotation-plan.js";
import { describeSource, formatSource, isKept } from "../keys/source.js";
import {
  findPendingRestart,
  type ResolvedService,
  resolveService,
  type ServiceReport,
} from "../operation/downtime.js";
import { acquireLock } from "../operation/lock.js";
import { throwIfAborted } from "../process/abort.js";
import { recoverBefore } from "../recovery/recover.js";
import type { Reporter } from "../reporter.js";
import { keyIdOf, type StoreKey } from "../store/cipher.js";
import { type LockedStore, setJournalMode } from "../store/locked-store.js";
import { newestSchema } from "../store/schema.js";
import type { BundleOptions, BundleReport, OperationOptions } from "../swap/options.js";
import { type BundlePlan, bundleReport, checkBundleDirectory } from "../swap/prepare.js";
import { swap } from "../swap/swap.js";
import { counted } from "../text/count.js";
import { describeClient, escapeControlCharacters } from "../text/escape.js";
import { compareClients, type Differences, type Widened } from "./differences.js";
import { inspectPresentStore, openTable, type PresentStore } from "./present-store.js";
import {
  type BackupToVerify,
  isWhatWasVerified,
  type VerifiedBackup,
  verifyChosen,
} from "./verified-backup.js";

export interface RestoreOptions extends OperationOptions, Omit<BackupToVerify, "storePath"> {
  /** Restores to this path, absolute, at which nothing may be; the store and its service are left alone. */
  readonly to?: string | undefined;
  readonly discardReplaced?: boolean | undefined;
  readonly readmitRevoked?: boolean | undefined;
  /** Where bundles are, to see that the restored store has one there; a missing folder is a notice here. */
  readonly bundles?: BundleOptions | undefined;
}

export interface RestoreResult {
  readonly restored: {
    readonly path: string;
    readonly backup: string;
    /** When the backup was made; null without a manifest. */
    readonly created_at: string | null;
    readonly key_id: string;
    readonly schema_version: number;
    readonly clients: { readonly active: number; readonly revoked: number };
    /** Where the replaced store is; null if there was none, or if it was discarded. */
    readonly replaced: string | null;
    /** Ids that the backup had not revoked and that were left revoked. */
    readonly stayed_revoked: number[];
    readonly widened: Widened[];
    readonly passphrase_source: string;
    readonly hub: PasswordDelivery["how"];
  };
  readonly bundle: BundleReport | null;
  readonly service: ServiceReport;
}

/** How many of those whose permissions widen are named in the question. */
const named = 20;
/** How many admins are named where nothing here can vouch for the backup. */
const namedAdmins = 10;

/** What the store holds in the end. */
interface Completed {
  readonly clients: VerifiedBackup["clients"];
  readonly stayedRevoked: number[];
}

/**
 * Restores a backup.
 *
 * @throws StoreError `notFound` for a backup that is not there; `corrupted` for one that does not verify, or has no
 *   manifest that holds; `newerVersion`; `wrongPassphrase`; `refused` for a bundle of another store, a folder at the
 *   store's path, a path that is taken, an answer that is no, or a hub that would not get the passphrase; what
 *   `knowService` and `swap` throw.
 */
export async function restore(options: RestoreOptions): Promise<RestoreResult> {
  const { reporter, signal } = options;
  const to = options.to && (await findFreePath(options.to));
  const backup = await verifyChosen({ ...options, storePath: options.lock.storePath });
  throwIfAborted(signal);
  if (to === undefined || to === options.lock.storePath) {
    return await putInPlace({ ...options, to: undefined }, backup);
  }
  await using lock = await acquireLock(to);
  await recoverBefore(lock, reporter);
  const service = { service: "none", unit: options.service.unit, storePath: to } as const;
  return await putInPlace({ ...options, lock, hub: "none", service }, backup);
}

/**
 * Where a file is to be restored to, by the name that its lock, its journal and its passphrase in the keyring will be
 * looked for.
 *
 * @throws StoreError `refused` if something is there; `notFound` if its folder is not.
 */
async function findFreePath(path: string): Promise<string> {
  if (await lstatIfExists(path)) {
    throw new StoreError("refused", `${path} exists already`, { hint: "--to names a new file" });
  }
  const folder = dirname(path);
  if (await lstatIfExists(folder)) return await realPath(path);
  throw new StoreError("notFound", `there is no folder ${folder}`, {
    hint: `mkdir -m 700 '${folder}'`,
  });
}

async function putInPlace(options: RestoreOptions, backup: VerifiedBackup): Promise<RestoreResult> {
  const { lock, source, reporter, readmitRevoked = false } = options;
  const { storePath } = lock;
  const present = await inspectPresentStore(storePath, source, backup);
  const { differences } = present;
  const service = await resolveService(
    options.service,
    reporter,
    await findPendingRestart(storePath),
  );
  await ask(options, backup, present, await findHubObjection(options, service, backup));

  const changes = present.passphrase !== backup.passphrase;
  const delivery =
    changes && present.replaced.state !== "absent"
      ? await resolvePasswordDelivery(service, options.hub)
      : await findPasswordDelivery(service, options.hub);
  if (
    source.kind !== "keyring" &&
    (await firstPassphrase(source, storePath)) !== backup.passphrase
  ) {
    throw new StoreError(
      "refused",
      `${describeSource(source)} does not yield the passphrase of the backup`,
      { hint: "put it there first, or keep it in the keyring: --passphrase-source keyring" },
    );
  }
  await adoptPending(storePath, present.generation, reporter);
  const keyring = await planRotation(storePath, source, backup.passphrase, present, true);
  const keeps = present.replaced.state !== "absent" && !options.discardReplaced;
  const keepReplacedAs = keeps ? await freeName(storePath) : undefined;
  if (keepReplacedAs && present.replaced.state === "open" && !present.replaced.secret) {
    reporter.notice(`the replaced store, ${keepReplacedAs}, is not encrypted`);
  }
  let completed: Completed = { clients: backup.clients, stayedRevoked: [] };

  const outcome = await swap({
    ...options,
    operation: "restore",
    service,
    bundle: await bundlePlan(options),
    passphrase: backup.passphrase,
    keyring,
    replaced: present.replaced,
    keepReplacedAs,
    sources: { from: source, to: source },
    serverJson: changes ? passwordToReplace(delivery, reporter) : undefined,
    stage: (staged) => stageBackup(backup, staged),
    fill: async (staged, key, held) => {
      if (present.replaced.state === "absent") await moveStraysAside(storePath, reporter);
      completed = await complete(staged, key, held, { readmitRevoked, asked: differences });
    },
  });
  return {
    restored: {
      path: storePath,
      backup: backup.path,
      created_at: backup.createdAt,
      key_id: keyIdOf(backup.key.salt),
      schema_version: backup.schemaVersion,
      clients: completed.clients,
      replaced: keepReplacedAs ?? null,
      stayed_revoked: completed.stayedRevoked,
      widened: differences?.widened ?? [],
      passphrase_source: formatSource(source),
      hub: delivery.how,
    },
    bundle: bundleReport(outcome),
    service: outcome.service,
  };
}

/** Asks about everything that the one who restores has to know and can stop, in one question. */
async function ask(
  options: RestoreOptions,
  backup: VerifiedBackup,
  { replaced, differences }: PresentStore,
  objection: string | undefined,
): Promise<void> {
  const { lock, reporter, readmitRevoked } = options;
  const parts: string[] = [];
  const isKnown =
    !options.bundle || (await isKept(options.source, lock.storePath, backup.passphrase));
  if (!isKnown || backup.doubt !== undefined) {
    const { path, doubt, clients, admins, createdAt } = backup;
    const some = admins.slice(0, namedAdmins).join(", ");
    const more = admins.length > namedAdmins ? ` and ${admins.length - namedAdmins} more` : "";
    if (!isKnown) parts.push(`Nothing on this machine can vouch for ${path}.`);
    // Each page vouches for itself alone: an older state of one page beside a newer one of another goes unseen.
    if (doubt !== undefined) {
      parts.push(
        `Nothing says that ${path} is as it was made (${doubt}): some of its pages may be older than others.`,
      );
    }
    parts.push(
      `It has key_id ${keyIdOf(backup.key.salt)}, ${counted(clients.active, "client")} and ${clients.revoked} revoked, is ${createdAt === null ? "of unknown date" : `of ${createdAt}`}, and its admins are ${admins.length === 0 ? "none" : some + more}.`,
    );
  }
  if (objection !== undefined) {
    parts.push(`The backup has schema ${backup.schemaVersion}, and ${objection}.`);
  }
  if (replaced.state === "unopenable") {
    parts.push(
      `Nothing that is kept here opens ${lock.storePath}, so it is not known who is revoked in it and would be admitted again.`,
    );
  }
  if (differences && differences.widened.length > 0) {
    const { widened } = differences;
    parts.push(
      [
        `${widened.length === 1 ? "One client" : `${widened.length} clients`} could do more than now:`,
        ...widened
          .slice(0, named)
          .map(
            ({ client_id: id, name, what }) =>
              `  ${describeClient(id, name)} ${escapeControlCharacters(what.join("; "))}`,
          ),
        ...(widened.length > named ? [`  and ${widened.length - named} more`] : []),
      ].join("\n"),
    );
  }
  if (readmitRevoked && differences && differences.revoked.length > 0) {
    parts.push(
      `These clients are revoked, and would be admitted again: ${differences.revoked.join(", ")}.`,
    );
  }
  if (differences && differences.missing > 0) {
    reporter.notice(
      `${counted(differences.missing, "client")} of the present store not in the backup will not be admitted`,
    );
  }
  if (parts.length > 0) await reporter.confirm([...parts, "Restore it?"].join("\n"));
}

/** Why the hub here should not be given this backup. One that cannot be asked must not keep a restore from being made. */
async function findHubObjection(
  { to, reporter }: RestoreOptions,
  service: ResolvedService,
  { schemaVersion }: VerifiedBackup,
): Promise<string | undefined> {
  if (to !== undefined || schemaVersion < newestSchema) return undefined;
  try {
    return (await hubSchema(service))?.objection;
  } catch (error) {
    if (!(error instanceof StoreError)) throw error;
    reporter.notice(
      `it is not known whether the hub knows schema ${schemaVersion}: ${error.message}`,
    );
    return undefined;
  }
}

async function bundlePlan({ bundles, reporter }: RestoreOptions): Promise<BundlePlan | undefined> {
  if (!bundles) return undefined;
  try {
    return await checkBundleDirectory(bundles, reporter);
  } catch (error) {
    if (!(error instanceof StoreError) || error.kind === "refused") throw error;
    reporter.notice(`no bundle was written, keep the one there is: ${error.message}`);
    return undefined;
  }
}

/**
 * What was asked about was compared while the hub ran, and with a file in a folder that may be another's.
 *
 * @throws StoreError `refused` if more would be admitted, or more allowed, than was said then.
 */
function assertConfirmed(
  found: Differences,
  asked: Differences | undefined,
  readmitRevoked: boolean,
): void {
  const known = new Set(asked?.widened.map((change) => JSON.stringify(change)));
  const admitted = readmitRevoked ? found.revoked.filter((id) => !asked?.revoked.includes(id)) : [];
  const widened = found.widened.filter((change) => !known.has(JSON.stringify(change)));
  const ids = [...admitted, ...widened.map(({ client_id: id }) => id)];
  if (ids.length === 0) return;
  throw new StoreError(
    "refused",
    `the store has changed meanwhile: what the backup would allow these clients was not asked about: ${ids.slice(0, named).join(", ")}`,
    { hint: "nothing was changed; run it again, and look at the question once more" },
  );
}

/** A name for the replaced store that says when, and is free. */
async function freeName(storePath: string): Promise<string> {
  for (let second = Date.now(); ; second += 1000) {
    const when = new Date(second).toISOString().slice(0, 19).replaceAll(":", "-");
    const path = `${storePath}.replaced.${when}Z`;
    if (!(await lstatIfExists(path))) return path;
  }
}

/**
 * Moves away what SQLite has left of a store whose file is gone. It would take a `-wal` or a `-journal` there for the
 * restored store's own and write the pages in it over good ones.
 */
async function moveStraysAside(storePath: string, reporter: Reporter): Promise<void> {
  const name = await freeName(storePath);
  for (const suffix of sidecars) {
    if (!(await lstatIfExists(storePath + suffix))) continue;
    await moveFile(storePath + suffix, name + suffix);
    reporter.notice(
      `${storePath}${suffix} belongs to a store that is not there any more; it is now ${name}${suffix}`,
    );
  }
  await syncDirectory(dirname(storePath));
}

/** Copies the verified backup, and sees that the copy is what was verified. */
async function stageBackup(backup: VerifiedBackup, staged: string): Promise<StoreKey> {
  await copyFile(backup.path, staged);
  if (!(await isWhatWasVerified(staged, backup))) {
    throw new StoreError("corrupted", `the copy of ${backup.path} is not what was verified`, {
      hint: "another program writes there, or the disk or the memory of this machine is not to be trusted",
    });
  }
  return backup.key;
}

/**
 * Makes the copy what the store is to be: who is revoked in the store as it was left stays revoked, and the journal mode
 * is the store's.
 */
async function complete(
  staged: string,
  key: StoreKey | undefined,
  held: LockedStore | undefined,
  options: { readmitRevoked: boolean; asked: Differences | undefined },
): Promise<Completed> {
  const { readmitRevoked, asked } = options;
  await using store = await openTable(staged, key);
  let stayedRevoked: number[] = [];
  if (held) {
    await using now = await openTable(held.path, held.secret);
    const found = await compareClients(now, store);
    assertConfirmed(found, asked, readmitRevoked);
    if (!readmitRevoked) stayedRevoked = found.revoked;
    await store.addItems(stayedRevoked.map(revoked));
  }
  const counts = await store.counts();
  if (held) await setJournalMode(store.connection, held.journalMode);
  return { clients: counts, stayedRevoked };
}
