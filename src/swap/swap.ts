/**
 * Putting another file in the store's place: one engine of steps for encrypt, decrypt, rotate and restore.
 *
 *   stage    the new file is made beside the store, under a name of its own, its passphrase kept, its bundle proven
 *   verify   the service is stopped and the store held; the new file is filled, compared and synced
 *   commit   the store gets a second name, and the new file is renamed to the first
 *   settle   server.json, the settings and the keyring follow; the service is started; the old file goes
 *
 * Each step is journaled before it begins (swap-state.ts). What fails before the rename is undone, what is interrupted
 * after it is finished, by whoever comes next. Should the service not come up on the new file, the old one, which
 * still has its second name, is put back.
 */
import { randomBytes } from "node:crypto";
import { link, rename, rm } from "node:fs/promises";
import { basename, dirname, join } from "node:path";
import { type Bundle, bundleName, writeBundle } from "../bundle/bundle.js";
import { realPath } from "../config/paths.js";
import { type ErrorKind, hasCode, StoreError, systemError, withLine } from "../errors.js";
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
import {
  assertNoHolders,
  Downtime,
  type ResolvedService,
  type ServiceReport,
  stopIfActive,
} from "../operation/downtime.js";
import { Journal } from "../operation/journal.js";
import type { OperationLock } from "../operation/lock.js";
import { throwIfAborted } from "../process/abort.js";
import type { Reporter } from "../reporter.js";
import { keyIdOf, type Secret, type StoreKey } from "../store/cipher.js";
import { assertNoSidecars, LockedStore } from "../store/locked-store.js";
import type { BundlePlan } from "./prepare.js";
import { Swap, type SwapJournal, type SwapOperation } from "./state.js";

/** What the dead-man timer allows for the work between stop and start, beyond the stop itself: 60 s. */
const windowBudgetMs = 60_000;
/** Exporting and comparing, at the least: 5 MB/s, a small board with a slow card. */
const slowestBytesPerMs = 5_000;
/** Room for what the new file may be larger by, and for journals: 8 MiB. */
const spareBytes = 8 << 20;

/** What `link` says on a file system without hard links. */
const withoutHardLinks = ["EPERM", "ENOTSUP", "ENOSYS", "EMLINK"];

/** The store before the swap, and what opens it. */
export type Replaced =
  | { readonly state: "open"; readonly secret: Secret }
  /** There is a file, and nothing here opens it. */
  | { readonly state: "unopenable" }
  | { readonly state: "absent" };

export interface SwapRequest {
  readonly operation: SwapOperation;
  readonly lock: OperationLock;
  readonly replaced: Replaced;
  /** The name under which the replaced file stays; without one it goes. */
  readonly keepReplacedAs?: string | undefined;
  /** What opens the new file; undefined if it is not encrypted. */
  readonly passphrase: string | undefined;
  /** Where the passphrase comes from, before and afterwards. */
  readonly sources: { readonly from: PassphraseSource; readonly to: PassphraseSource };
  readonly keyring?: KeyringPlan | undefined;
  /** The settings, if they name the one source and have to name the other. */
  readonly settings?: string | undefined;
  readonly serverJson?: SwapJournal["server_json"];
  /** The bundle that the new file gets while it is still staged. */
  readonly bundle?: BundlePlan | undefined;
  /** What opens the replaced file, if its backups are to keep a bundle: one is written where there is none that holds. */
  readonly replacedBundle?: { readonly passphrase: string; readonly key: StoreKey } | undefined;
  readonly service: ResolvedService;
  /** A program and its arguments that settle this store's journal, for the dead-man timer. */
  readonly recoveryCommand: readonly string[];
  readonly reporter: Reporter;
  readonly signal: AbortSignal;
  /** Makes the staged file, 0600, while the service still runs; answers its key. */
  readonly stage: (staged: string) => Promise<StoreKey | undefined>;
  /** Completes it while the service is stopped, and proves that it is what it should be. */
  readonly fill: (
    staged: string,
    key: StoreKey | undefined,
    held: LockedStore | undefined,
  ) => Promise<void>;
}

export interface SwapOutcome {
  readonly key: StoreKey | undefined;
  readonly bundle: Bundle | undefined;
  readonly service: ServiceReport;
}

/**
 * Replaces the store's file.
 *
 * @throws StoreError of every kind. Unless it says otherwise the store is as it was, and a service that was running runs
 *   again; where something could not be put right, the error says so, and the next command tries again.
 */
