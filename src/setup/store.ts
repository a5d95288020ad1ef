/** Creates the encrypted store, encrypts a plain store, or adopts a store with a password. */
import { constants } from "node:fs";
import { open } from "node:fs/promises";
import { dirname } from "node:path";
import { planRecipients } from "../bundle/recipients.js";
import { isRevoked } from "../client/client.js";
import { hubContainer } from "../config/hub-account.js";
import type { Settings } from "../config/settings-file.js";
import type { Endpoint } from "../databases/plugin.js";
import { sourceConfig, sqlcipherPluginName } from "../databases/sqlite.js";
import { StoreError, systemError } from "../errors.js";
import { moveFile, replacedName, syncDirectory } from "../fs/atomic.js";
import { lstatIfExists } from "../fs/read.js";
import { removeDatabase, sidecars } from "../fs/sidecars.js";
import { passwordIn, readServerJson } from "../hub/server-json.js";
import { readOrSealPassphrase } from "../keys/reseal.js";
import type { PassphraseSource } from "../keys/source.js";
import { openWithSource } from "../keys/unlock.js";
import type { OperationLock } from "../operation/lock.js";
import { orRecover, withRecovery } from "../operation/recovery-parts.js";
import { emitStep } from "../operation/step.js";
import { withOperation } from "../recovery/recover.js";
import { type ServiceChoice, selectService } from "../service/select.js";
import { decrypt } from "../swap/decrypt.js";
import { encrypt } from "../swap/encrypt.js";
import type { OperationOptions } from "../swap/options.js";
import { adopt } from "./adopt.js";
import { initStore } from "./init.js";
import { assertNotNamed } from "./record.js";
import { choiceOfUnit, type SetupRequest, type SetupScope } from "./request.js";
import { type Outage, toOutage, waitUntilServing } from "./serving.js";

/**
 * Seals the password in `server.json` or a new passphrase, unless a passphrase is sealed already.
 * Must run before the drop-in is written, whose unit loads the sealed file.
 */
export async function sealPassphrase({ request, found, former }: SetupScope): Promise<void> {
  const { source, storePath, settingsPath } = request;
  if (source.kind !== "sealed") return;
  // `adopt` adds the password to an existing file.
  if (former === "sqlcipher" && (await lstatIfExists(source.path))) return;
  const server = former === "sqlcipher" ? await readServerJson(found.server.path) : undefined;
  const wanted = server && passwordIn(server);
  await readOrSealPassphrase(source.path, { storePath, settingsPath }, wanted);
  emitStep("setup.sealed");
}

/** Creates an empty encrypted store for the clients of a JSON database. */
export async function createEncryptedStore(scope: SetupScope, settings: Settings): Promise<void> {
  const { request, found } = scope;
  const { storePath, section, source, reporter, recipients } = request;
  // A killed setup has left the store without a bundle, or in a format that the hub cannot read.
  if (found.store !== "absent") await removeOwnStore(request);
  await initStore({
    storePath,
    source,
    reporter,
    recipients,
    settings: section,
    recoveryKey: scope.recoveryKey.delivery,
    changeSettings: (present) => ({ ...present, ...settings }),
    backupDirectory: settings.backup?.to,
    schemaVersion: found.packages?.schemaVersion ?? 0,
    cipherCompatibility: found.packages?.format,
    bundleDirectory: found.directories.bundles,
  });
  emitStep("setup.stored");
}

/** Removes a store that no hub uses. Moves a store with clients away. */
async function removeOwnStore({ storePath, source, reporter }: SetupRequest): Promise<void> {
  await assertNotNamed(storePath);
  if (await isEmpty(storePath, source)) return removeDatabase(storePath);
  const kept = await replacedName(storePath);
  for (const suffix of ["", ...sidecars]) {
    if (await lstatIfExists(storePath + suffix)) await moveFile(storePath + suffix, kept + suffix);
  }
  await syncDirectory(dirname(storePath));
  reporter.notice(`${storePath}, which has clients or cannot be opened, is now ${kept}`);
}

async function isEmpty(storePath: string, source: PassphraseSource): Promise<boolean> {
  try {
    await using store = await openWithSource(storePath, source, { mode: "readwrite" });
    for await (const client of store) if (!isRevoked(client)) return false;
    return true;
  } catch (error) {
    if (!(error instanceof StoreError)) throw error;
    return false;
  }
}

/**
 * Encrypts a plain store in place, which restarts the hub through `run`.
 *
 * @throws {@link StoreError} service - if the hub does not work on the encrypted store; the store
 *   is not encrypted then
 */
