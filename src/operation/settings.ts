/**
 * Changes to the settings file.
 *
 * All stores of a user share the file, and each store has an operation lock of its own. So a change
 * has a lock of the file: without it, of two changes at the same time one would be lost.
 */
import { dirname } from "node:path";
import { isDeepStrictEqual } from "node:util";
import {
  loadSettings,
  type Settings,
  type SettingsFile,
  type SettingsSection,
  saveSettings,
  selectSection,
  withSection,
} from "../config/settings-file.js";
import { isKind, StoreError } from "../errors.js";
import { findPartials, makeDirectory, removeFile, removePartials } from "../fs/atomic.js";
import { lockFile } from "./lock.js";

/** The time limit for another process to load and save the file. */
const waitLimitMs = 10_000;

/**
 * Changes a settings file. Does not write to the directory if nothing changes.
 *
 * @param change - a pure function; it is called again under the lock
 * @returns the new contents, or undefined to remove the file
 * @throws {@link StoreError} inUse - if another process holds the lock for 10 seconds
 * @throws {@link StoreError} io - if the file cannot be written
 */
export async function changeSettings(
  path: string,
  change: (file: SettingsFile | undefined) => SettingsFile | undefined,
): Promise<{ readonly isChanged: boolean }> {
  const before = await loadSettings(path);
  if (isSame(change(before), before)) return { isChanged: false };
  return withSettingsLock(path, async () => {
    await removePartials(path);
    const file = await loadSettings(path);
    const changed = change(file);
    if (isSame(changed, file)) return { isChanged: false };
    if (changed === undefined) await removeFile(path);
    else await saveSettings(path, changed);
    return { isChanged: true };
  });
}

/** Compares without undefined keys: a file has none. */
function isSame(changed: SettingsFile = {}, file: SettingsFile = {}): boolean {
  return isDeepStrictEqual(JSON.parse(JSON.stringify(changed)), file);
}

/** Changes the settings of a store, as `changeSettings` does, and not those of other stores. */
export async function updateSection(
  { path, store }: SettingsSection,
  change: (settings: Settings) => Settings,
): Promise<{ readonly isChanged: boolean }> {
  return changeSettings(path, (file) => {
    const settings = selectSection(file ?? {}, store);
    const changed = change(settings);
    return isSame(changed, settings) ? file : withSection(file ?? {}, store, changed);
  });
}

/** Removes partial settings files, left by a kill. Does not write to the directory without them. */
export async function removeSettingsPartials(path: string): Promise<void> {
  if ((await findPartials(path)).length === 0) return;
  await withSettingsLock(path, () => removePartials(path));
}

async function withSettingsLock<Result>(
  path: string,
  work: () => Promise<Result>,
): Promise<Result> {
  await makeDirectory(dirname(path));
  await using _lock = await lockFile(path, waitLimitMs).catch((error: unknown) => {
    if (!isKind(error, "inUse")) throw error;
    throw new StoreError("inUse", `another process is changing the settings file ${path}`, {
      hint: "Try again when it has finished.",
    });
  });
  return await work();
}
