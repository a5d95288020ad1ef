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
import { adoptPending, planRotation } from "../keys/rotation-plan.js";
import {
  describeSource,
  formatSource,
  type PassphraseSource,
  parseSource,
} from "../keys/source.js";
import { unlock } from "../keys/unlock.js";
import { resolveService, type ServiceReport } from "../operation/service.js";
import { keyIdOf } from "../store/cipher.js";
import type { BundleOptions, OperationOptions } from "./options.js";
import { planBundle, readOrGeneratePassphrase, stageEncrypted } from "./prepare.js";
import { Reencryption } from "./reencryption.js";
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
    readonly hub: "run" | "server.json" | "none";
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
  const { lock, source, reporter, signal, keepPrevious = false } = options;
  const { storePath } = lock;
  if (keepPrevious && source.kind !== "keyring") {
    throw new StoreError(
      "refused",
      `only the keyring keeps a previous passphrase, and this store's is in ${describeSource(source)}`,
      {
        hint: "Leave out --keep-previous: the bundle of the previous passphrase opens older backups.",
      },
    );
  }
  const bundle = await planBundle(options, reporter);
  if (options.reencrypt !== undefined) {
    await assertWritable(options.reencrypt);
    await assertNotMissing([options.reencrypt], storePath);
  }
  const next = await resolveNextSource(options);
  const opened = await unlock(storePath, source, { mode: "readwrite" });
  const usesWal = await isWal(opened.connection).finally(() => opened.connection.close());
  const { key: oldKey, passphrase: oldPassphrase } = opened;
  await adoptPending(storePath, opened.generation, reporter);
  const passphrase = await readOrGeneratePassphrase(options.passphraseFile);
  if (passphrase === oldPassphrase) {
    throw new StoreError("refused", "the new passphrase equals the old one", {
      hint: "Choose another passphrase.",
    });
  }
  const service = await resolveService(options.service, reporter);
  const delivery = await resolvePasswordDelivery(service, options.hub);
  if (source.kind === "sealed") assertNotInServerJson(delivery);
  assertReadsSource(service, delivery, { from: source, to: next.source });
  await assertHubOpens(service, delivery, oldKey.cipherCompatibility, reporter);
  const keyring = await planRotation(storePath, source, passphrase, opened, keepPrevious);
  await using reencryption = new Reencryption({
    storePath,
    isWal: usesWal,
    oldKey,
    passphrase,
    compareRows: options.compareRows ?? false,
    reporter,
    signal,
  });
  const replaceFile = () =>
    swap({
      operation: "rotate",
      lock,
      replaced: { state: "open", secret: oldKey },
      passphrase,
      sources: { from: source, to: next.source },
      keyring,
      settings: next.settings,
      serverJson: findPasswordFile(delivery, reporter),
      bundle,
      replacedBundle: { passphrase: oldPassphrase, key: oldKey },
      service,
      recoveryCommand: options.recoveryCommand,
      reporter,
      signal,
      stage: (staged) => stageEncrypted(staged, passphrase, oldKey.cipherCompatibility),
      prefill: (staged, key) => reencryption.begin(staged, key),
      lockStore: () => reencryption.lock(),
      fill: (_staged, key, locked) => reencryption.complete(key, locked),
    });
  const outcome = await withSealed(
    source,
    {
      storePath,
      settingsPath: options.settingsSection.path,
      next: passphrase,
      former: oldPassphrase,
    },
    replaceFile,
  );
  const newKey = outcome.key;
  const backups = await reencryptOldBackups(options, {
    key: newKey,
    passphrases: [oldPassphrase],
    source: next.source,
  });
  return {
    rotated: {
      path: storePath,
      keyId: keyIdOf(newKey.salt),
      previousKeyId: opened.keyId,
      passphraseSource: formatSource(next.source),
      previousKept: keyring?.keep_previous ?? false,
      hub: delivery.how,
    },
    bundle: outcome.bundle ? bundleReport(outcome.bundle) : null,
    service: outcome.service,
    backups,
  };
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

/**
 * Returns the passphrase source after the rotation. If the source changes and the settings name it,
 * also returns the settings file to change.
 *
 * @throws {@link StoreError} refused - if the source cannot be written
 */
async function resolveNextSource(
  options: RotateOptions,
): Promise<{ source: PassphraseSource; settings?: string }> {
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
