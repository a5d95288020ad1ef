/**
 * `init --adopt`: takes over a store that upstream's `password` setting encrypted.
 *
 *   adopt(options: AdoptOptions): Promise<AdoptResult>
 *
 * The passphrase is proven, goes into the keyring and a bundle, and the plaintext one leaves `server.json` when asked. The
 * store's file and the service are left alone: what the hub has open stays open.
 */
import { StoreError } from "../errors.js";
import { findPasswordDelivery } from "../hub/password-delivery.js";
import { namedStore, passwordIn, readServerJson, serverJsonPath } from "../hub/server-json.js";
import { adoptPendingIfEqual, firstPassphrase, planRotation } from "../keys/rotation-plan.js";
import { describeSource, formatSource } from "../keys/source.js";
import { throwIfAborted } from "../process/abort.js";
import { selectService } from "../service/select.js";
import { type CipherCompatibility, identify, openEncrypted } from "../store/cipher.js";
import { checkSchema } from "../store/schema.js";
import { adoptPassphrase } from "../swap/adopt-passphrase.js";
import type { BundleOptions, BundleReport, OperationOptions } from "../swap/options.js";
import { bundleReport, checkBundleDirectory } from "../swap/prepare.js";

export interface AdoptOptions extends Omit<OperationOptions, "recoveryCommand">, BundleOptions {
  /** The passphrase, where it is known; without it the one in `server.json` is taken. */
  readonly passphrase?: string | undefined;
  /** Asks for it where that has none. */
  readonly askPassphrase?: (() => Promise<string>) | undefined;
  /** Whether the plaintext password is taken out of `server.json`. */
  readonly removePassword?: boolean | undefined;
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
  const { connection, key, keyId } = await openEncrypted(storePath, passphrase, {
    mode: "readwrite",
  }).catch((error: unknown) => {
    throw withCurrentPassphrase(
      error,
      options.passphrase === undefined ? inServerJson?.path : undefined,
    );
  });
  try {
    await checkSchema(connection);
  } finally {
    await connection.close();
  }
  if (source.kind !== "keyring" && (await firstPassphrase(source, storePath)) !== passphrase) {
    throw new StoreError(
      "refused",
      `${describeSource(source)} does not yield the store's passphrase`,
      {
        hint: "put it there first, or keep it in the keyring: --passphrase-source keyring",
      },
    );
  }
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
      password_from: passphrase === inServerJson?.password ? "server.json" : "given",
      password_removed: remove !== undefined,
    },
    bundle: bundleReport({ bundle }),
  };
}

/** @param serverJson where the passphrase that does not open the store was read, if it was there. */
function withCurrentPassphrase(error: unknown, serverJson: string | undefined): unknown {
  if (!(error instanceof StoreError) || error.kind !== "wrongPassphrase") return error;
  const right = "give the one that opens it: --passphrase-file FILE";
  return new StoreError(error.kind, error.message, {
    hint: serverJson === undefined ? right : `the password in ${serverJson} does not: ${right}`,
    cause: error,
  });
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
