/** Verifies the backups of a fleet: all stores with backups in a target shared by several hubs. */
import { basename, join } from "node:path";
import { type BundleOpener, readBundle } from "../bundle/bundle.js";
import { isKind, StoreError, wrap } from "../errors.js";
import { lstatIfExists } from "../fs/read.js";
import { bundleName } from "../keys/bundle-name.js";
import { orAbort, throwIfAborted } from "../process/abort.js";
import { counted } from "../text/count.js";
import { compareTexts, type FleetEntry, type FleetFiles, readEntry, summaryKey } from "./fleet.js";
import type { ListingOptions } from "./listing.js";
import { backupOf, manifestPath, storeNameIn } from "./manifest.js";
import { hasPart } from "./parts.js";
import { type BackupPassphrase, describeFailedChecks, verifyBackup } from "./verify.js";

export interface FleetSecrets extends Omit<ListingOptions, "folder"> {
  /** Opens the bundles; undefined if no key was given. */
  readonly opener: BundleOpener | undefined;
}

export interface FleetVerification {
  readonly path: string;
  /** Null for a backup of an earlier version, and if the manifest cannot be read. */
  readonly storeId: string | null;
  /** Null if the manifest cannot be read. */
  readonly keyId: string | null;
  /**
   * Null if no known passphrase opens the backup, if it cannot be read, or if a newer version made
   * it.
   */
  readonly ok: boolean | null;
  /** The first failed check, or why the backup was not opened; null if it is intact. */
  readonly problem: string | null;
}

/**
 * Verifies the backups of all stores in a target, as `verifyBackup` does. Skips a `.db` file
 * without a manifest: another hub may be copying it.
 *
 * @throws {@link StoreError} notFound, io - if the target does not exist or cannot be read
 * @throws {@link StoreError} io - after the last result, if backups cannot be read
 * @throws {@link StoreError} failed, usage - if rclone is not installed or does not know the remote
 * @throws {@link StoreError} interrupted - if the signal is aborted
 */
export async function* verifyStores(
  files: FleetFiles,
  secrets: FleetSecrets,
  signal?: AbortSignal,
): AsyncGenerator<FleetVerification> {
  const keys = new FleetKeys(secrets);
  const unread: StoreError[] = [];
  for (const name of await files.names()) {
    throwIfAborted(signal);
    const entry = await readEntry(name, files).catch(toOutcome);
    if (entry === undefined) continue;
    const isRead = "manifest" in entry;
    const outcome = isRead ? await verifyEntry(entry, files, keys, signal) : entry;
    if (outcome === undefined) continue;
    const { ok, problem, error } = outcome;
    if (error) unread.push(error);
    const storeId = isRead ? (entry.manifest.store_id ?? null) : null;
    const keyId = isRead ? entry.manifest.key_id : null;
    yield { path: join(files.folder, backupOf(name)), storeId, keyId, ok, problem };
  }
  const [first] = unread;
  if (first === undefined) return;
  const message = `${counted(unread.length, "backup")} could not be read: ${first.message}`;
  throw wrap(first, { message });
}

interface Outcome extends Pick<FleetVerification, "ok" | "problem"> {
  /** The error if the backup cannot be read. The backup need not be damaged. */
  readonly error?: StoreError;
}

/**
 * Returns the outcome for a backup that cannot be verified. It is damaged, unless it cannot be read
 * by this user, on this disk or by this version.
 */
function toOutcome(error: unknown): Outcome {
  if (!(error instanceof StoreError)) throw error;
  const { message: problem } = error;
  if (error.kind === "io") return { ok: null, problem, error };
  return { ok: error.kind === "newerVersion" ? null : false, problem };
}

