/**
 * Puts another file in the store's place: the engine of encrypt, decrypt, rotate and restore.
 *
 *   stage    the new file is made beside the store, its passphrase kept, its bundle verified
 *   verify   the service is stopped and the store locked; the new file is filled, compared, synced
 *   commit   the store gets a second name, and the new file is renamed to the first
 *   apply    server.json, settings and keyring follow; the service starts; the old file goes
 *
 * Each step is journaled before it begins. A failure calls the recovery that follows a kill.
 */
import { randomBytes } from "node:crypto";
import { link, rename, rm } from "node:fs/promises";
import { basename, dirname, join } from "node:path";
import { type Bundle, bundleName, writeBundle } from "../bundle/bundle.js";
import { realPath } from "../config/paths.js";
import { hasCode, StoreError, systemError } from "../errors.js";
import { assertReplaceable, stagedName, syncDirectory } from "../fs/atomic.js";
import { assertFreeSpace, syncFile } from "../fs/copy.js";
import { assertMetadataCopyable, copyMetadata } from "../fs/metadata.js";
import { assertNotMountPoint } from "../fs/mount.js";
import { lstatIfExists } from "../fs/read.js";
import { sidecars } from "../fs/sidecars.js";
import { passwordIn, readServerJson } from "../hub/server-json.js";
import {
  assertPassphraseKept,
  type KeyringPlan,
  keepCurrent,
  keepPassword,
  keepPending,
  resolvePasswordSlot,
} from "../keys/rotation-plan.js";
import { formatSource, type PassphraseSource } from "../keys/source.js";
import type { Downtime } from "../operation/downtime.js";
import { Journal } from "../operation/journal.js";
import type { OperationLock } from "../operation/lock.js";
import { type OperationFailure, orRecover } from "../operation/recovery.js";
import { assertNoHolders, type ResolvedService, type ServiceReport } from "../operation/service.js";
import { withServiceStopped } from "../operation/window.js";
import { throwIfAborted } from "../process/abort.js";
import type { Reporter } from "../reporter.js";
import { keyIdOf, type Secret, type StoreKey } from "../store/cipher.js";
import { assertNoSidecars, LockedStore } from "../store/locked-store.js";
import type { BundlePlan } from "./prepare.js";
import { recoverSwap } from "./recover.js";
import { type SwapJournal, type SwapOperation, SwapState } from "./state.js";

/** Time limit of the work while the service is stopped, for a small store: 60 s. */
const windowBudgetMs = 60_000;
/** Added for large stores. A small board with a slow card exports and compares 5 MB/s. */
const slowestBytesPerMs = 5_000;
/** The new file may be larger than the old one, and journals need space: 8 MiB. */
const spareBytes = 8 << 20;

/** The errors of `link` on a file system without hard links. */
const withoutHardLinks = ["EPERM", "ENOTSUP", "ENOSYS", "EMLINK"];

/** The store before the swap. */
export type Replaced =
  | { readonly state: "open"; readonly secret: Secret }
  /** There is a file, and no kept passphrase opens it. */
  | { readonly state: "unopenable" }
  | { readonly state: "absent" };

/** What a swap changes, and with what. */
export interface SwapPlan {
  readonly operation: SwapOperation;
  readonly lock: OperationLock;
  readonly replaced: Replaced;
  /** The path where the replaced file stays; without it the file is removed. */
  readonly keepReplacedAs?: string | undefined;
  /** The passphrase of the new file; undefined if it is not encrypted. */
  readonly passphrase: string | undefined;
  /** The passphrase source before and after the swap. */
  readonly sources: { readonly from: PassphraseSource; readonly to: PassphraseSource };
  readonly keyring?: KeyringPlan | undefined;
  /** The settings file, if its passphrase source changes. */
  readonly settings?: string | undefined;
  readonly serverJson?: SwapJournal["server_json"];
  /** The bundle for the new file, which is written while the file is staged. */
  readonly bundle?: BundlePlan | undefined;
  /** The key of the replaced file, if its backups are to keep a bundle. */
  readonly replacedBundle?: { readonly passphrase: string; readonly key: StoreKey } | undefined;
  readonly service: ResolvedService;
  /** The argument list that recovers this store's journal, for the restart timer. */
  readonly recoveryCommand: readonly string[];
  readonly reporter: Reporter;
  readonly signal: AbortSignal;
}

