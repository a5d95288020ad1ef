/**
 * A swap of the store's file as its journal has it: what finishes it and what undoes it, whoever began it.
 *
 * Whether the new file has taken the store's name is read from the disk: a rename keeps a file's inode, and the journal
 * has the new file's. Everything here may be done twice, since a kill can come after anything.
 */
import { dirname } from "node:path";
import { removeBundle, removeStagedBundles } from "../bundle/bundle.js";
import { realPath } from "../config/paths.js";
import { findSection, loadSection, saveSection } from "../config/settings.js";
import { StoreError, systemError, withLine } from "../errors.js";
import { moveFile, removeFile, removePartials, syncDirectory } from "../fs/atomic.js";
import { lstatIfExists } from "../fs/read.js";
import { sidecars } from "../fs/sidecars.js";
import { readServerJson } from "../hub/server-json.js";
import { removePassword, setPassword } from "../hub/server-json-edit.js";
import { deleteDerivedKeys, getEntry } from "../keys/keyring.js";
import {
  deleteReplaced,
  firstPassphrase,
  keyringPlanSchema,
  promotePending,
  restoreKeyring,
} from "../keys/rotation-plan.js";
import { parseSource } from "../keys/source.js";
import { assertNoHolders, stoppedSchema } from "../operation/downtime.js";
import type { Journal } from "../operation/journal.js";
import { cleanUp } from "../operation/recovery.js";
import { emitStep } from "../operation/step.js";
import * as z from "../schema.js";

/** The operations that are swaps; each is a journal's operation and a command's name. */
export const swapOperations = ["encrypt", "decrypt", "rotate", "restore"] as const;

export type SwapOperation = (typeof swapOperations)[number];

/**
 * The steps of a swap, in their order. A journal's step is one of those marked, and may have begun; all are published on
 * the step channel, with the operation before them ("rotate.staged"), each when it is done.
 */
const swapSteps = [
  "staging", // journaled
  "pending-kept",
  "staged",
  "bundling", // journaled
  "bundled",
  "current-kept",
  "stopping", // journaled
  "armed",
  "stopped",
  "held",
  "filled",
  "synced",
  "committing", // journaled
  "aside",
  "renamed",
  "server-json",
  "settings",
  "promoted",
  "starting", // journaled
  "started",
  "cleaning", // journaled
  "removed",
  "forgotten",
  "reverting", // journaled
  "put-back",
  "undone", // journaled
] as const;

export type SwapStep = (typeof swapSteps)[number];

/** The bundle for the new file, in a journal. */
export const bundleJournalSchema = z.strictObject({
  folder: z.string(),
  key_id: z.string(),
  /** Whether there was none before: then it goes if the new file does. The first journals named no other bundle. */
  made: z._default(z.boolean(), true),
});

const swapJournalSchema = z.strictObject({
  /** The new file before it has the store's name. */
  staged: z.string(),
  /** The old file's second name, from the commit on; null if there was no store. */
  aside: z.nullable(z.string()),
  /** Whether the old file stays there afterwards. */
  keep_aside: z.boolean(),
  /** What happens in the keyring; absent if nothing does. */
  keyring: z.optional(keyringPlanSchema),
  /** Where the passphrase comes from, before and afterwards. */
  source: z.strictObject({ from: z.string(), to: z.string() }),
  /** The settings, if they name the one and have to name the other. */
  settings: z.optional(z.string()),
  /**
   * `server.json`, if the hub reads the passphrase there; whether it is taken out, and not replaced; and where the keyring
   * keeps what stands there now, `#previous:` and this, if that is not the current passphrase.
   */
  server_json: z.optional(
    z.strictObject({ path: z.string(), remove: z.boolean(), previous: z.optional(z.string()) }),
  ),
  bundle: z.optional(bundleJournalSchema),
  /** The one for the file that is replaced, which stays, and of which a kill may leave something unfinished. */
  replaced_bundle: z.optional(bundleJournalSchema),
  /** Present from before the service is stopped until it was seen to run again. */
  stopped: z.optional(stoppedSchema),
  /** The new file as it is committed: while it is like this, nobody has written to it. */
  committed: z.optional(
    z.strictObject({ inode: z.string(), size: z.string(), mtime_ns: z.string() }),
  ),
});

export type SwapJournal = z.infer<typeof swapJournalSchema>;

export class Swap {
  readonly storePath: string;
  readonly journal: Journal;
  data: SwapJournal;
  /** Why the service could not be started, if it was settling that tried: what is left of the work is done all the same. */
  serviceDown: StoreError | undefined;

  constructor(storePath: string, journal: Journal, data: SwapJournal) {
    this.storePath = storePath;
    this.journal = journal;
    this.data = data;
  }

