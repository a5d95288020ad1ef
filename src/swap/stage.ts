/** The first part of a swap, while the service runs. */
import { join } from "node:path";
import { type Bundle, writeBundle } from "../bundle/bundle.js";
import { realPath } from "../config/paths.js";
import { assertReplaceable } from "../fs/atomic.js";
import { copyMetadata } from "../fs/metadata.js";
import { lstatIfExists } from "../fs/read.js";
import { passwordIn, readServerJson } from "../hub/server-json.js";
import { bundleName } from "../keys/bundle-name.js";
import { setEntry } from "../keys/keyring.js";
import { assertPassphraseKept, keepCurrent } from "../keys/rotation-plan.js";
import { throwIfAborted } from "../process/abort.js";
import type { Reporter } from "../reporter.js";
import { keyIdOf, type Secret, type StoreKey } from "../store/cipher.js";
import type { BundlePlan } from "./prepare.js";
import type { SwapRequest } from "./request.js";
import type { SwapState } from "./state.js";

/**
 * Creates the staged file, writes its bundle, and keeps the passphrases in the keyring. Calls
 * `prefill`.
 *
 * @returns the key of the staged file, and its bundle
 */
export async function stage<Key extends Secret>(
  request: SwapRequest<Key, unknown>,
  state: SwapState,
): Promise<{ key: Key; bundle: Bundle | undefined }> {
  const { keyring, passphrase, sources, bundle: plan, replacedBundle, reporter } = request;
  const { pendingRestart, service } = request.service;
  const { storePath, data } = state;
  // The timer of an earlier operation could start the service during the work.
  const earlierTimer = pendingRestart?.stopped.timer;
  if (earlierTimer !== undefined) await service.disarmRestart(earlierTimer);
  state.emitStep("staging");
  throwIfAborted(request.signal);
  // Check now: these files change only after the store is replaced.
  if (data.server_json) await assertReplaceable(await realPath(data.server_json.path));
  if (data.settings) await assertReplaceable(data.settings);
  await keepReplacedPassword(state, reporter);
  if (plan && replacedBundle) {
    const { path, reused } = await writeBundle({
      directory: plan.directory,
      recipients: plan.recipients,
      storePath,
      passphrase: replacedBundle.passphrase,
      key: replacedBundle.key,
    });
    reporter.detail(`${reused ? "found" : "wrote"} the bundle of the old passphrase: ${path}`);
  }
  if (keyring?.pending && passphrase !== undefined) {
    await setEntry(storePath, "pending", passphrase);
  }
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
  if (passphrase !== undefined) {
    await assertPassphraseKept(storePath, sources.to, keyring, passphrase);
  }
  if (keyring) await keepCurrent(storePath, keyring);
  state.emitStep("current-kept");
  await request.prefill?.(data.staged, key);
  state.emitStep("prefilled");
  return { key, bundle };
}

/** Keeps the password of `server.json`, if the swap replaces it and it is kept nowhere else. */
async function keepReplacedPassword(state: SwapState, reporter: Reporter): Promise<void> {
  const { server_json: serverJson } = state.data;
  if (serverJson?.previous === undefined) return;
  const password = passwordIn(await readServerJson(serverJson.path));
  if (password === undefined) return;
  await setEntry(state.storePath, `previous:${serverJson.previous}`, password);
  reporter.notice(
    `kept the present password of ${serverJson.path} in the keyring, as a previous passphrase`,
  );
}

async function writeNewBundle(
  state: SwapState,
  plan: BundlePlan,
  passphrase: string,
  key: StoreKey,
): Promise<Bundle> {
  const { directory, recipients } = plan;
  const keyId = keyIdOf(key.salt);
  // An existing bundle belongs to another file with this key, so recovery must not remove it.
  const made = !(await lstatIfExists(join(directory, bundleName(keyId))));
  await state.write("bundling", { bundle: { folder: directory, key_id: keyId, made } });
  return writeBundle({
    directory,
    recipients,
    storePath: state.data.staged,
    database: state.storePath,
    passphrase,
    key,
  });
}