export async function encryptStore(scope: SetupScope): Promise<Outage | null> {
  const { request, found, hub } = scope;
  const { storePath, reporter } = request;
  const { backups: backupDirectory, bundles: bundleTo } = found.directories;
  const cipherCompatibility = found.packages?.format;
  const plan = await planRecipients(recipientOptions(scope));
  const { service } = await plan.use(bundleTo, (recipients) =>
    withOperation(storePath, reporter, (lock) =>
      encrypt({
        ...operationOptions(scope, lock),
        bundleTo,
        backupDirectory,
        recipients,
        cipherCompatibility,
      }),
    ),
  );
  emitStep("setup.stored");
  await narrowAccess(storePath);
  const choice = choiceOfUnit(storePath, hub);
  await orRecover(
    async () => waitUntilServing(await selectService(choice), storePath, hub),
    async ({ failure }) =>
      withRecovery(failure, { messages: [] }, await returnToPlainStore(request, choice)),
  );
  return toOutage(service);
}

/**
 * Removes the permissions of other users, which a plain store has on most machines. Follows no
 * symbolic link: root may work in the directory of another user.
 */
async function narrowAccess(storePath: string): Promise<void> {
  const { O_RDONLY, O_NOFOLLOW, O_NONBLOCK } = constants;
  for (const path of ["", ...sidecars].map((suffix) => storePath + suffix)) {
    try {
      await using file = await open(path, O_RDONLY | O_NOFOLLOW | O_NONBLOCK);
      if ((await file.stat()).nlink === 1) await file.chmod(0o600);
    } catch {
      // The file is absent, or this user may not change it.
    }
  }
}

/** Adopts an encrypted store with the password in `server.json`, and removes the password there. */
export async function adoptStore(scope: SetupScope): Promise<void> {
  const { storePath, reporter } = scope.request;
  const { backups: backupDirectory, bundles: bundleTo } = scope.found.directories;
  const recipientPlan = await planRecipients(recipientOptions(scope));
  await withOperation(storePath, reporter, (lock) =>
    adopt({
      ...operationOptions(scope, lock),
      bundleTo,
      backupDirectory,
      recipientPlan,
      removePassword: true,
    }),
  );
  emitStep("setup.stored");
}

/** Returns the options that all operations of a setup share. */
export function operationOptions({ request, hub }: SetupScope, lock: OperationLock) {
  const { storePath, source, section, recoveryCommand, reporter, signal } = request;
  return {
    lock,
    source,
    recoveryCommand,
    reporter,
    signal,
    settingsSection: section,
    service: choiceOfUnit(storePath, hub),
    hub: "auto",
  } satisfies OperationOptions;
}

/** Returns the encrypted store as a database that clients are copied to or from. */
export function encryptedStore({ storePath, source }: SetupRequest): Endpoint {
  const config = { db_path: storePath, ...sourceConfig(source) };
  return { name: sqlcipherPluginName, config };
}

/** Returns the options for the recipients of a bundle. */
export function recipientOptions({ request, recoveryKey }: SetupScope) {
  const { section: settings, recipients } = request;
  return { settings, recipients, recoveryKey: recoveryKey.delivery };
}

/**
 * Converts the store to plain SQLite; the operation restarts the hub. The drop-in stays: while the
 * record is not complete, `run` starts the hub of a plain store without a passphrase.
 */
export async function decryptStore(request: SetupRequest, service: ServiceChoice): Promise<void> {
  const { storePath, source, section, recoveryCommand, signal } = request;
  // The user has confirmed the plan already.
  const reporter = { ...request.reporter, confirm: async () => undefined };
  await withOperation(storePath, reporter, (lock) =>
    decrypt({
      lock,
      source,
      settingsSection: section,
      service,
      recoveryCommand,
      reporter,
      signal,
      // A quadlet's unit writes the copy at each start. No unit starts a container of compose.
      ...(hubContainer()?.compose ? { hub: "auto", clearsCopy: true } : { hub: "none" }),
    }),
  );
}

/** @returns the state, for the error message */
async function returnToPlainStore(request: SetupRequest, choice: ServiceChoice): Promise<string> {
  try {
    // An interruption of the setup has aborted the signal of the request.
    await decryptStore({ ...request, signal: new AbortController().signal }, choice);
    // The operation starts only a unit that ran. This unit may have failed and stopped.
    const service = await selectService(choice);
    if (!(await service.state()).active) await service.start([]);
    return `${request.storePath} is plain SQLite again, and the hub uses it`;
  } catch (error) {
    return systemError(error, `${request.storePath} could not be decrypted again`).message;
  }
}