  /** @throws StoreError `corrupted` if the journal is not what this version writes. */
  static of(storePath: string, journal: Journal): Swap {
    return new Swap(storePath, journal, journal.dataAs(swapJournalSchema));
  }

  emitStep(step: SwapStep): void {
    emitStep(`${this.journal.entry.operation}.${step}`);
  }

  /** Puts on disk that `step` may begin. */
  async write(step: SwapStep, changes: Partial<SwapJournal> = {}): Promise<void> {
    this.data = { ...this.data, ...changes };
    await this.journal.write(step, this.data);
    this.emitStep(step);
  }

  /** Whether the new file has the store's name. */
  async isCommitted(): Promise<boolean> {
    const { committed } = this.data;
    const store = await lstatIfExists(this.storePath);
    return committed !== undefined && String(store?.ino) === committed.inode;
  }

  /** Everything that goes by the new passphrase and is not the store: `server.json`, the settings, the keyring. */
  async applyPassphrase(): Promise<void> {
    const { server_json: serverJson, settings, source, keyring } = this.data;
    if (serverJson) await this.#changeServerJson(serverJson.remove ? undefined : await this.#new());
    this.emitStep("server-json");
    if (settings) await changeSource(settings, this.storePath, source.to);
    this.emitStep("settings");
    if (keyring) await promotePending(this.storePath, keyring);
    this.emitStep("promoted");
  }

  /**
   * The service runs on the new file: the old one goes, and what was kept for it alone.
   *
   * @throws StoreError saying that the swap itself is done, of the kind of what failed.
   */
  async clean(): Promise<void> {
    const { staged, aside, keep_aside: keep, keyring, source } = this.data;
    try {
      await this.write("cleaning", { stopped: undefined });
      // Killed while the new file got its name, it still has this one as well.
      await removeDatabase(staged);
      // In plain text perhaps: it does not wait for a keyring to answer.
      if (aside !== null && !keep) await removeDatabase(aside);
      this.emitStep("removed");
      if (keyring) await deleteReplaced(this.storePath, keyring);
      if ([source.from, source.to].includes("keyring")) await deleteDerivedKeys(this.storePath);
      this.emitStep("forgotten");
      await this.journal.remove();
    } catch (error) {
      const { kind, message, hint } = systemError(error, "something could not be removed");
      throw new StoreError(
        kind,
        `the store is replaced and its service runs, but tidying up failed: ${message}`,
        { hint: withLine(hint, "the next command of this store goes on with it"), cause: error },
      );
    }
  }

  /** Nothing has replaced the store. `start` starts the service, as soon as the store is where it was. `tidyUp` is to follow. */
  async undo(start: () => Promise<void>): Promise<void> {
    const { aside, staged, keyring } = this.data;
    if (aside !== null) {
      const there = await lstatIfExists(aside);
      if (there && there.ino === (await lstatIfExists(this.storePath))?.ino)
        await removeFile(aside);
      try {
        await this.#moveBack(aside);
      } catch (error) {
        // Whatever is at the store's path, the service was running; with nothing there it would make a new one.
        if (await lstatIfExists(this.storePath)) await start();
        throw error;
      }
    }
    await start();
    await removeDatabase(staged);
    if (keyring) await restoreKeyring(this.storePath, keyring, false);
    await this.undone();
  }

  /** What is left then lies elsewhere; unless the service is down, whether it runs is its owner's affair again. */
  async undone(): Promise<void> {
    // A full disk does not matter here: settling would do the same once more.
    await this.write("undone", this.serviceDown ? {} : { stopped: undefined }).catch(
      () => undefined,
    );
  }

  /**
   * After `undo` and `revert`: removes the bundles of the file that is not the store, and the journal, or what is in it
   * besides a service that is down.
   *
   * @returns why it could not.
   */
  cleanUp(): Promise<StoreError | undefined> {
    const work = async () => {
      const { bundle, replaced_bundle: replacedBundle } = this.data;
      if (bundle) await undoBundle(bundle);
      if (replacedBundle) await undoBundle(replacedBundle);
      await this.#removeTrials();
    };
    return cleanUp(this.journal, work, { isDown: this.serviceDown !== undefined });
  }

  /**
   * Whether the old file can take the new one's place without anything being lost: it is there, and nobody has written
   * to the new one.
   */
  async canRevert(): Promise<boolean> {
    const { aside, committed } = this.data;
    if (aside === null || !committed || !(await lstatIfExists(aside))) return false;
    const store = await lstatIfExists(this.storePath);
    const log = await lstatIfExists(`${this.storePath}-wal`);
    return (
      String(store?.size) === committed.size &&
      String(store?.mtimeNs) === committed.mtime_ns &&
      (log?.size ?? 0n) === 0n
    );
  }

