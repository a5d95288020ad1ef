/**
 * The state of a swap, in its journal and on disk, and the steps to finish or undo it.
 *
 * Whether the new file has the store's name is read from the disk: a rename keeps the inode, and
 * the journal has the inode of the new file. If inodes have changed since, the file names and the
 * key_id decide. Every step is idempotent, because a kill can follow it.
 */
import type { BigIntStats } from "node:fs";
import { dirname } from "node:path";
import { removeBundle, removeStagedBundles } from "../bundle/bundle.js";
import { assertMounted } from "../config/known-directories.js";
import { realPath } from "../config/paths.js";
import { StoreError, systemError, withLine } from "../errors.js";
import { moveFile, removeFile, removePartials, syncDirectory } from "../fs/atomic.js";
import { lstatIfExists } from "../fs/read.js";
import { removeDatabase, sidecars } from "../fs/sidecars.js";
import { deleteDerivedKeys } from "../keys/keyring.js";
import { deleteReplaced, restoreKeyring } from "../keys/rotation-plan.js";
import type { Journal } from "../operation/journal.js";
import { cleanUp } from "../operation/recovery-parts.js";
import { assertNoHolders } from "../operation/service.js";
import { removeSettingsPartials } from "../operation/settings.js";
import { emitStep } from "../operation/step.js";
import { identify } from "../store/cipher.js";
import { shellQuote } from "../text/escape.js";
import {
  type BundleJournal,
  type SwapJournal,
  type SwapStep,
  swapJournalSchema,
} from "./journal.js";

export class SwapState {
  readonly storePath: string;
  readonly journal: Journal;
  #data: SwapJournal;

  constructor(storePath: string, journal: Journal, data: SwapJournal) {
    this.storePath = storePath;
    this.journal = journal;
    this.#data = data;
  }

  /** @throws {@link StoreError} corrupted - if this version cannot read the journal */
  static fromJournal(storePath: string, journal: Journal): SwapState {
    return new SwapState(storePath, journal, journal.dataAs(swapJournalSchema));
  }

  get data(): SwapJournal {
    return this.#data;
  }

  get operation(): string {
    return this.journal.entry.operation;
  }

  emitStep(step: SwapStep): void {
    emitStep(`${this.operation}.${step}`);
  }

