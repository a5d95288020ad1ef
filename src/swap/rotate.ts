/**
 * `rotate`: re-encrypts the store into a new file under a new passphrase.
 *
 * A `command` or `credential` source is read-only and cannot be rotated. For a `file:` source, the
 * operator writes the new passphrase into another file. If the settings name the old file, they
 * then name the new file.
 */
import { constants } from "node:fs";
import { access, stat } from "node:fs/promises";
import {
  type ReencryptedBackups,
  type ReencryptOptions,
  reencryptBackups,
} from "../backup/reencrypt.js";
import { isWal } from "../backup/warm-copy.js";
import { type BundleReport, bundleReport } from "../bundle/bundle.js";
import { assertNotMissing } from "../config/known-directories.js";
import { loadSection } from "../config/settings-file.js";
import { StoreError, systemError, withLine } from "../errors.js";
import { assertHubOpens } from "../hub/assert-opens.js";
import {
  assertReadsSource,
  findPasswordFile,
  type PasswordDelivery,
  resolvePasswordDelivery,
} from "../hub/password-delivery.js";
import { withSealed } from "../keys/reseal.js";
import { adoptPending, type KeyringPlan, planRotation } from "../keys/rotation-plan.js";
import {
  describeSource,
  formatSource,
  type PassphraseSource,
  parseSource,
} from "../keys/source.js";
import { type UnlockedStore, unlock } from "../keys/unlock.js";
import { type ResolvedService, resolveService, type ServiceReport } from "../operation/service.js";
import { keyIdOf, type StoreKey } from "../store/cipher.js";
import type { BundleOptions, OperationOptions } from "./options.js";
import {
  type BundlePlan,
  planBundle,
  readOrGeneratePassphrase,
  stageEncrypted,
} from "./prepare.js";
import { Reencryption } from "./reencryption.js";
import type { SwapOutcome } from "./request.js";
import { swap } from "./swap.js";

export interface RotateOptions extends OperationOptions, BundleOptions {
  /**
   * The absolute path of a file with the new passphrase; without it a passphrase is generated.
   * Required for a `file:` source.
   */
  readonly passphraseFile?: string | undefined;
  /** Keeps the old passphrase in the keyring, for the backups under it. */
  readonly keepPrevious?: boolean | undefined;
  /** Compares every row of the new file with the old file, too, while the service is stopped. */
  readonly compareRows?: boolean | undefined;
  /** A directory of backups to be re-encrypted under the new passphrase. */
  readonly reencrypt?: string | undefined;
}

export interface RotateResult {
  readonly rotated: {
    readonly path: string;
    readonly keyId: string;
    readonly previousKeyId: string;
    readonly passphraseSource: string;
    /** Whether the keyring still has the old passphrase. */
    readonly previousKept: boolean;
    /** How the hub gets the new passphrase. */
    readonly hub: PasswordDelivery["how"];
  };
  readonly bundle: BundleReport | null;
  readonly service: ServiceReport;
  readonly backups: ReencryptedBackups | null;
}

/**
 * Changes the passphrase of the store.
 *
 * @throws {@link StoreError} refused - if the hub would not get the new passphrase or could not
 *   open the store, the source cannot be written or cannot keep the previous passphrase, the new
 *   passphrase equals the old one, or the hub reads a sealed passphrase from `server.json`
 * @throws {@link StoreError} io - if the directory of backups cannot be used
 * @throws {@link StoreError} - what `unlock`, `resolveService`, `planBundle`, `swap` and
 *   `reencryptBackups` throw
 */
export async function rotate(options: RotateOptions): Promise<RotateResult> {
  const { source, settingsSection } = options;
  const { storePath } = options.lock;
  const rotation = await prepareRotation(options);
  const { previous, passphrase, next } = rotation;
  const outcome = await withSealed(
    source,
    {
      storePath,
      settingsPath: settingsSection.path,
      next: passphrase,
      former: previous.passphrase,
    },
    () => replaceStore(options, rotation),
  );
  const { key, bundle, service } = outcome;
  const backups = await reencryptOldBackups(options, {
    key,
    passphrases: [previous.passphrase],
    source: next.source,
  });
  return {
    rotated: {
      path: storePath,
      keyId: keyIdOf(key.salt),
      previousKeyId: previous.keyId,
      passphraseSource: formatSource(next.source),
      previousKept: rotation.keyring?.keep_previous ?? false,
      hub: rotation.delivery.how,
    },
    bundle: bundle ? bundleReport(bundle) : null,
    service,
    backups,
  };
}