/**
 * @typeParam Key - of the new file: `undefined` if it is not encrypted
 * @typeParam Filled - what `fill` returns
 */
export interface SwapRequest<Key extends Secret, Filled> extends SwapPlan {
  /** Creates the staged file, mode 0600, while the service still runs. */
  readonly stage: (staged: string) => Promise<Key>;
  /** Fills and verifies the staged file while the service is stopped. */
  readonly fill: (staged: string, key: Key, replaced: LockedStore | undefined) => Promise<Filled>;
}

export interface SwapOutcome<Key extends Secret, Filled> {
  readonly key: Key;
  readonly filled: Filled;
  readonly bundle: Bundle | undefined;
  readonly service: ServiceReport;
}

/**
 * Replaces the store's file.
 *
 * @throws {@link StoreError} of every kind. Unless the message says otherwise, the store is
 *   unchanged and a service that was running runs again. If the recovery is incomplete, the message
 *   says so, and the next command continues it.
 */
export async function swap<Key extends Secret, Filled>(
  request: SwapRequest<Key, Filled>,
): Promise<SwapOutcome<Key, Filled>> {
  const { service, recoveryCommand, reporter, signal } = request;
  const size = await assertSwappable(request);
  const state = await begin(request);
  const recover = async (failed: OperationFailure) => (await recoverSwap(state, failed)).error;
  const { key, bundle } = await orRecover(() => stage(request, state), recover);
  const { result: filled, restart } = await withServiceStopped(
    {
      service,
      budgetMs: windowBudgetMs + size / slowestBytesPerMs,
      recoveryCommand,
      reporter,
      signal,
      restartIfUp: true,
      journalStop: (stopped) => state.write("stopping", stopped && { stopped }),
      onArmed: () => state.emitStep("armed"),
      recover,
    },
    async (downtime) => {
      const result = await fillAndCommit(request, state, key, downtime);
      await state.applyPassphrase();
      // A full disk must not keep the service down. For a recovery this is the step before.
      await state.write("starting").catch(() => undefined);
      return result;
    },
  );
  const { name } = service.service;
  if (restart) state.emitStep("started");
  if (restart?.wasUp) {
    reporter.notice(`something had started ${name ?? "the service"}, so it was restarted`);
  }
  await state.clean();
  return {
    key,
    filled,
    bundle,
    service: {
      unit: name,
      was_active: service.wasActive,
      active: service.wasActive || service.pendingRestart !== undefined,
      stopped_ms: restart?.downtimeMs ?? null,
    },
  };
}

/** @returns the size of the store in bytes, which the new file may need as well */
async function assertSwappable({ lock: { storePath } }: SwapPlan): Promise<number> {
  const before = await lstatIfExists(storePath);
  if (before && !before.isFile()) {
    throw new StoreError("refused", `${storePath} is not a regular file`);
  }
  if (before) await assertMetadataCopyable(storePath, before);
  await assertNotMountPoint(storePath);
  const size = Number(before?.size ?? 0n);
  const hint = "Free some space there. Nothing was changed.";
  await assertFreeSpace(dirname(storePath), size + spareBytes, "the new file", hint);
  return size;
}