export async function swap(request: SwapRequest): Promise<SwapOutcome> {
  const { lock, operation, replaced, service } = request;
  const { pendingRestart } = service;
  const { storePath } = lock;
  const before = await lstatIfExists(storePath);
  if (before && !before.isFile()) throw new StoreError("refused", `${storePath} is not a file`);
  if (before) await assertMetadataCopyable(storePath, before);
  await assertNotMountPoint(storePath);
  const size = Number(before?.size ?? 0n);
  const hint = "make room there; nothing was changed";
  await assertFreeSpace(dirname(storePath), size + spareBytes, "the new file", hint);
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
    ...(request.bundle &&
      request.replacedBundle && {
        replaced_bundle: {
          folder: request.bundle.directory,
          key_id: keyIdOf(request.replacedBundle.key.salt),
          made: false,
        },
      }),
    ...(pendingRestart && { stopped: pendingRestart.stopped }),
  };
  const downtime = pendingRestart && (await Downtime.of(service));
  const state = new Swap(
    storePath,
    await Journal.begin(storePath, operation, "staging", data, pendingRestart?.journal),
    data,
  );
  const work = new SwapWork(request, state, size, downtime);
  try {
    // Left armed, it might start the service in the middle of the work.
    if (pendingRestart?.stopped.timer)
      await service.service.disarmRestart(pendingRestart.stopped.timer);
    state.emitStep("staging");
    const { key, bundle } = await work.stage();
    await work.stop();
    await work.fill(key);
    await work.commit();
    await state.applyPassphrase();
    const stoppedMs = await work.start();
    await state.clean();
    const { name } = service.service;
    const { wasActive } = service;
    const active = wasActive || pendingRestart !== undefined;
    return {
      key,
      bundle,
      service: { unit: name, was_active: wasActive, active, stopped_ms: stoppedMs },
    };
  } catch (error) {
    throw await work.putRight(error);
  } finally {
    await work.release();
  }
}

/** A swap at work: what it holds besides its journal. */
class SwapWork {
  readonly #request: SwapRequest;
  readonly #state: Swap;
  /** Of the replaced file, in bytes. */
  readonly #size: number;
  readonly #name: string;
  #held: LockedStore | undefined;
  /** From when the journal says that the service is stopped, which an earlier operation may have done. */
  #downtime: Downtime | undefined;

  constructor(request: SwapRequest, state: Swap, size: number, downtime: Downtime | undefined) {
    this.#downtime = downtime;
    this.#request = request;
    this.#state = state;
    this.#size = size;
    this.#name = request.service.service.name ?? "the service";
  }

  /** Everything that can be done while the service runs. */
  async stage(): Promise<{ key: StoreKey | undefined; bundle: Bundle | undefined }> {
    const { keyring, passphrase, sources, stage, reporter } = this.#request;
    const { bundle: plan, replacedBundle } = this.#request;
    const { storePath, data } = this.#state;
    throwIfAborted(this.#request.signal);
    // What changes when the store is replaced already is tried now.
    if (data.server_json) await assertReplaceable(await realPath(data.server_json.path));
    if (data.settings) await assertReplaceable(data.settings);
    await this.#keepPassword();
    if (plan && replacedBundle) {
      const { path, reused } = await writeBundle({ ...plan, ...replacedBundle, storePath });
      reporter.detail(
        `bundle of the old passphrase ${reused ? "found" : "written"} and proven: ${path}`,
      );
    }
    if (keyring?.pending && passphrase !== undefined) await keepPending(storePath, passphrase);
    this.#state.emitStep("pending-kept");
    const key = await stage(data.staged);
    await copyMetadata(storePath, data.staged);
    this.#state.emitStep("staged");
    let bundle: Bundle | undefined;
    if (plan && key && passphrase !== undefined) {
      const folder = plan.directory;
      const keyId = keyIdOf(key.salt);
      // One that is there already belongs to a file that has this key; it is not this swap's to undo.
      const made = !(await lstatIfExists(join(folder, bundleName(keyId))));
      await this.#state.write("bundling", { bundle: { folder, key_id: keyId, made } });
      bundle = await writeBundle({
        ...plan,
        storePath: data.staged,
        database: storePath,
        passphrase,
        key,
      });
      reporter.detail(`bundle ${bundle.reused ? "found" : "written"} and proven: ${bundle.path}`);
    }
    this.#state.emitStep("bundled");
    if (passphrase !== undefined)
      await assertPassphraseKept(storePath, sources.to, keyring, passphrase);
    if (keyring) await keepCurrent(storePath, keyring);
    this.#state.emitStep("current-kept");
    return { key, bundle };
  }

  /** Keeps the password of `server.json`, if that is about to go and is kept nowhere else. */
  async #keepPassword(): Promise<void> {
    const { server_json: serverJson } = this.#state.data;
    if (serverJson?.previous === undefined) return;
    const password = passwordIn(await readServerJson(serverJson.path));
    if (password === undefined) return;
    await keepPassword(this.#state.storePath, serverJson.previous, password);
    this.#request.reporter.notice(
      `the password that ${serverJson.path} has now is kept in the keyring, as a previous one`,
    );
  }