/** The result of the checks before the store is replaced. */
interface Rotation {
  readonly previous: Pick<UnlockedStore, "passphrase" | "key" | "keyId">;
  readonly passphrase: string;
  readonly next: NextSource;
  /** Whether the store is in WAL mode. */
  readonly usesWal: boolean;
  readonly service: ResolvedService;
  /** How the hub gets its password. */
  readonly delivery: PasswordDelivery;
  readonly keyring: KeyringPlan | undefined;
  readonly bundle: BundlePlan;
}

/** Makes every check, chooses the new passphrase, and prepares the keyring. */
async function prepareRotation(options: RotateOptions): Promise<Rotation> {
  const { source, reporter, reencrypt, keepPrevious = false } = options;
  const { storePath } = options.lock;
  if (keepPrevious) assertKeepsPrevious(source);
  const bundle = await planBundle(options, reporter);
  if (reencrypt !== undefined) {
    await assertWritable(reencrypt);
    await assertNotMissing([reencrypt], storePath);
  }
  const next = await resolveNextSource(options);
  const previous = await unlock(storePath, source, { mode: "readwrite" });
  const { connection } = previous;
  const usesWal = await isWal(connection).finally(() => connection.close());
  await adoptPending(storePath, previous.generation, reporter);
  const passphrase = await readOrGeneratePassphrase(options.passphraseFile);
  if (passphrase === previous.passphrase) {
    throw new StoreError("refused", "the new passphrase equals the old one", {
      hint: "Choose another passphrase.",
    });
  }
  const service = await resolveService(options.service, reporter);
  const delivery = await resolvePasswordDelivery(service, options.hub);
  if (source.kind === "sealed") assertNotInServerJson(delivery);
  assertReadsSource(service, delivery, { from: source, to: next.source });
  await assertHubOpens(service, delivery, previous.key.cipherCompatibility, reporter);
  const keyring = await planRotation(storePath, source, passphrase, previous, keepPrevious);
  return { previous, passphrase, next, usesWal, service, delivery, keyring, bundle };
}

async function replaceStore(
  options: RotateOptions,
  rotation: Rotation,
): Promise<SwapOutcome<StoreKey, void>> {
  const { lock, source, reporter, signal } = options;
  const { previous, passphrase, next } = rotation;
  const { key: oldKey } = previous;
  await using reencryption = new Reencryption({
    storePath: lock.storePath,
    isWal: rotation.usesWal,
    oldKey,
    passphrase,
    compareRows: options.compareRows ?? false,
    reporter,
    signal,
  });
  return await swap({
    operation: "rotate",
    lock,
    replaced: { state: "open", secret: oldKey },
    passphrase,
    sources: { from: source, to: next.source },
    keyring: rotation.keyring,
    settings: next.settings,
    serverJson: findPasswordFile(rotation.delivery, reporter),
    bundle: rotation.bundle,
    replacedBundle: { passphrase: previous.passphrase, key: oldKey },
    service: rotation.service,
    recoveryCommand: options.recoveryCommand,
    reporter,
    signal,
    stage: (staged) => stageEncrypted(staged, passphrase, oldKey.cipherCompatibility),
    prefill: (staged, key) => reencryption.begin(staged, key),
    lockStore: () => reencryption.lock(),
    fill: (_staged, key, locked) => reencryption.complete(key, locked),
  });
}

/** @throws {@link StoreError} refused - if the source cannot keep a previous passphrase */
function assertKeepsPrevious(source: PassphraseSource): void {
  if (source.kind === "keyring") return;
  throw new StoreError(
    "refused",
    `only the keyring keeps a previous passphrase, and this store's is in ${describeSource(source)}`,
    {
      hint: "Leave out --keep-previous: the bundle of the previous passphrase opens older backups.",
    },
  );
}