/** Begins the journal of the swap. */
async function begin(request: SwapPlan): Promise<SwapState> {
  const { operation, lock, replaced, service, bundle, replacedBundle } = request;
  const { storePath } = lock;
  const { pendingRestart } = service;
  const hidden = `.${basename(storePath)}.${randomBytes(6).toString("hex")}.replaced`;
  const aside = request.keepReplacedAs ?? join(dirname(storePath), hidden);
  const serverJson = await resolveServerJson(request);
  const data: SwapJournal = {
    staged: stagedName(storePath),
    aside: replaced.state === "absent" ? null : aside,
    keep_aside: request.keepReplacedAs !== undefined,
    source: { from: formatSource(request.sources.from), to: formatSource(request.sources.to) },
    ...(request.keyring && { keyring: request.keyring }),
    ...(request.settings && { settings: request.settings }),
    ...(serverJson && { server_json: serverJson }),
    ...(bundle &&
      replacedBundle && {
        replaced_bundle: {
          folder: bundle.directory,
          key_id: keyIdOf(replacedBundle.key.salt),
          made: false,
        },
      }),
    ...(pendingRestart && { stopped: pendingRestart.stopped }),
  };
  const journal = await Journal.begin(
    storePath,
    operation,
    "staging",
    data,
    pendingRestart?.journal,
  );
  return new SwapState(storePath, journal, data);
}

/** Does everything that is possible while the service runs. */
async function stage<Key extends Secret>(
  request: SwapRequest<Key, unknown>,
  state: SwapState,
): Promise<{ key: Key; bundle: Bundle | undefined }> {
  const { keyring, passphrase, sources, bundle: plan, replacedBundle, reporter } = request;
  const { pendingRestart, service } = request.service;
  const { storePath, data } = state;
  // Left armed, the earlier timer could start the service during the work.
  const earlierTimer = pendingRestart?.stopped.timer;
  if (earlierTimer !== undefined) await service.disarmRestart(earlierTimer);
  state.emitStep("staging");
  throwIfAborted(request.signal);
  // These files change only after the store is replaced.
  if (data.server_json) await assertReplaceable(await realPath(data.server_json.path));
  if (data.settings) await assertReplaceable(data.settings);
  await keepReplacedPassword(state, reporter);
  if (plan && replacedBundle) {
    const { path, reused } = await writeBundle({ ...plan, ...replacedBundle, storePath });
    reporter.detail(`${reused ? "found" : "wrote"} the bundle of the old passphrase: ${path}`);
  }
  if (keyring?.pending && passphrase !== undefined) await keepPending(storePath, passphrase);
  state.emitStep("pending-kept");
  const key = await request.stage(data.staged);
  await copyMetadata(storePath, data.staged);
  state.emitStep("staged");
  const bundle =
    plan && key && passphrase !== undefined
      ? await writeNewBundle(state, plan, passphrase, key)
      : undefined;
  if (bundle) reporter.detail(`${bundle.reused ? "found" : "wrote"} the bundle: ${bundle.path}`);
  state.emitStep("bundled");
  if (passphrase !== undefined)
    await assertPassphraseKept(storePath, sources.to, keyring, passphrase);
  if (keyring) await keepCurrent(storePath, keyring);
  state.emitStep("current-kept");
  return { key, bundle };
}

/** Keeps the password of `server.json`, if the swap replaces it and it is kept nowhere else. */
async function keepReplacedPassword(state: SwapState, reporter: Reporter): Promise<void> {
  const { server_json: serverJson } = state.data;
  if (serverJson?.previous === undefined) return;
  const password = passwordIn(await readServerJson(serverJson.path));
  if (password === undefined) return;
  await keepPassword(state.storePath, serverJson.previous, password);
  reporter.notice(
    `kept the present password of ${serverJson.path} in the keyring, as a previous one`,
  );
}

async function writeNewBundle(
  state: SwapState,
  plan: BundlePlan,
  passphrase: string,
  key: StoreKey,
): Promise<Bundle> {
  const { directory } = plan;
  const keyId = keyIdOf(key.salt);
  // A bundle that exists belongs to another file with this key, so recovery must not remove it.
  const made = !(await lstatIfExists(join(directory, bundleName(keyId))));
  await state.write("bundling", { bundle: { folder: directory, key_id: keyId, made } });
  const { storePath } = state;
  return writeBundle({
    ...plan,
    storePath: state.data.staged,
    database: storePath,
    passphrase,
    key,
  });
}