/** @returns undefined if another hub has removed the backup */
async function verifyEntry(
  { file, manifest }: FleetEntry,
  files: FleetFiles,
  keys: FleetKeys,
  signal: AbortSignal | undefined,
): Promise<Outcome | undefined> {
  const keyId = manifest.key_id;
  if ((await files.sizeOf(file)) === undefined) {
    const isGone = (await files.sizeOf(manifestPath(file))) === undefined;
    if (isGone) return undefined;
    return hasPart(await files.names(), file)
      ? { ok: null, problem: "it is in parts: verify it by its name, without --all" }
      : { ok: false, problem: "its file is missing" };
  }
  const known = await keys.findSecret(keyId);
  if ("reason" in known) return { ok: null, problem: known.reason };
  try {
    await files.assertFits(file);
  } catch (error) {
    if (!isKind(error, "io")) throw error;
    return toOutcome(error);
  }
  const verify = async (path: string): Promise<Outcome> => {
    try {
      const { ok, checks } = await verifyBackup(path, known.secret);
      return { ok, problem: describeFailedChecks(checks)[0] ?? null };
    } catch (error) {
      if (isKind(error, "wrongPassphrase", "passphraseUnavailable")) {
        return { ok: null, problem: await keys.giveUp(keyId, error) };
      }
      return toOutcome(error);
    }
  };
  try {
    return await orAbort(files.withFile(file, verify), signal);
  } catch (error) {
    throwIfAborted(signal);
    // Any other error, such as an unreachable remote or a full disk, would occur again.
    if (!isKind(error, "notFound")) throw error;
    return { ok: false, problem: error.message };
  }
}

type FleetSecret = { readonly secret: BackupPassphrase } | { readonly reason: string };

/**
 * The passphrases of a fleet, from bundles or the store's own source. If a backup does not open,
 * its key_id is not tried again: each attempt derives a key, which takes 200 ms or more.
 */
class FleetKeys {
  readonly #known = new Map<string, FleetSecret>();
  readonly #secrets: FleetSecrets;

  constructor(secrets: FleetSecrets) {
    this.#secrets = secrets;
  }

  async findSecret(keyId: string): Promise<FleetSecret> {
    const secret = this.#known.get(keyId) ?? (await this.#resolveSecret(keyId));
    this.#known.set(keyId, secret);
    return secret;
  }

  /** Marks a key_id as not to be tried again, and returns the reason. */
  async giveUp(keyId: string, error: StoreError): Promise<string> {
    const bundle = this.#secrets.opener ? undefined : await this.#findBundle(keyId);
    const why =
      error.kind === "wrongPassphrase" ? "the known passphrases do not open it" : error.message;
    const reason = bundle
      ? `${why}; to use its bundle ${bundle}, add --identity FILE`
      : error.message;
    this.#known.set(keyId, { reason });
    return reason;
  }

  async #resolveSecret(keyId: string): Promise<FleetSecret> {
    const { opener, source, storePath } = this.#secrets;
    const bundle = opener && (await this.#findBundle(keyId));
    if (opener === undefined || bundle === undefined) return { secret: { source, storePath } };
    try {
      const { passphrase } = await readBundle(bundle, opener);
      return { secret: { passphrase } };
    } catch (error) {
      if (!(error instanceof StoreError)) throw error;
      return { reason: error.message };
    }
  }

  async #findBundle(keyId: string): Promise<string | undefined> {
    const { bundleFolder } = this.#secrets;
    if (bundleFolder === undefined) return undefined;
    const path = join(bundleFolder, bundleName(keyId));
    return (await lstatIfExists(path)) ? path : undefined;
  }
}

export interface StoreVerdict {
  /** Null for backups of earlier versions, and for unreadable manifests. */
  readonly storeId: string | null;
  /** The name of the store's file without `.db`. */
  readonly name: string;
  readonly intact: number;
  readonly damaged: number;
  readonly notOpened: number;
  /** Why the first backup was not opened; null if all were opened. */
  readonly reason: string | null;
}

/** Counts the results for the backups of a fleet, by store. */
export class FleetVerdicts {
  readonly #stores = new Map<
    string,
    { -readonly [Key in keyof StoreVerdict]: StoreVerdict[Key] }
  >();

  add({ path, storeId, keyId, ok, problem }: FleetVerification): void {
    const name = storeNameIn(basename(path)) ?? "";
    const key = summaryKey(storeId, keyId, name);
    const counts = { intact: 0, damaged: 0, notOpened: 0, reason: null };
    const verdict = this.#stores.get(key) ?? { storeId, name, ...counts };
    this.#stores.set(key, verdict);
    if (ok === null) {
      verdict.notOpened += 1;
      verdict.reason ??= problem;
    } else if (ok) verdict.intact += 1;
    else verdict.damaged += 1;
  }

  /** Returns the stores, by name and id. */
  get stores(): StoreVerdict[] {
    return [...this.#stores.values()].sort(
      (a, b) => compareTexts(a.name, b.name) || compareTexts(a.storeId ?? "", b.storeId ?? ""),
    );
  }

  sum(count: "intact" | "damaged" | "notOpened"): number {
    return [...this.#stores.values()].reduce((sum, store) => sum + store[count], 0);
  }
}
