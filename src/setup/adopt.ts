/**
 * `init --adopt`: takes over a store that upstream's `password` setting encrypted.
 *
 *   adopt(options: AdoptOptions): Promise<AdoptResult>
 *
 * The passphrase is proven, goes into the keyring and a bundle, and the plaintext one leaves `server.json` when asked. The
 * store's file and the service are left alone: what the hub has open stays open.
 */
import { isKind, StoreError } from "../errors.js";
import { readSecretFile } from "../fs/private.js";
import { findPasswordDelivery } from "../hub/password-delivery.js";
import { namedStore, passwordIn, readServerJson, serverJsonPath } from "../hub/server-json.js";
import { adoptPendingIfEqual, firstPassphrase, planRotation } from "../keys/rotation-plan.js";
import { describeSource, formatSource, readPassphraseFile } from "../keys/source.js";
import type { ServiceReport } from "../operation/downtime.js";
import { throwIfAborted } from "../process/abort.js";
import { selectService } from "../service/select.js";
import { type CipherCompatibility, identify, isRawKey, openEncrypted } from "../store/cipher.js";
import {
  type CipherParameters,
  exportCommands,
  exportPragmas,
  formatCipherSettings,
} from "../store/cipher-settings.js";
import { assertExportable } from "../store/export.js";
import { openForeign, probeParameters } from "../store/foreign-cipher.js";
import { checkSchema } from "../store/schema.js";
import { adoptPassphrase } from "../swap/adopt-passphrase.js";
import { encrypt } from "../swap/encrypt.js";
import type { BundleOptions, BundleReport, OperationOptions } from "../swap/options.js";
import { bundleReport, checkBundleDirectory } from "../swap/prepare.js";

export interface AdoptOptions extends OperationOptions, BundleOptions {
  /** The passphrase, where it is known; without it the one in `server.json` is taken. */
  readonly passphrase?: string | undefined;
  /** Asks for it where that has none. */
  readonly askPassphrase?: (() => Promise<string>) | undefined;
  /** Whether the plaintext password is taken out of `server.json`. */
  readonly removePassword?: boolean | undefined;
  /** SQLCipher parameters of the store, which is encrypted again under the defaults. */
  readonly cipherSettings?: CipherParameters | undefined;
}

export interface AdoptResult {
  readonly adopted: {
    readonly path: string;
    readonly key_id: string;
    readonly cipher_compatibility: CipherCompatibility;
    readonly passphrase_source: string;
    readonly password_from: "server.json" | "given";
    readonly password_removed: boolean;
  };
  readonly bundle: BundleReport | null;
  /** Only for a store that was encrypted again, which stops the service. */
  readonly service?: ServiceReport;
}

/** Reads the passphrase of a store to adopt, or its raw key, which no other command accepts. */
export async function readStoreSecret(path: string): Promise<string> {
  const secret = await readSecretFile(path, { missing: "passphraseUnavailable" });
  return isRawKey(secret) ? secret : readPassphraseFile(path);
}

/**
 * Adopts the store.
 *
 * @throws StoreError `notFound` without a store; `refused` for one that is not encrypted, and if the hub could not open
 *   the store without the password that is to be removed; `passphraseUnavailable` if there is none; `wrongPassphrase`;
 *   what `checkBundleFolder` and the keyring throw.
 */
export async function adopt(options: AdoptOptions): Promise<AdoptResult> {
  const { lock, source, reporter, removePassword = false } = options;
  const { storePath } = lock;
  await assertNoOtherPassword(storePath);
  const bundlePlan = await checkBundleDirectory(options, reporter);
  const inServerJson = await passwordFor(storePath);
  const passphrase =
    options.passphrase ?? inServerJson?.password ?? (await options.askPassphrase?.());
  if (passphrase === undefined) {
    throw new StoreError("passphraseUnavailable", `${serverJsonPath()} has no password for it`, {
      hint: "give it yourself: --passphrase-file FILE, or type it where you are asked",
    });
  }
  const from = passphrase === inServerJson?.password ? "server.json" : "given";
  if (options.cipherSettings !== undefined) {
    return adoptForeign(options, passphrase, options.cipherSettings, from);
  }
  if (isRawKey(passphrase)) throw await otherParametersError(storePath, passphrase);
  const { connection, key, keyId } = await openEncrypted(storePath, passphrase, {
    mode: "readwrite",
  }).catch(async (error: unknown) => {
    if (!isKind(error, "wrongPassphrase")) throw error;
    throw await otherParametersError(
      storePath,
      passphrase,
      options.passphrase === undefined ? inServerJson?.path : undefined,
    );
  });
  try {
    await checkSchema(connection);
  } finally {
    await connection.close();
  }
  if (source.kind !== "keyring") await assertYields(options, passphrase);
  const remove = removePassword ? inServerJson?.path : undefined;
  if (remove !== undefined) await assertHubKeepsAccess(options, remove);
  else if (inServerJson) {
    reporter.notice(
      `the password is still in ${inServerJson.path}, in plain text; a hub that is started by run needs none there`,
    );
  }
  throwIfAborted(options.signal);
  if (source.kind === "keyring") await adoptPendingIfEqual(storePath, passphrase);
  const keyring = await planRotation(storePath, source, passphrase, { keyId }, true);
  const bundle = await adoptPassphrase({
    operation: "adopt",
    storePath,
    passphrase,
    key,
    keyring,
    bundle: bundlePlan,
    serverJson: remove,
  });
  return {
    adopted: {
      path: storePath,
      key_id: keyId,
      cipher_compatibility: key.cipherCompatibility,
      passphrase_source: formatSource(source),
      password_from: from,
      password_removed: remove !== undefined,
    },
    bundle: bundleReport({ bundle }),
  };
}

