/**
 * `init --adopt`: takes over a store encrypted by HiveMind's `password` setting.
 *
 * The passphrase is checked, stored in the keyring and in a bundle, and removed from `server.json`
 * on request. The store's file and the service do not change: a running hub keeps its connection.
 * A store with other SQLCipher parameters is encrypted again under the defaults.
 */
import { type BundleReport, bundleReport } from "../bundle/bundle.js";
import { assertPlacement } from "../bundle/placement.js";
import type { RecipientPlan } from "../bundle/recipients.js";
import { hubEnvironment } from "../config/hub-account.js";
import { isKind, StoreError } from "../errors.js";
import { readSecretFile } from "../fs/private.js";
import { assertHubOpens } from "../hub/assert-opens.js";
import {
  findPasswordDelivery,
  findServerJson,
  type HubFile,
  startHint,
  storeOf,
} from "../hub/password-delivery.js";
import { passwordIn, readServerJson } from "../hub/server-json.js";
import { readServiceHub, type ServiceHub } from "../hub/service-hub.js";
import { assertKeyringUsable } from "../keys/keyring.js";
import { readPassphrasesInFile } from "../keys/passphrase-file.js";
import { withSealed } from "../keys/reseal.js";
import { adoptPendingIfEqual, planRotation, readFirstPassphrase } from "../keys/rotation-plan.js";
import { findSealingScope } from "../keys/sealed.js";
import { assertYields, formatSource } from "../keys/source.js";
import type { ServiceReport } from "../operation/service.js";
import { throwIfAborted } from "../process/abort.js";
import { selectService } from "../service/select.js";
import {
  type CipherCompatibility,
  identify,
  isRawKey,
  openEncrypted,
  type StoreKey,
} from "../store/cipher.js";
import {
  type CipherParameters,
  exportCommands,
  exportPragmas,
  formatCipherSettings,
} from "../store/cipher-settings.js";
import { assertExportable } from "../store/export.js";
import { openForeign, probeParameters } from "../store/foreign-cipher.js";
import { readSchema } from "../store/schema.js";
import { adoptPassphrase } from "../swap/adopt-passphrase.js";
import { encrypt } from "../swap/encrypt.js";
import type { OperationOptions } from "../swap/options.js";
import { assertBundleDirectory } from "../swap/prepare.js";

export interface AdoptOptions extends OperationOptions {
  /** The directory for the bundle. It must exist. */
  readonly bundleTo: string;
  /** The backup directory, if known: bundles are kept apart from it. */
  readonly backupDirectory?: string | undefined;
  readonly recipientPlan: RecipientPlan;
  /** Default: the password in the `server.json` of the service's hub. */
  readonly passphrase?: AdoptedSecret | undefined;
  /** Asks for the passphrase if `server.json` has none. */
  readonly askPassphrase?: (() => Promise<string>) | undefined;
  /** Whether to remove the plaintext password from `server.json`. */
  readonly removePassword?: boolean | undefined;
  /** SQLCipher parameters of a store to be encrypted again under the defaults. */
  readonly cipherSettings?: CipherParameters | undefined;
}

export interface AdoptResult {
  readonly adopted: {
    readonly path: string;
    readonly keyId: string;
    readonly cipherCompatibility: CipherCompatibility;
    readonly passphraseSource: string;
    readonly passwordFrom: "server.json" | "given";
    readonly passwordRemoved: boolean;
  };
  readonly bundle: BundleReport | null;
  /** Only for a store that was encrypted again, which stops the service. */
  readonly service?: ServiceReport;
}

/** Reads the passphrase of a store to adopt, or its raw key. No other command accepts a raw key. */
export async function readStoreSecret(path: string): Promise<AdoptedSecret> {
  const secret = await readSecretFile(path, { missing: "passphraseUnavailable" });
  if (isRawKey(secret)) return { path, candidates: [secret] };
  return {
    path,
    candidates: await readPassphrasesInFile(path, { missing: "passphraseUnavailable" }),
  };
}