/** Fills the staged file from the locked store, and puts it in the store's place. */
async function fillAndCommit<Key extends Secret, Filled>(
  request: SwapRequest<Key, Filled>,
  state: SwapState,
  key: Key,
  downtime: Downtime | undefined,
): Promise<Filled> {
  const { replaced, signal, fill } = request;
  const { storePath, data } = state;
  await assertNoHolders(storePath);
  state.emitStep("stopped");
  throwIfAborted(signal);
  const locked =
    replaced.state === "open" ? await LockedStore.lock(storePath, replaced.secret) : undefined;
  try {
    state.emitStep("held");
    const filled = await fill(data.staged, key, locked);
    state.emitStep("filled");
    await assertNoSidecars(data.staged);
    await syncFile(data.staged);
    state.emitStep("synced");
    await assertStillStopped(storePath, downtime);
    throwIfAborted(signal);
    await commit(state, locked !== undefined);
    return filled;
  } finally {
    // The journal mode of a store that stays is not worth a longer downtime.
    if (await state.isCommitted()) await locked?.release();
    else await locked?.unlock().catch(() => undefined);
  }
}

async function assertStillStopped(
  storePath: string,
  downtime: Downtime | undefined,
): Promise<void> {
  if (await downtime?.isServiceUp()) {
    throw new StoreError("service", `something started ${downtime?.name} during the work`, {
      hint: "Find out what starts it. The store was not changed.",
    });
  }
  await assertNoHolders(storePath);
}

/**
 * Renames the staged file to the store's name.
 *
 * @param canLink - whether the store may keep its name until then, under which it is locked
 */
async function commit(state: SwapState, canLink: boolean): Promise<void> {
  const { storePath, data } = state;
  const staged = await lstatIfExists(data.staged);
  await state.write("committing", {
    committed: {
      inode: String(staged?.ino),
      size: String(staged?.size),
      mtime_ns: String(staged?.mtimeNs),
    },
  });
  try {
    if (data.aside !== null) await moveAside(storePath, data.aside, canLink);
    state.emitStep("aside");
    if (data.aside === null) await claim(data.staged, storePath);
    else await rename(data.staged, storePath);
    state.emitStep("renamed");
  } catch (error) {
    throw systemError(error, `cannot replace ${storePath}`);
  }
  await syncDirectory(dirname(storePath));
}

/**
 * Gives the store its second name. A locked store keeps its first name too, so that there is a
 * store at every instant. An unopenable file is moved, after its sidecars, which belong to no other
 * file.
 */
async function moveAside(storePath: string, aside: string, canLink: boolean): Promise<void> {
  if (canLink) {
    try {
      return await link(storePath, aside);
    } catch (error) {
      if (!hasCode(error, ...withoutHardLinks)) throw error;
    }
  }
  for (const suffix of [...sidecars, ""]) {
    if (await lstatIfExists(storePath + suffix)) await rename(storePath + suffix, aside + suffix);
  }
  await syncDirectory(dirname(storePath));
}

/**
 * Gives the staged file the name of a store that did not exist.
 *
 * @throws {@link StoreError} refused - if a file of this name has appeared since
 */
async function claim(staged: string, storePath: string): Promise<void> {
  const exists = () =>
    new StoreError("refused", `another program created ${storePath} during the work`, {
      hint: "Find out what that file is. Nothing was changed.",
    });
  try {
    await link(staged, storePath);
  } catch (error) {
    if (hasCode(error, "EEXIST")) throw exists();
    if (!hasCode(error, ...withoutHardLinks)) throw error;
    if (await lstatIfExists(storePath)) throw exists();
    return await rename(staged, storePath);
  }
  await rm(staged);
}

/** Adds to `server.json`'s part of the journal where its password is kept. */
async function resolveServerJson({
  serverJson,
  lock,
  sources,
  passphrase,
}: SwapPlan): Promise<SwapJournal["server_json"]> {
  if (!serverJson) return undefined;
  const previous = await resolvePasswordSlot(
    lock.storePath,
    sources.from,
    passwordIn(await readServerJson(serverJson.path)),
    passphrase,
  );
  return { ...serverJson, ...(previous !== undefined && { previous }) };
}
