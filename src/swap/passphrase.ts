/** The passphrase of a swap: in `server.json`, the settings and the keyring, and back. */
import { findSection } from "../config/settings-file.js";
import { isKind } from "../errors.js";
import { removePartials } from "../fs/atomic.js";
import { lstatIfExists } from "../fs/read.js";
import { readServerJson } from "../hub/server-json.js";
import { restoreLostCopy } from "../hub/server-json-copy.js";
import { removePassword, setPassword } from "../hub/server-json-edit.js";
import { getEntry } from "../keys/keyring.js";
import { promotePending, readFirstPassphrase, restoreKeyring } from "../keys/rotation-plan.js";
import { parseSource } from "../keys/source.js";
import { assertKeyringOpens, unlockSecret } from "../keys/unlock.js";
import { updateSection } from "../operation/settings.js";
import type { SwapState } from "./state.js";

/** Applies the new passphrase to `server.json`, the settings and the keyring. */
export async function applyPassphrase(swap: SwapState): Promise<void> {
  const { server_json: serverJson, settings, source, keyring } = swap.data;
  if (serverJson)
    await changeServerJson(swap, serverJson.remove ? undefined : await readNewPassphrase(swap));
  swap.emitStep("server-json");
  if (settings) await changeSource(settings, swap.storePath, source.to);
  swap.emitStep("settings");
  if (keyring) await promotePending(swap.storePath, keyring);
  swap.emitStep("promoted");
}

/**
 * Checks that a passphrase in the keyring opens the new file, as long as there is an old file to
 * put back. Recovery cannot conclude from a missing `#pending` that it has become current: after
 * a power failure, the keyring may have lost its last writes, because KWallet writes its file
 * seconds later.
 *
 * @throws {@link StoreError} wrongPassphrase - if none opens it
 * @throws {@link StoreError} passphraseUnavailable - if the keyring cannot be read
 */
export async function assertOpens({ storePath, data }: SwapState): Promise<void> {
  const { keyring, aside } = data;
  if (!keyring?.pending || aside === null || !(await lstatIfExists(aside))) return;
  await assertKeyringOpens(storePath);
}

/** Restores the old passphrase in `server.json`, the settings and the keyring. */
export async function restorePassphrase(swap: SwapState): Promise<void> {
  const { server_json: serverJson, settings, source, keyring } = swap.data;
  if (serverJson) await changeServerJson(swap, await readOldPassword(swap));
  if (settings) await changeSource(settings, swap.storePath, source.from);
  if (keyring) await restoreKeyring(swap.storePath, keyring, true);
}

/**
 * Writes a container's copy of `server.json` again if it is lost, with the password before the
 * swap.
 */
export async function restoreCopyIfLost(swap: SwapState): Promise<void> {
  const copy = swap.data.server_json;
  if (copy?.original === undefined || (await lstatIfExists(copy.path))) return;
  await changeServerJson(swap, await readOldPassword(swap));
}

async function changeServerJson({ data }: SwapState, password: string | undefined): Promise<void> {
  const serverJson = data.server_json;
  if (serverJson === undefined) return;
  const { path } = serverJson;
  await restoreLostCopy(serverJson);
  await removePartials((await readServerJson(path)).file);
  if (password === undefined) await removePassword(path);
  else await setPassword(path, password);
}

async function readNewPassphrase({ storePath, data }: SwapState): Promise<string> {
  const { keyring, source } = data;
  const pending = keyring && (await getEntry(storePath, "pending"));
  return pending ?? (await readOpening(storePath, source.to));
}

/** Returns the password that was in `server.json` before the swap. */
async function readOldPassword(swap: SwapState): Promise<string | undefined> {
  return swap.data.server_json?.had_password === false ? undefined : readOldPassphrase(swap);
}

async function readOldPassphrase({ storePath, data }: SwapState): Promise<string> {
  const { keyring, source, server_json: serverJson } = data;
  const name = serverJson?.previous ?? keyring?.previous;
  const kept = name && (await getEntry(storePath, `previous:${name}`));
  if (kept) return kept;
  // The old file has the store's name again.
  return readOpening(storePath, source.from);
}

/**
 * Tries the passphrases of a source on the store. Returns the first passphrase if none opens the
 * store, for example a plain store.
 */
async function readOpening(storePath: string, text: string): Promise<string> {
  const source = parseSource(text);
  const first = () => readFirstPassphrase(source, storePath);
  if (source.kind === "keyring") return first();
  try {
    return (await unlockSecret(storePath, source)).passphrase;
  } catch (error) {
    if (!isKind(error, "wrongPassphrase", "notFound", "refused")) throw error;
    return first();
  }
}

/** Changes the passphrase source in the store's settings, and nothing else. */
async function changeSource(path: string, storePath: string, source: string): Promise<void> {
  const section = await findSection(path, storePath);
  await updateSection(section, (settings) => ({ ...settings, passphrase_source: source }));
}