  /** Journals that `step` may begin. */
  async write(step: SwapStep, changes: Partial<SwapJournal> = {}): Promise<void> {
    const data = { ...this.#data, ...changes };
    await this.journal.write(step, data);
    this.#data = data;
    this.emitStep(step);
  }

  /**
   * Journals another step than the commit before the service starts: a start command that opens the
   * store would wait for the end of the commit. Ignores a failure, such as a full disk.
   */
  async leaveCommit(): Promise<void> {
    if (this.journal.entry.step !== "committing") return;
    const work = async () => this.write((await this.isCommitted()) ? "starting" : "stopping");
    await work().catch(() => undefined);
  }

  /**
   * Returns whether the new file has the store's name.
   *
   * Inodes change if the directory is copied to another disk, or if a file system without inodes of
   * its own (FAT, some network shares) is mounted again. Then the new file is recognised by its
   * key, and by what a rename leaves: the staged file is gone, and the old file has its second
   * name.
   */
  async isCommitted(): Promise<boolean> {
    const { committed, staged, aside } = this.#data;
    const store = await lstatIfExists(this.storePath);
    if (committed === undefined || !store) return false;
    if (String(store.ino) === committed.inode) return true;
    if ((await lstatIfExists(staged)) || !(await this.#hasNewKey())) return false;
    const isUnchanged =
      String(store.size) === committed.size && String(store.mtimeNs) === committed.mtime_ns;
    if (isUnchanged || committed.key_id === null) return isUnchanged;
    // In these steps the old file may be removed already, and a restore may have had no old file.
    const isAfterCommit = ["starting", "cleaning"].includes(this.journal.entry.step);
    return isAfterCommit || (aside !== null && (await lstatIfExists(aside)) !== undefined);
  }

  /** Returns whether the store has the key of the new file. */
  async #hasNewKey(): Promise<boolean> {
    const { committed, bundle } = this.#data;
    const expected = committed?.key_id === undefined ? bundle?.key_id : committed.key_id;
    const { format, keyId } = await identify(this.storePath);
    return expected === null ? format === "plaintext" : keyId !== undefined && keyId === expected;
  }

  /**
   * Checks that the new file has not vanished after the commit: undoing the swap would remove its
   * passphrase and its bundle, although the file may come back. Without a replaced store, the new
   * file is a backup that exists elsewhere.
   *
   * @throws {@link StoreError} io - if it has vanished
   */
  async assertNotLost(): Promise<void> {
    const { committed, staged, aside } = this.#data;
    if (committed === undefined || aside === null) return;
    for (const path of [this.storePath, staged]) if (await lstatIfExists(path)) return;
    const hasOldFile = (await lstatIfExists(aside)) !== undefined;
    throw new StoreError(
      "io",
      `${this.storePath} is gone, the new file of this ${this.operation}`,
      {
        hint: hasOldFile
          ? `Put it back. If it is lost, move its ${sidecars.join(", ")} away, if they exist, and return to the former store: mv ${shellQuote(aside)} ${shellQuote(this.storePath)}`
          : "Put it back.",
      },
    );
  }

  /**
   * Returns whether the old file can be put back without a loss: it exists, and nothing has written
   * to the new file.
   */
  async canRevert(): Promise<boolean> {
    const { aside, committed } = this.#data;
    if (aside === null || !committed || !(await lstatIfExists(aside))) return false;
    const store = await lstatIfExists(this.storePath);
    const log = await lstatIfExists(`${this.storePath}-wal`);
    return (
      String(store?.size) === committed.size &&
      String(store?.mtimeNs) === committed.mtime_ns &&
      (log?.size ?? 0n) === 0n
    );
  }

  /** Returns whether the old file is back in place, with all its sidecars. */
  async isPutBack(): Promise<boolean> {
    const { aside } = this.#data;
    const suffixes = aside === null ? [] : ["", ...sidecars];
    for (const suffix of suffixes) if (await lstatIfExists(`${aside}${suffix}`)) return false;
    return !(await this.isCommitted());
  }

  /**
   * Removes the old file, its keyring entries and the journal, after the service runs on the new
   * file.
   *
   * @throws {@link StoreError} - of the failure's kind; the message says that the swap is done
   */
  async removeReplaced(): Promise<void> {
    const { staged, aside, keep_aside: keep, keyring, source } = this.#data;
    try {
      // On a full disk, the write fails, but the removal of the old file can free the space.
      await this.write("cleaning", { stopped: undefined }).catch(() => undefined);
      // A kill during the claim of the store's name leaves the new file under both names.
      await removeDatabase(staged);
      // Remove the file before the keyring's entries: it may be in plain text, and the keyring may
      // not respond.
      if (aside !== null && !keep) await removeDatabase(aside);
      this.emitStep("removed");
      if (keyring) await deleteReplaced(this.storePath, keyring);
      if ([source.from, source.to].includes("keyring")) await deleteDerivedKeys(this.storePath);
      this.emitStep("forgotten");
      await this.journal.remove();
    } catch (error) {
      const { kind, message, hint } = systemError(error, "cannot remove what is left");
      throw new StoreError(
        kind,
        `the store is replaced and its service runs, but the cleanup failed: ${message}`,
        { hint: withLine(hint, "The next command of this store continues it."), cause: error },
      );
    }
  }

  /** Gives an uncommitted store its name back, as its only name. */
  async undoMoveAside(): Promise<void> {
    const { aside } = this.#data;
    if (aside === null) return;
    const second = await lstatIfExists(aside);
    const store = await lstatIfExists(this.storePath);
    if (second && store && isSameFile(second, store)) await removeFile(aside);
    await this.#moveBack(aside);
  }

  /** Removes the uncommitted new file, and its passphrase from the keyring. */
  async discardStaged(): Promise<void> {
    const { staged, keyring } = this.#data;
    await removeDatabase(staged);
    if (keyring) await restoreKeyring(this.storePath, keyring, false);
  }

  /** Puts the old file in the place of the new one. */
  async putBack(): Promise<void> {
    const { aside } = this.#data;
    if (aside !== null) {
      if (await lstatIfExists(aside)) {
        for (const suffix of sidecars) await removeFile(this.storePath + suffix);
        await moveFile(aside, this.storePath);
      }
      await this.#moveBack(aside);
    }
    this.emitStep("put-back");
  }

  /**
   * Checks again whether the new file may be replaced: during the minutes of a slow stop, the
   * service and other commands can still write.
   *
   * @param evenIfWritten - whether clients written to the new file may be lost
   * @throws {@link StoreError} inUse - if a process has the file open, or has written to it
   */
  async assertRevertible(evenIfWritten: boolean): Promise<void> {
    if (!(await this.isCommitted())) return;
    await assertNoHolders(this.storePath);
    if (evenIfWritten || (await this.canRevert())) return;
    throw new StoreError(
      "inUse",
      `${this.storePath} was written to in the meantime, so the new file stays`,
      { hint: `Check that the hub runs. The replaced store is ${this.#data.aside}.` },
    );
  }

  /**
   * Journals the undone swap: only files apart from the store are left to be removed, and a service
   * to be started if it is down. Ignores a failure, such as a full disk: a later recovery then
   * repeats the work.
   */
  async writeUndone(isDown: boolean): Promise<void> {
    await this.write("undone", isDown ? {} : { stopped: undefined }).catch(() => undefined);
  }

  /**
   * Removes the bundles of the uncommitted file and the journal, which keeps only the pending
   * restart if the service is down.
   *
   * @returns the error if something could not be removed
   */
  cleanUpUndone(isDown: boolean): Promise<StoreError | undefined> {
    const work = async () => {
      const { bundle, replaced_bundle: replacedBundle } = this.#data;
      // A store with this key needs the bundle, whatever the journal says.
      const made = bundle?.made === true && !(await this.#hasNewKey());
      if (bundle) await undoBundle(this.storePath, { ...bundle, made });
      if (replacedBundle) await undoBundle(this.storePath, replacedBundle);
      await this.#removePartials();
    };
    return cleanUp(this.journal, work, { isDown });
  }

  /**
   * Moves the main file first, then its sidecars, in the reverse order of the commit.
   *
   * @throws {@link StoreError} refused - if another file has the store's name: a log must never get
   *   the name of another file's log
   */
  async #moveBack(aside: string): Promise<void> {
    if ((await lstatIfExists(aside)) && (await lstatIfExists(this.storePath))) {
      throw new StoreError(
        "refused",
        `another program created ${this.storePath} while the store was moved to ${aside}`,
        {
          hint: "Move away the unwanted file of the two, with its -wal and -shm files. The next command continues.",
        },
      );
    }
    for (const suffix of ["", ...[...sidecars].reverse()]) {
      if (!(await lstatIfExists(aside + suffix)) || (await lstatIfExists(this.storePath + suffix)))
        continue;
      await moveFile(aside + suffix, this.storePath + suffix);
    }
    await syncDirectory(dirname(this.storePath));
  }

  /** Removes partial files that a kill left of `server.json` and the settings. */
  async #removePartials(): Promise<void> {
    const { server_json: serverJson, settings } = this.#data;
    if (serverJson) await removePartials(await realPath(serverJson.path));
    if (settings) await removeSettingsPartials(settings);
  }
}

/**
 * Returns whether two names are of the same file. If the directory was copied, a hard link became a
 * file of its own, with the same size and time.
 */
function isSameFile(a: BigIntStats, b: BigIntStats): boolean {
  return a.ino === b.ino || (a.size === b.size && a.mtimeNs === b.mtimeNs);
}

/**
 * Removes the unfinished parts of a bundle, and the bundle itself if the operation made it.
 *
 * @throws {@link StoreError} io - if its directory is missing: on the mount point of an unmounted
 *   disk the files seem to be gone
 */
export async function undoBundle(
  storePath: string,
  { folder, key_id: keyId, made }: BundleJournal,
): Promise<void> {
  await assertMounted(folder, storePath);
  await removeStagedBundles(folder, keyId);
  if (made) await removeBundle(folder, keyId);
  await syncDirectory(folder);
}
