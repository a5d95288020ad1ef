/**
 * `rotate`: a new passphrase, and a new file under it, in the place of the old one.
 *
 *   rotate(options: RotateOptions): Promise<RotateResult>
 *
 * The passphrase comes first into the keyring, as `#pending`, then into a bundle that is proven against the staged file;
 * only then is the service stopped (swap.ts). A source that cannot be written to cannot be rotated here: a command, or a
 * systemd credential. A `file:` source changes to the file that has the new passphrase, and the settings with it; no
 * passphrase is written to a disk by this program.
 */
import { constants } from "node:fs";
import { access } from "node:fs/promises";
import {
  type ReencryptedBackups,
  type ReencryptOptions,
  reencryptBackups,
} from "../backup/reencrypt.js";
import { loadSection, type SettingsSection } from "../config/settings.js";
import { StoreError, systemError, withLine } from "../errors.js";
import { passwordToReplace, resolvePasswordDelivery } from "../hub/password-delivery.js";
import { adoptPending, planRotation } from "../keys/rotation-plan.js";
import { formatSource, type PassphraseSource } from "../keys/source.js";
import { unlock } from "../keys/unlock.js";
import { resolveService, type ServiceReport } from "../operation/downtime.js";
import { keyIdOf, type StoreKey } from "../store/cipher.js";
import { assertExportable } from "../store/export.js";
import type { BundleOptions, BundleReport, OperationOptions } from "./options.js";
import {
  bundleReport,
  checkBundleDirectory,
  convert,
  newPassphrase,
  stageEncrypted,
} from "./prepare.js";
import { swap } from "./swap.js";

export interface RotateOptions extends OperationOptions, BundleOptions {
  /** The file with the new passphrase, absolute; without it one is generated. A `file:` source needs it. */
  readonly passphraseFile?: string | undefined;
  /** The settings, where the source is named. */
  readonly settingsSection: SettingsSection;
  /** Whether the keyring goes on keeping the old passphrase, for backups under it. */
  readonly keepPrevious?: boolean | undefined;
  /** A folder of backups to be brought under the new passphrase too. */
  readonly reencrypt?: string | undefined;
}

export interface RotateResult {
  readonly rotated: {
    readonly path: string;
    readonly key_id: string;
    readonly previous_key_id: string;
    readonly passphrase_source: string;
    /** Whether the keyring still has the old passphrase. */
    readonly previous_kept: boolean;
    /** How the hub gets the new one. */
    readonly hub: "run" | "server.json" | "none";
  };
  readonly bundle: BundleReport | null;
  readonly service: ServiceReport;
  readonly backups: ReencryptedBackups | null;
}

/**
 * Changes the passphrase of the store.
 *
 * @throws StoreError `refused` if the hub would not get the new passphrase, or the source cannot take one; what
 *   `unlock`, `knowService`, `checkBundleFolder` and `swap` throw.
 */
export async function rotate(options: RotateOptions): Promise<RotateResult> {
  const { lock, source, reporter, signal, keepPrevious = false } = options;
  const { storePath } = lock;
  const bundle = await checkBundleDirectory(options, reporter);
  if (options.reencrypt !== undefined) await assertWritable(options.reencrypt);
  const next = await nextSource(options);
  const opened = await unlock(storePath, source, { mode: "readwrite" });
  try {
    await assertExportable(opened.connection);
  } finally {
    await opened.connection.close();
  }
  const { key: oldKey, passphrase: old } = opened;
  await adoptPending(storePath, opened.generation, reporter);
  const passphrase = await newPassphrase(options.passphraseFile);
  if (passphrase === old) {
    throw new StoreError("refused", "the new passphrase is the old one", {
      hint: "choose another",
    });
  }
  const service = await resolveService(options.service, reporter);
  const delivery = await resolvePasswordDelivery(service, options.hub);
  const keyring = await planRotation(storePath, source, passphrase, opened, keepPrevious);
  const outcome = await swap({
    ...options,
    operation: "rotate",
    service,
    bundle,
    replacedBundle: { passphrase: old, key: oldKey },
    passphrase,
    keyring,
    replaced: { state: "open", secret: oldKey },
    sources: { from: source, to: next.source },
    settings: next.settings,
    serverJson: passwordToReplace(delivery, reporter),
    stage: (staged) => stageEncrypted(staged, passphrase, oldKey.cipherCompatibility),
    fill: (staged, key, held) => convert(held, staged, key, signal),
  });
  const newKey = outcome.key as StoreKey;
  const backups =
    options.reencrypt === undefined
      ? null
      : await reencrypted({
          lock,
          folder: options.reencrypt,
          bundleFolder: options.bundleTo,
          key: newKey,
          passphrases: [old],
          source: next.source,
          reporter,
          signal,
        });
  return {
    rotated: {
      path: storePath,
      key_id: keyIdOf(newKey.salt),
      previous_key_id: opened.keyId,
      passphrase_source: formatSource(next.source),
      previous_kept: keyring?.keep_previous ?? false,
      hub: delivery.how,
    },
    bundle: bundleReport(outcome),
    service: outcome.service,
    backups,
  };
}

async function assertWritable(folder: string): Promise<void> {
  try {
    await access(folder, constants.R_OK | constants.W_OK | constants.X_OK);
  } catch (error) {
    throw systemError(error, `cannot use the backups' folder ${folder}`);
  }
}

/** @throws StoreError saying that the rotation itself is done. */
async function reencrypted(options: ReencryptOptions): Promise<ReencryptedBackups> {
  try {
    return await reencryptBackups(options);
  } catch (error) {
    const { kind, message, hint } = systemError(error, "unexpected", "failed");
    throw new StoreError(
      kind,
      `the store is rotated, but its backups in ${options.folder} could not all be brought under the new passphrase: ${message}`,
      {
        hint: withLine(hint, "the others are as they were; their own bundles open them"),
        cause: error,
      },
    );
  }
}

/** Where the passphrase comes from afterwards, and what has to change in the settings for that. */
async function nextSource(
  options: RotateOptions,
): Promise<{ source: PassphraseSource; settings?: string }> {
  const { source, passphraseFile, settingsSection, reporter } = options;
  switch (source.kind) {
    case "keyring":
      return { source };
    case "file": {
      if (passphraseFile === undefined || passphraseFile === source.path) {
        throw new StoreError(
          "refused",
          `the passphrase comes from ${source.path}, which this program does not write to`,
          {
            hint: "put the new one into another file, 0600, and name that: --passphrase-file FILE",
          },
        );
      }
      const next = { kind: "file", path: passphraseFile } as const;
      const from = formatSource(source);
      const to = formatSource(next);
      const named = (await loadSection(settingsSection))?.passphrase_source;
      if (named === from) return { source: next, settings: settingsSection.path };
      reporter.notice(`from now on the passphrase comes from --passphrase-source ${to}`);
      return { source: next };
    }
    default:
      throw new StoreError(
        "refused",
        `a passphrase that comes from ${source.kind === "command" ? "a command" : "a systemd credential"} cannot be changed from here`,
        {
          hint: "keep it in the keyring (bundle import, --passphrase-source keyring), or in a file, and rotate then",
        },
      );
  }
}