/** @throws {@link StoreError} io - if the directory of backups cannot be read or written */
async function assertWritable(directory: string): Promise<void> {
  const fail = (error: unknown): never => {
    throw systemError(error, `cannot use the backup directory ${directory}`);
  };
  const stats = await stat(directory).catch(fail);
  if (!stats.isDirectory()) {
    throw new StoreError("io", `${directory} is not a directory`, {
      hint: "Name the backups' directory with --reencrypt-backups.",
    });
  }
  await access(directory, constants.R_OK | constants.W_OK | constants.X_OK).catch(fail);
}

/**
 * Re-encrypts the backups in `options.reencrypt`, if it is set.
 *
 * @throws {@link StoreError} - what `reencryptBackups` throws; the message adds that the store is
 *   rotated
 */
async function reencryptOldBackups(
  { lock, reencrypt, bundleTo, reporter, signal }: RotateOptions,
  rotated: Pick<ReencryptOptions, "key" | "passphrases" | "source">,
): Promise<ReencryptedBackups | null> {
  if (reencrypt === undefined) return null;
  try {
    return await reencryptBackups({
      ...rotated,
      lock,
      reporter,
      signal,
      folder: reencrypt,
      bundleFolder: bundleTo,
    });
  } catch (error) {
    const { kind, message, hint } = systemError(error, "unexpected", "failed");
    throw new StoreError(
      kind,
      `the store is rotated, but not all backups in ${reencrypt} could be re-encrypted: ${message}`,
      {
        hint: withLine(
          hint,
          "The backups that were not re-encrypted are unchanged, and open with the bundles of their key_ids.",
        ),
        cause: error,
      },
    );
  }
}

/**
 * Refuses to rotate a sealed passphrase that the hub reads from `server.json`: the rotation would
 * write the new passphrase there in plain text, too.
 *
 * @throws {@link StoreError} refused - if the hub reads its passphrase from `server.json`
 */
function assertNotInServerJson(delivery: PasswordDelivery): void {
  if (delivery.how !== "server.json") return;
  throw new StoreError(
    "refused",
    `the hub reads its passphrase in plain text from ${delivery.path}`,
    {
      hint: "First change the hub's unit, so that the hub gets its passphrase from hivemind-sqlcipher run: hivemind-sqlcipher setup",
    },
  );
}

interface NextSource {
  readonly source: PassphraseSource;
  /** The settings file, if it names the source and the source changes. */
  readonly settings?: string;
}

/**
 * Returns the passphrase source after the rotation. If the source changes and the settings name it,
 * also returns the settings file to change.
 *
 * @throws {@link StoreError} refused - if the source cannot be written
 */
async function resolveNextSource(options: RotateOptions): Promise<NextSource> {
  const { source, passphraseFile, settingsSection } = options;
  switch (source.kind) {
    case "keyring":
    case "sealed":
      return { source };
    case "file": {
      if (passphraseFile === undefined || passphraseFile === source.path) {
        throw new StoreError(
          "refused",
          `the passphrase is read from ${source.path}, which this program does not write`,
          {
            hint: "Put the new passphrase into another file of mode 0600: --passphrase-file FILE.",
          },
        );
      }
      const next = { kind: "file", path: passphraseFile } as const;
      const named = (await loadSection(settingsSection))?.passphrase_source ?? "keyring";
      const isNamed = formatSource(parseSource(named)) === formatSource(source);
      return { source: next, ...(isNamed && { settings: settingsSection.path }) };
    }
    default:
      throw new StoreError(
        "refused",
        `cannot change a passphrase that is read from ${source.kind === "command" ? "a command" : "a systemd credential"}`,
        {
          hint: "Move it to the keyring, then rotate with --passphrase-source keyring: hivemind-sqlcipher bundle import BUNDLE --identity FILE --passphrase-source keyring",
        },
      );
  }
}