  async stop(): Promise<void> {
    const { service, recoveryCommand, signal, reporter } = this.#request;
    throwIfAborted(signal);
    const downtime = this.#downtime ?? (service.wasActive ? await Downtime.of(service) : undefined);
    if (downtime) {
      await this.#state.write("stopping", { stopped: downtime.stopped });
      this.#downtime = downtime;
      await downtime.arm(windowBudgetMs + this.#size / slowestBytesPerMs, recoveryCommand);
      this.#state.emitStep("armed");
      reporter.detail(`stopping ${this.#name}`);
      await downtime.stop();
    } else {
      await this.#state.write("stopping");
    }
    await assertNoHolders(this.#state.storePath);
    this.#state.emitStep("stopped");
  }

  async fill(key: StoreKey | undefined): Promise<void> {
    const { replaced, signal, fill } = this.#request;
    const { storePath, data } = this.#state;
    throwIfAborted(signal);
    if (replaced.state === "open") this.#held = await LockedStore.lock(storePath, replaced.secret);
    this.#state.emitStep("held");
    await fill(data.staged, key, this.#held);
    this.#state.emitStep("filled");
    await assertNoSidecars(data.staged);
    await syncFile(data.staged);
    this.#state.emitStep("synced");
  }

  async commit(): Promise<void> {
    const { signal } = this.#request;
    const { storePath, data } = this.#state;
    if (await this.#downtime?.hasEnded()) {
      throw new StoreError("service", `something started ${this.#name} in the middle of the work`, {
        hint: "see what starts it; the store was not changed",
      });
    }
    await assertNoHolders(storePath);
    throwIfAborted(signal);
    const staged = await lstatIfExists(data.staged);
    await this.#state.write("committing", {
      committed: {
        inode: String(staged?.ino),
        size: String(staged?.size),
        mtime_ns: String(staged?.mtimeNs),
      },
    });
    try {
      if (data.aside !== null) await this.#setAside(data.aside);
      this.#state.emitStep("aside");
      if (data.aside === null) await claim(data.staged, storePath);
      else await rename(data.staged, storePath);
      this.#state.emitStep("renamed");
    } catch (error) {
      throw systemError(error, `cannot replace ${storePath}`);
    }
    await syncDirectory(dirname(storePath));
  }

  /**
   * Gives the store its second name. One that could be held keeps its first as well, so that there is a store at every
   * instant. One that cannot be opened is moved, what lies beside it first: that belongs to it and to no other file.
   */
  async #setAside(aside: string): Promise<void> {
    const { storePath } = this.#state;
    if (this.#held) {
      try {
        return await link(storePath, aside);
      } catch (error) {
        // A file system without hard links: it is moved.
        if (!hasCode(error, ...withoutHardLinks)) throw error;
      }
    }
    for (const suffix of [...sidecars, ""]) {
      if (await lstatIfExists(storePath + suffix)) await rename(storePath + suffix, aside + suffix);
    }
    await syncDirectory(dirname(storePath));
  }

  /** @returns how long the service was away, in milliseconds; null if it was not stopped. */
  async start(): Promise<number | null> {
    await this.release();
    // To settling it is the same as the step before: a full disk must not keep the service down.
    await this.#state.write("starting").catch(() => undefined);
    const stoppedMs = await this.#startService();
    if (stoppedMs !== null) this.#state.emitStep("started");
    return stoppedMs;
  }

