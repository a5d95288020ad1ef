/** The part of a swap while the service is stopped: fills the staged file, and commits it. */
import { link, rename, rm } from "node:fs/promises";
import { dirname } from "node:path";
import { hasCode, StoreError, systemError } from "../errors.js";
import { isLinkUnsupported, syncDirectory } from "../fs/atomic.js";
import { syncFile } from "../fs/copy.js";
import { lstatIfExists } from "../fs/read.js";
import { sidecars } from "../fs/sidecars.js";
import type { Downtime } from "../operation/downtime.js";
import { assertNoHolders } from "../operation/service.js";
import { throwIfAborted } from "../process/abort.js";
import { keyIdOf, type Secret } from "../store/cipher.js";
import { assertNoSidecars, LockedStore } from "../store/locked-store.js";
import type { Replaced, SwapRequest } from "./request.js";
import type { SwapState } from "./state.js";

/** Fills the staged file from the locked store, and puts it in the store's place. */
export async function fillAndCommit<Key extends Secret, Filled>(
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
  const lockStore = request.lockStore ?? (() => lockReplaced(storePath, replaced));
  const locked = await lockStore();
  try {
    state.emitStep("held");
    const filled = await fill(data.staged, key, locked);
    state.emitStep("filled");
    await assertNoSidecars(data.staged);
    await syncFile(data.staged);
    state.emitStep("synced");
    throwIfAborted(signal);
    await commit(state, key, locked !== undefined, downtime);
    return filled;
  } finally {
    // If the store stays, the service starts next. A failure to restore the journal mode, which
    // only costs speed, must not prevent the start.
    if (await state.isCommitted()) await locked?.release();
    else await locked?.unlock().catch(() => undefined);
  }
}

async function lockReplaced(
  storePath: string,
  replaced: Replaced,
): Promise<LockedStore | undefined> {
  return replaced.state === "open" ? await LockedStore.lock(storePath, replaced.secret) : undefined;
}

/**
 * Checks immediately before a change that no other program uses the store.
 *
 * @throws {@link StoreError} service - if the service was started
 * @throws {@link StoreError} inUse - if a process has the store open
 */
export async function assertStillStopped(
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
 * Renames the staged file to the store's name. Searches for processes with the store open after the
 * step is journaled: every command that opens the store later reads the journal, and waits.
 *
 * @param key - of the staged file
 * @param canLink - whether the store is locked, and so has no sidecars to be moved with it
 */
async function commit(
  state: SwapState,
  key: Secret,
  canLink: boolean,
  downtime: Downtime | undefined,
): Promise<void> {
  const { storePath, data } = state;
  const staged = await lstatIfExists(data.staged);
  await state.write("committing", {
    committed: {
      inode: String(staged?.ino),
      size: String(staged?.size),
      mtime_ns: String(staged?.mtimeNs),
      key_id: key ? keyIdOf(key.salt) : null,
    },
  });
  await assertStillStopped(storePath, downtime);
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
 * Gives the store its second name. With a hard link it keeps its first name, too, so that there is
 * a store at every instant. Otherwise the file is moved after its sidecars, which must never have
 * the name of another file's sidecars.
 */
async function moveAside(storePath: string, aside: string, canLink: boolean): Promise<void> {
  if (canLink) {
    try {
      return await link(storePath, aside);
    } catch (error) {
      if (!isLinkUnsupported(error)) throw error;
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
  try {
    await link(staged, storePath);
  } catch (error) {
    if (hasCode(error, "EEXIST")) throw createdError(storePath);
    if (!isLinkUnsupported(error)) throw error;
    await assertAbsent(storePath);
    return await rename(staged, storePath);
  }
  await rm(staged);
}

/** @throws {@link StoreError} refused - if a store has appeared that did not exist before */
export async function assertAbsent(storePath: string): Promise<void> {
  if (await lstatIfExists(storePath)) throw createdError(storePath);
}

function createdError(storePath: string): StoreError {
  return new StoreError("refused", `another program created ${storePath} during the work`, {
    hint: "Find out what that file is. Nothing was changed.",
  });
}
