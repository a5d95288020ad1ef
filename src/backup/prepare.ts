/** The options of a backup, and the checks before it, while the service runs. */
import { constants } from "node:fs";
import { access, realpath, stat } from "node:fs/promises";
import { resolveRecipients } from "../bundle/bundle.js";
import { assertPlacement } from "../bundle/placement.js";
import { prepareDirectories } from "../config/known-directories.js";
import { StoreError, systemError } from "../errors.js";
import { assertFreeSpace } from "../fs/copy.js";
import { statIfExists } from "../fs/read.js";
import type { PassphraseSource } from "../keys/source.js";
import { unlock } from "../keys/unlock.js";
import type { OperationLock } from "../operation/lock.js";
import { type ResolvedService, resolveService } from "../operation/service.js";
import type { Reporter } from "../reporter.js";
import { noService } from "../service/none.js";
import { isSidecar } from "../service/origin.js";
import type { ServiceChoice } from "../service/select.js";
import type { StoreKey } from "../store/cipher.js";
import { ClientStore } from "../store/client-store.js";
import { assertClockNotBehind } from "./clock.js";
import { isWal } from "./warm-copy.js";

export interface BackupOptions {
  /** The store's operation lock, from `withOperation`. */
  readonly lock: OperationLock;
  readonly source: PassphraseSource;
  /** The directory for backups. */
  readonly to: string;
  /** The directory for bundles, apart from `to`. */
  readonly bundleTo: string;
  /** Directories named in the settings. They are not created if they are missing. */
  readonly knownDirectories?: readonly string[];
  /** The age recipients of the bundle. */
  readonly recipients: readonly string[];
  /** Encrypts the bundle with this passphrase instead of `recipients`. */
  readonly bundlePassphrase?: string | undefined;
  /** Continues although the clock is behind the newest backup. */
  readonly ignoreClock?: boolean | undefined;
  readonly service: ServiceChoice;
  /** Does not stop the service. Requires a store in WAL mode. */
  readonly online?: boolean;
  /** The argument list of the recovery, for the restart timer. */
  readonly recoveryCommand: readonly string[];
  /** Interrupts the backup: the service is started again, and no backup is left. */
  readonly signal?: AbortSignal | undefined;
  readonly reporter: Reporter;
}

/** The options of a backup of any database. */
export type DestinationOptions = Omit<
  BackupOptions,
  "bundlePassphrase" | "service" | "online" | "recoveryCommand" | "signal"
>;

/**
 * For the manifest, and for a copy that is larger than the database was before the backup: 4 MiB.
 */
const spareBytes = 4 << 20;

/** The directories of a backup, without symbolic links. */
export interface BackupDirectories {
  readonly directory: string;
  readonly bundleDirectory: string;
}

/** The result of the checks before the backup. */
export interface Prepared extends BackupDirectories {
  readonly storePath: string;
  readonly passphrase: string;
  readonly key: StoreKey;
  readonly isWal: boolean;
  /** In bytes, including the log. */
  readonly size: number;
  readonly service: ResolvedService;
  readonly method: "stopped" | "online";
}

/**
 * Checks in advance that a backup can be made: passphrase, service, directories and free space.
 * Creates nothing but the two directories.
 *
 * @throws {@link StoreError} - as `backup` does before it stops the service
 */
export async function prepareBackup(options: BackupOptions): Promise<Prepared> {
  const { reporter, online = false } = options;
  const { storePath } = options.lock;
  resolveRecipients(options);
  await assertPlacement(options.to, options.bundleTo, reporter);

  const unlocked = await unlock(storePath, options.source, { mode: "readwrite" });
  const store = await ClientStore.from(unlocked);
  const wal = await isWal(unlocked.connection).finally(() => store.close());
  if (online && !wal) {
    throw new StoreError(
      "refused",
      `${storePath} is not in WAL mode, so an online copy could be inconsistent and would block its service`,
      { hint: "Back it up without --online. The service is stopped for the whole copy." },
    );
  }

  const service: ResolvedService = online
    ? { service: noService(), choice: options.service, wasActive: false }
    : await resolveService({ ...options.service, storePath }, reporter);
  const method = online || mayBeInUse(service, wal, reporter) ? "online" : "stopped";
  if (!wal && service.wasActive) {
    const name = service.service.name ?? "the service";
    reporter.notice(`${storePath} is not in WAL mode: ${name} is stopped for the whole copy`);
  }

  const size = await readSizeOnDisk(storePath);
  const directories = await prepareDestination(options, size);
  return {
    storePath,
    ...directories,
    passphrase: unlocked.passphrase,
    key: store.key,
    isWal: wal,
    size,
    service,
    method,
  };
}

/**
 * Returns whether a program outside of this container may use the store during the backup. Such a
 * program can be neither detected nor stopped, so the manifest must not call the backup "stopped".
 *
 * @throws {@link StoreError} refused - if the store is not in WAL mode, without `--service none`
 */
function mayBeInUse(
  { service, choice }: ResolvedService,
  wal: boolean,
  reporter: Reporter,
): boolean {
  if (service.kind !== "none" || !isSidecar()) return false;
  if (wal) {
    reporter.notice(
      "this command runs in a container, where it can neither detect nor stop a hub outside: the backup is made online",
    );
    return true;
  }
  if (choice.service === "none") return false;
  throw new StoreError(
    "refused",
    `${choice.storePath} is not in WAL mode, and a hub outside of this container may be using it`,
    {
      hint: "Run this command outside of the container, or add --service none if no program uses the store.",
    },
  );
}

/** Returns the size of the main file and its log in bytes, without opening them. */
async function readSizeOnDisk(storePath: string): Promise<number> {
  const main = await statIfExists(storePath);
  const wal = await statIfExists(`${storePath}-wal`);
  return (main?.size ?? 0) + (wal?.size ?? 0);
}

/**
 * Creates the directories of a backup if they are new, and checks them and the clock.
 *
 * @param size - bytes of the database
 */
export async function prepareDestination(
  { lock, to, bundleTo, knownDirectories = [], ignoreClock, source, reporter }: DestinationOptions,
  size: number,
): Promise<BackupDirectories> {
  const { storePath } = lock;
  await prepareDirectories([to, bundleTo], { storePath, known: knownDirectories, reporter });
  const directory = await realpath(to);
  if (!ignoreClock) await assertClockNotBehind({ folder: directory, storePath, source });
  await assertWritable(directory, "backup");
  await assertWritable(bundleTo, "bundle");
  const hint = "Free some space there, or name another directory with --to.";
  await assertFreeSpace(directory, size + spareBytes, "the copy", hint);
  return { directory, bundleDirectory: await realpath(bundleTo) };
}

/**
 * Throws if a directory cannot be written. Without this check, the backup of a store that is not in
 * WAL mode would fail after the service was stopped.
 *
 * @throws {@link StoreError} io - if the path is not a directory, or cannot be written
 */
async function assertWritable(directory: string, purpose: "backup" | "bundle"): Promise<void> {
  const what = `the ${purpose} directory ${directory}`;
  try {
    if (!(await stat(directory)).isDirectory())
      throw new StoreError("io", `${what} is not a directory`);
    await access(directory, constants.W_OK | constants.X_OK);
  } catch (error) {
    throw systemError(error, `cannot write to ${what}`);
  }
}