/** The passphrases that a file may contain: its first line, or its whole text. */
export interface AdoptedSecret {
  readonly path: string;
  readonly candidates: readonly [string, ...string[]];
}

/**
 * Adopts the store. Generates a recovery key only after the passphrase has opened the store.
 *
 * @throws {@link StoreError} notFound - without a store
 * @throws {@link StoreError} refused - for a plaintext store, for other SQLCipher parameters than
 *   the defaults, and if the hub could not open the store without the removed password
 * @throws {@link StoreError} passphraseUnavailable - without a passphrase
 * @throws {@link StoreError} wrongPassphrase - if it does not open the store
 * @throws {@link StoreError} io - if the bundle directory is missing
 */
export async function adopt(options: AdoptOptions): Promise<AdoptResult> {
  const { lock, source, reporter, bundleTo, backupDirectory, removePassword = false } = options;
  const { storePath } = lock;
  await assertEncrypted(storePath);
  await assertBundleDirectory(bundleTo);
  const server = await findServerJson(await findHub(options));
  const inServerJson = await findPassword(server, storePath);
  const candidates = await findCandidates(options, server.path, inServerJson?.password);
  const origin = (secret: string) => (secret === inServerJson?.password ? "server.json" : "given");
  if (options.cipherSettings !== undefined) {
    const [secret] = candidates;
    return adoptForeign(options, secret, options.cipherSettings, origin(secret));
  }
  if (backupDirectory !== undefined) {
    await assertPlacement(backupDirectory, bundleTo, reporter);
  }
  const { passphrase, key, keyId } = await openWithPassphrase(
    storePath,
    candidates,
    options.passphrase === undefined ? inServerJson?.path : undefined,
  );
  if (passphrase !== candidates[0]) {
    const { path } = options.passphrase ?? {};
    reporter.notice(`${path}: the whole text opens the store, not its first line`);
  }
  await assertSourceKeeps(options, passphrase);
  const passwordFile = removePassword ? inServerJson?.path : undefined;
  if (passwordFile !== undefined) await assertHubKeepsAccess(options, passwordFile, key);
  else if (inServerJson) {
    reporter.notice(
      `the password is still in ${inServerJson.path}, in plain text; a hub that is started by run needs none there`,
    );
  }
  throwIfAborted(options.signal);
  if (options.recipientPlan.notice !== undefined) reporter.notice(options.recipientPlan.notice);
  const bundle = await options.recipientPlan.use(bundleTo, async (recipients) => {
    if (source.kind === "keyring") await adoptPendingIfEqual(storePath, passphrase);
    const keyring = await planRotation(storePath, source, passphrase, { keyId }, true);
    return await withPassphraseSealed(options, passphrase, () =>
      adoptPassphrase({
        operation: "adopt",
        storePath,
        passphrase,
        key,
        keyring,
        bundle: { directory: bundleTo, recipients },
        serverJson: passwordFile,
      }),
    );
  });
  return {
    adopted: {
      path: storePath,
      keyId,
      cipherCompatibility: key.cipherCompatibility,
      passphraseSource: formatSource(source),
      passwordFrom: origin(passphrase),
      passwordRemoved: passwordFile !== undefined,
    },
    bundle: bundle ? bundleReport(bundle) : null,
  };
}

/** Returns the given passphrases, or the password in `server.json`, or asks for the passphrase. */
async function findCandidates(
  { lock, passphrase: given, askPassphrase }: AdoptOptions,
  serverJson: string,
  inServerJson: string | undefined,
): Promise<AdoptedSecret["candidates"]> {
  if (given !== undefined) return given.candidates;
  const found = inServerJson ?? (await askPassphrase?.());
  if (found !== undefined) return [found];
  const problem = `${serverJson} has no password for ${lock.storePath}`;
  throw new StoreError("passphraseUnavailable", problem, {
    hint: "Give the passphrase with --passphrase-file FILE, or on a terminal.",
  });
}

/**
 * Adopts a store with other SQLCipher parameters: encrypts it under the defaults, in its place and
 * with the same passphrase. A raw key is replaced by a passphrase.
 */