/**
 * Adopts a store with other SQLCipher parameters: encrypts it under the defaults, in its place and
 * with the same passphrase. A raw key is replaced by a passphrase.
 */
async function adoptForeign(
  options: AdoptOptions,
  secret: string,
  parameters: CipherParameters,
  passwordFrom: AdoptResult["adopted"]["password_from"],
): Promise<AdoptResult> {
  const { storePath } = options.lock;
  if (options.removePassword) {
    throw new StoreError("usage", "--cipher-settings and --remove-password cannot be combined", {
      hint: "Adopt the store first, then remove the password: hivemind-sqlcipher init --adopt --remove-password",
    });
  }
  const passphrase = isRawKey(secret) ? undefined : secret;
  if (passphrase !== undefined && options.source.kind !== "keyring") {
    await assertYields(options, passphrase);
  }
  const { connection, key } = await openForeign(storePath, secret, parameters);
  try {
    await checkSchema(connection);
    await assertExportable(connection);
  } finally {
    await connection.close();
  }
  const settings = formatCipherSettings(parameters);
  const { encrypted, bundle, service } = await encrypt({
    ...options,
    passphraseFile: undefined,
    foreign: { key, passphrase, settings },
  });
  return {
    adopted: {
      path: storePath,
      key_id: encrypted.key_id,
      cipher_compatibility: encrypted.cipher_compatibility,
      passphrase_source: encrypted.passphrase_source,
      password_from: passwordFrom,
      password_removed: false,
    },
    bundle,
    service,
  };
}

async function assertYields({ source, lock }: AdoptOptions, passphrase: string): Promise<void> {
  if ((await firstPassphrase(source, lock.storePath)) === passphrase) return;
  throw new StoreError(
    "refused",
    `${describeSource(source)} does not yield the store's passphrase`,
    { hint: "Put it there first, or keep it in the keyring: --passphrase-source keyring" },
  );
}

/**
 * Returns the error for a secret that does not open the store at the defaults, after trying the
 * parameters that other programs use.
 *
 * @param serverJson - the file that the secret was read from, if it was not given
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

async function assertNoOtherPassword(storePath: string): Promise<void> {
  const { format } = await identify(storePath);
  if (format === "sqlcipher") return;
  if (format === "absent") {
    throw new StoreError("notFound", `there is no store at ${storePath}`, {
      hint: "hivemind-sqlcipher init makes a new one",
    });
  }
  throw new StoreError("refused", `${storePath} is not encrypted`, {
    hint: "hivemind-sqlcipher encrypt converts it",
  });
}

/** The password for this store in `server.json`, if that names this store and has one. */
async function passwordFor(
  storePath: string,
): Promise<{ path: string; password: string } | undefined> {
  const path = serverJsonPath();
  try {
    const file = await readServerJson(path);
    const password = passwordIn(file);
    if (password === undefined || (await namedStore(file)).storePath !== storePath)
      return undefined;
    return { path, password };
  } catch (error) {
    if (error instanceof StoreError && error.kind === "notFound") return undefined;
    throw error;
  }
}

async function assertHubKeepsAccess({ service: choice, hub }: AdoptOptions, path: string) {
  const service = await selectService(choice);
  const delivery = await findPasswordDelivery({ service, choice, wasActive: false }, hub);
  if (delivery.how === "run" || hub === "none") return;
  throw new StoreError(
    "refused",
    `without the password in ${path}, ${service.name ?? "the hub"} could not open its store`,
    {
      hint:
        "let its unit start it by: ExecStart=hivemind-sqlcipher run -- hivemind-core listen (then systemctl daemon-reload);\n" +
        "or say --hub none if no hub uses this store",
    },
  );
}