  /**
   * Undoes what was done, as far as it can be, service first; or leaves it to the next command.
   *
   * @returns the error to throw.
   */
  async putRight(error: unknown): Promise<unknown> {
    const state = this.#state;
    if (state.journal.entry.step === "cleaning") return error;
    const { service } = this.#request.service;
    let isStartTried = false;
    const start = async () => {
      isStartTried = true;
      await this.#startService();
    };
    try {
      if (!(await state.isCommitted())) {
        // In which journal mode it was is the one thing that is not worth keeping the service waiting for.
        await this.#held?.unlock().catch(() => undefined);
        this.#held = undefined;
        await state.undo(start);
        const untidy = await state.cleanUp();
        return untidy ? afterwards(error, untidy.message, untidy.hint) : error;
      }
      await this.release();
      const { aside } = state.data;
      // A restored store is not worth more than the one that it replaced; any other may have been written to since.
      const restored = aside !== null && this.#request.operation === "restore";
      if (restored || (await state.canRevert())) {
        const stop = async () => {
          if (this.#downtime) await stopIfActive(service, state.storePath);
        };
        await state.revert(stop, start, restored);
        const untidy = await state.cleanUp();
        const putBack = "the store that it replaced was put back";
        return afterwards(error, untidy ? `${putBack}; ${untidy.message}` : putBack, untidy?.hint);
      }
      await start();
      return afterwards(
        error,
        "the new file is in place; the next command of this store goes on with it",
      );
    } catch (second) {
      const { message, hint } = systemError(second, "putting things right failed");
      let isDown = second instanceof StoreError && second.kind === "service";
      // Whatever is in the way, the service runs meanwhile, on the file that has the store's name.
      if (!isStartTried && (await lstatIfExists(state.storePath).catch(() => undefined))) {
        isDown = await start().then(
          () => false,
          () => true,
        );
      }
      return afterwards(
        error,
        `and not everything could be put right: ${message}`,
        withLine(hint, "the next command of this store goes on with it"),
        isDown ? "service" : undefined,
      );
    }
  }

  /**
   * Starts the service, if it was stopped; anew if something else has done so since the commit began, its timer or a
   * person: that may have been on the file that is gone.
   *
   * @returns how long it was away, in milliseconds; null if it was not stopped.
   */
  async #startService(): Promise<number | null> {
    const downtime = this.#downtime;
    if (!downtime) return null;
    if (!downtime.hasBegun) {
      await downtime.disarm();
      return null;
    }
    let started = await downtime.start();
    if (started.wasUp && this.#state.data.committed) {
      this.#request.reporter.notice(
        `something had started ${this.#name} meanwhile: starting it anew`,
      );
      started = await downtime.restart();
    }
    await downtime.disarm();
    return downtime.durationMs(started);
  }

  /** Lets go of the store, if it is held. */
  async release(): Promise<void> {
    await this.#held?.release();
    this.#held = undefined;
  }
}

/**
 * Gives the staged file the name of a store that was not there. What has appeared there since is somebody's.
 *
 * @throws StoreError `refused` if anything has.
 */
async function claim(staged: string, storePath: string): Promise<void> {
  const taken = () =>
    new StoreError("refused", `${storePath} was made by something else in the middle of the work`, {
      hint: "see what that is; nothing was changed",
    });
  try {
    await link(staged, storePath);
  } catch (error) {
    if (hasCode(error, "EEXIST")) throw taken();
    if (!hasCode(error, ...withoutHardLinks)) throw error;
    if (await lstatIfExists(storePath)) throw taken();
    return await rename(staged, storePath);
  }
  await rm(staged);
}

/** An error, and what has become of the store since. */
function afterwards(error: unknown, what: string, hint?: string, kind?: ErrorKind): StoreError {
  const first = systemError(error, "unexpected", "failed");
  const lines = [first.hint, hint].flatMap((text) => (text ? text.split("\n") : []));
  return new StoreError(kind ?? first.kind, `${first.message}; ${what}`, {
    hint: [...new Set(lines)].join("\n"),
    cause: error,
  });
}

/** What the journal says of `server.json`. */
async function resolveServerJson(request: SwapRequest): Promise<SwapJournal["server_json"]> {
  const { serverJson, lock, sources, passphrase } = request;
  if (!serverJson) return undefined;
  const previous = await resolvePasswordSlot(
    lock.storePath,
    sources.from,
    passwordIn(await readServerJson(serverJson.path)),
    passphrase,
  );
  return { ...serverJson, ...(previous !== undefined && { previous }) };
}