  /**
   * Puts the old file back in the new one's place. `stop` stops the service before, `start` starts it after; what was
   * put back already is in use. `tidyUp` is to follow.
   *
   * @param evenIfWritten whether what was written to the new file meanwhile may go with it.
   * @throws StoreError `inUse` if it may not, and something was, or if somebody has the new file open: the service is
   *   started on that one.
   */
  async revert(
    stop: () => Promise<void>,
    start: () => Promise<void>,
    evenIfWritten = false,
  ): Promise<void> {
    const { aside, keyring, server_json: serverJson, settings, source } = this.data;
    await this.write("reverting");
    if (!(await this.#isPutBack())) {
      await stop();
      try {
        await this.#refuseInUse(evenIfWritten);
      } catch (error) {
        await start();
        throw error;
      }
    }
    if (aside !== null) {
      if (await lstatIfExists(aside)) {
        for (const suffix of sidecars) await removeFile(this.storePath + suffix);
        await moveFile(aside, this.storePath);
      }
      await this.#moveBack(aside);
    }
    this.emitStep("put-back");
    let failure: unknown;
    try {
      if (serverJson) await this.#changeServerJson(await this.#old());
      if (settings) await changeSource(settings, this.storePath, source.from);
      if (keyring) await restoreKeyring(this.storePath, keyring, true);
    } catch (error) {
      failure = error;
    }
    await start();
    if (failure !== undefined) throw failure;
    await this.undone();
  }

  /** Stopping a service can take minutes, in which it, or a command, goes on writing to the new file. */
  async #refuseInUse(evenIfWritten: boolean): Promise<void> {
    if (!(await this.isCommitted())) return;
    await assertNoHolders(this.storePath);
    if (evenIfWritten || (await this.canRevert())) return;
    throw new StoreError("inUse", `${this.storePath} was written to meanwhile, so it stays`, {
      hint: `see that the hub runs; the store that it replaced is ${this.data.aside}`,
    });
  }

  async #isPutBack(): Promise<boolean> {
    const { aside } = this.data;
    for (const suffix of ["", ...sidecars])
      if (await lstatIfExists(`${aside}${suffix}`)) return false;
    return !(await this.isCommitted());
  }

  /**
   * The main file first, then what lies beside it, in reverse; what is back already stays.
   *
   * @throws StoreError `refused` if something else has the store's name meanwhile: a log must never come to lie beside a
   *   file that it does not belong to.
   */
  async #moveBack(aside: string): Promise<void> {
    if ((await lstatIfExists(aside)) && (await lstatIfExists(this.storePath))) {
      throw new StoreError(
        "refused",
        `${this.storePath} was made by something else while the store was set aside as ${aside}`,
        {
          hint: "move away the one that is not wanted, with the -wal and -shm beside it; the next command then goes on",
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

  /** What a kill has left of the trials whether `server.json` and the settings can be changed. */
  async #removeTrials(): Promise<void> {
    const { server_json: serverJson, settings } = this.data;
    for (const path of [serverJson?.path, settings]) {
      if (path !== undefined) await removePartials(await realPath(path));
    }
  }

  async #changeServerJson(password: string | undefined): Promise<void> {
    const path = this.data.server_json?.path;
    if (path === undefined) return;
    await removePartials((await readServerJson(path)).file);
    if (password === undefined) await removePassword(path);
    else await setPassword(path, password);
  }

  async #new(): Promise<string> {
    const { keyring, source } = this.data;
    const pending = keyring && (await getEntry(this.storePath, "pending"));
    return pending ?? (await firstPassphrase(parseSource(source.to), this.storePath));
  }

  async #old(): Promise<string> {
    const { keyring, source, server_json: serverJson } = this.data;
    const name = serverJson?.previous ?? keyring?.previous;
    const kept = name && (await getEntry(this.storePath, `previous:${name}`));
    return kept || (await firstPassphrase(parseSource(source.from), this.storePath));
  }
}

/** Changes the passphrase source in the store's settings, and nothing else. */
async function changeSource(path: string, storePath: string, source: string): Promise<void> {
  await removePartials(await realPath(path));
  const section = await findSection(path, storePath);
  const settings = await loadSection(section);
  if (settings?.passphrase_source === source) return;
  await saveSection(section, { ...settings, passphrase_source: source });
}

/** Removes a database file and what SQLite may have left beside it. */
async function removeDatabase(path: string): Promise<void> {
  for (const suffix of ["", ...sidecars]) await removeFile(path + suffix);
  await syncDirectory(dirname(path));
}

/** Removes the bundle that was made for a file that did not become the store, or what is unfinished of it. */
export async function undoBundle(bundle: z.infer<typeof bundleJournalSchema>): Promise<void> {
  const { folder, key_id: keyId, made } = bundle;
  await removeStagedBundles(folder, keyId);
  if (made) await removeBundle(folder, keyId);
  await syncDirectory(folder);
}