async function adoptForeign(
  options: AdoptOptions,
  secret: string,
  parameters: CipherParameters,
  passwordFrom: AdoptResult["adopted"]["passwordFrom"],
): Promise<AdoptResult> {
  const { lock, bundleTo, backupDirectory, recipientPlan, reporter } = options;
  const { storePath } = lock;
  if (options.removePassword) {
    throw new StoreError("usage", "--cipher-settings and --remove-password cannot be combined", {
      hint: "Adopt the store first, then remove the password: hivemind-sqlcipher init --adopt --remove-password",
    });
  }
  const key = await openWithParameters(storePath, secret, parameters);
  const passphrase = isRawKey(secret) ? undefined : secret;
  await assertSourceKeeps(options, passphrase);
  const settings = formatCipherSettings(parameters);
  if (recipientPlan.notice !== undefined) reporter.notice(recipientPlan.notice);
  const { encrypted, bundle, service } = await recipientPlan.use(bundleTo, (recipients) =>
    withPassphraseSealed(options, passphrase, () =>
      encrypt({
        lock,
        source: options.source,
        settingsSection: options.settingsSection,
        service: options.service,
        hub: options.hub,
        recoveryCommand: options.recoveryCommand,
        reporter,
        signal: options.signal,
        bundleTo,
        backupDirectory,
        recipients,
        foreign: { key, passphrase, settings },
      }),
    ),
  );
  return {
    adopted: {
      path: storePath,
      keyId: encrypted.keyId,
      cipherCompatibility: encrypted.cipherCompatibility,
      passphraseSource: encrypted.passphraseSource,
      passwordFrom,
      passwordRemoved: false,
    },
    bundle,
    service,
  };
}

/** Runs `work` with `withSealed`, unless a passphrase of the source replaces a raw key. */
function withPassphraseSealed<Result>(
  { lock: { storePath }, source, settingsSection }: AdoptOptions,
  next: string | undefined,
  work: () => Promise<Result>,
): Promise<Result> {
  if (next === undefined) return work();
  const { path: settingsPath } = settingsSection;
  return withSealed(source, { storePath, settingsPath, next, former: undefined }, work);
}

/** Opens the store with other parameters, checks whether it can be exported, and closes it. */
async function openWithParameters(
  storePath: string,
  secret: string,
  parameters: CipherParameters,
): Promise<StoreKey> {
  const { connection, key } = await openForeign(storePath, secret, parameters);
  await using opened = connection;
  await readSchema(opened);
  await assertExportable(opened);
  return key;
}

/**
 * Opens the store with SQLCipher's defaults and the first of some passphrases that opens it, checks
 * its schema, and closes it.
 *
 * @param passwordFile - the `server.json` with this passphrase, for the error
 */
async function openWithPassphrase(
  storePath: string,
  candidates: AdoptedSecret["candidates"],
  passwordFile: string | undefined,
): Promise<{ passphrase: string; key: StoreKey; keyId: string }> {
  const [likeliest] = candidates;
  if (isRawKey(likeliest)) throw await otherParametersError(storePath, likeliest);
  for (const passphrase of candidates) {
    try {
      const opened = await openEncrypted(storePath, passphrase, { mode: "readwrite" });
      await using connection = opened.connection;
      await readSchema(connection);
      return { passphrase, key: opened.key, keyId: opened.keyId };
    } catch (error) {
      if (!isKind(error, "wrongPassphrase")) throw error;
    }
  }
  throw await otherParametersError(storePath, likeliest, passwordFile);
}

/**
 * Checks whether the source can store the passphrase, or has it already.
 *
 * @param passphrase - undefined for a raw key: the source's own passphrase replaces it
 */
async function assertSourceKeeps(
  { source, lock }: AdoptOptions,
  passphrase: string | undefined,
): Promise<void> {
  if (source.kind === "keyring") return await assertKeyringUsable();
  if (source.kind === "sealed") {
    await findSealingScope();
    return;
  }
  if (passphrase === undefined) {
    await readFirstPassphrase(source, lock.storePath);
    return;
  }
  await assertYields(
    source,
    lock.storePath,
    { passphrase, what: "the store's passphrase" },
    "Store it there first, or use the keyring: --passphrase-source keyring",
  );
}

/**
 * Returns the error for a secret that does not open the store with the defaults. Tries the
 * parameters of other programs.
 *
 * @param serverJson - the file of the secret, unless the user gave the secret
 */
async function otherParametersError(
  storePath: string,
  secret: string,
  serverJson?: string,
): Promise<StoreError> {
  const found = await probeParameters(storePath, secret);
  const place = serverJson === undefined ? "" : ` from ${serverJson}`;
  if (found === undefined) {
    const settings = ["PRAGMA NAME = VALUE;"];
    return new StoreError(
      "wrongPassphrase",
      `${storePath}: wrong passphrase${place}, or file is not a database`,
      {
        hint: `Give the passphrase that opens it: --passphrase-file FILE\nIf it is right, the store has unusual SQLCipher parameters: name them with --cipher-settings, or export it with the sqlcipher program, version 4:\n${exportCommands(storePath, settings)}`,
      },
    );
  }
  const settings = formatCipherSettings(found);
  return new StoreError(
    "refused",
    `the passphrase${place} opens ${storePath} with other SQLCipher parameters than the hub's: ${settings}`,
    {
      hint: `Encrypt it under the defaults, with the same passphrase: hivemind-sqlcipher init --adopt --cipher-settings ${settings}\nOr export it with the sqlcipher program, version 4:\n${exportCommands(storePath, exportPragmas(found))}`,
    },
  );
}

async function assertEncrypted(storePath: string): Promise<void> {
  const { format } = await identify(storePath);
  if (format === "sqlcipher") return;
  if (format === "absent") {
    throw new StoreError("notFound", `no such file: there is no store at ${storePath}`, {
      hint: "Name the store to take over: --db PATH",
    });
  }
  throw new StoreError("refused", `${storePath} is not encrypted`, {
    hint: "Encrypt it: hivemind-sqlcipher encrypt",
  });
}

/**
 * Returns the environment and container of the service's hub, by which its `server.json` is found.
 * Adopting does not stop the service, so an unknown service is no error: the environment of the hub
 * that this process works for is used instead.
 */
async function findHub({
  service: choice,
  hub,
}: AdoptOptions): Promise<Pick<ServiceHub, "environment" | "container">> {
  const own = { environment: hubEnvironment() };
  if (hub === "none") return own;
  try {
    const service = await selectService(choice);
    return await readServiceHub({ service, choice });
  } catch (error) {
    if (isKind(error, "inUse", "refused", "service")) return own;
    throw error;
  }
}

/** Returns the password in a `server.json`, if the file names this store and has a password. */
async function findPassword(
  server: HubFile,
  storePath: string,
): Promise<{ path: string; password: string } | undefined> {
  try {
    const { path } = server;
    const password = passwordIn(await readServerJson(path));
    const named = await storeOf(server);
    return password !== undefined && named.storePath === storePath ? { path, password } : undefined;
  } catch (error) {
    if (isKind(error, "notFound")) return undefined;
    throw error;
  }
}

async function assertHubKeepsAccess(
  { service: choice, hub, reporter }: AdoptOptions,
  passwordFile: string,
  { cipherCompatibility }: StoreKey,
): Promise<void> {
  if (hub === "none") return;
  const service = await selectService(choice);
  const delivery = await findPasswordDelivery({ service, choice, wasActive: false }, hub);
  if (delivery.how === "run") {
    return assertHubOpens({ service, choice }, delivery, cipherCompatibility, reporter);
  }
  throw new StoreError(
    "refused",
    `without the password in ${passwordFile}, ${service.name ?? "the hub"} could not open its store`,
    {
      hint: `${startHint(service)}\nOr add --hub none if no hub uses this store.`,
    },
  );
}
