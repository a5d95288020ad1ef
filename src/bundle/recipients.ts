/**
 * The recipients of the bundles: those in the settings and on the command line, and that of a
 * recovery key which is generated if there are none.
 *
 * A key that is handed to the user must not be a key that nothing uses: an operation tries what can
 * fail first, and a failure afterwards takes the key back.
 */
import { readdir } from "node:fs/promises";
import { join } from "node:path";
import {
  loadSection,
  type Settings,
  type SettingsSection,
  saveSection,
} from "../config/settings.js";
import { hasCode } from "../errors.js";
import { removeFile } from "../fs/atomic.js";
import { emitStep } from "../operation/step.js";
import { generateRecoveryKey, parseRecipient } from "./recovery-key.js";
import { readVerificationRecord } from "./verification-record.js";

export interface RecipientOptions {
  readonly settings: SettingsSection;
  /** Named by the user. */
  readonly recipients: readonly string[];
  readonly recoveryKey: RecoveryKeyDelivery;
}

/** Hands a new recovery key to the user. */
export interface RecoveryKeyDelivery {
  /** Whether the user asked for a new key, although there may be recipients. */
  readonly isRequested: boolean;
  /** @throws {@link StoreError} `usage` or `refused` - if a key cannot be handed out */
  assertPossible(): Promise<void>;
  /** Resolves when the key is in safe keeping. */
  deliver(identity: string, recipient: string): Promise<void>;
  /** Reports where the key is, after the operation that needed it. */
  report(): void;
  /** Takes the key back: no bundle is encrypted to it. */
  revoke(): Promise<void>;
}

/** The recipients of an operation's bundle, before a key is generated. */
export interface RecipientPlan {
  /** For the user, if nothing but the recipients in the settings is used. */
  readonly notice: string | undefined;
  /**
   * Generates a recovery key if one is needed, saves the recipients, and runs `work`. If `work`
   * fails and no bundle in the directory is encrypted to the new key, restores the settings and
   * revokes the key.
   *
   * @param bundleDirectory - of the bundle that `work` may write
   */
  use<Result>(
    bundleDirectory: string | undefined,
    work: (recipients: readonly string[]) => Promise<Result>,
  ): Promise<Result>;
}

/**
 * Plans the recipients of an operation's bundle.
 *
 * @throws {@link StoreError} `usage` - for a malformed recipient, and if a new key is needed and
 *   cannot be handed out
 */
export async function planRecipients(options: RecipientOptions): Promise<RecipientPlan> {
  const named = options.recipients.map((recipient) => parseRecipient(recipient));
  const settings = await loadSection(options.settings);
  const known = settings?.recipients ?? [];
  const recipients = [...new Set([...known, ...named])];
  const needsKey = recipients.length === 0 || options.recoveryKey.isRequested;
  if (needsKey) await options.recoveryKey.assertPossible();
  const notice = `no recovery key was generated: bundles open with the key of ${known.join(" and of ")}, from ${options.settings.path}; --recovery-key-file PATH adds a new key`;
  return {
    notice: needsKey || named.length > 0 ? undefined : notice,
    use: async (bundleDirectory, work) => {
      const key = needsKey ? await generateRecoveryKey() : undefined;
      const all = key === undefined ? recipients : [...recipients, key.recipient];
      try {
        if (key !== undefined) await options.recoveryKey.deliver(key.identity, key.recipient);
        await saveRecipients(options.settings, all);
        const result = await work(all);
        if (key !== undefined) options.recoveryKey.report();
        return result;
      } catch (error) {
        if (key !== undefined && (await isUsed(bundleDirectory, key.recipient))) {
          options.recoveryKey.report();
        } else {
          await restoreRecipients(options.settings, settings);
          if (key !== undefined) await options.recoveryKey.revoke();
        }
        throw error;
      }
    },
  };
}

async function saveRecipients(
  section: SettingsSection,
  recipients: readonly string[],
): Promise<void> {
  const settings = await loadSection(section);
  if (settings?.recipients?.join() === recipients.join()) return;
  await saveSection(section, { ...settings, recipients: [...recipients] });
  emitStep("recipients.kept");
}

/** Restores the recipients only: the operation may have saved other settings. */
async function restoreRecipients(
  section: SettingsSection,
  before: Settings | undefined,
): Promise<void> {
  const { recipients: _, ...others } = (await loadSection(section)) ?? {};
  const restored = { ...others, ...(before?.recipients && { recipients: before.recipients }) };
  if (before === undefined && Object.keys(restored).length === 0) await removeFile(section.path);
  else await saveSection(section, restored);
}

/** Returns whether a bundle in the directory is encrypted to a recipient, or may be. */
async function isUsed(directory: string | undefined, recipient: string): Promise<boolean> {
  if (directory === undefined) return false;
  try {
    for (const name of await readdir(directory)) {
      if (!name.endsWith(".age")) continue;
      const record = await readVerificationRecord(join(directory, name));
      if (record?.recipients.includes(recipient)) return true;
    }
    return false;
  } catch (error) {
    return !hasCode(error, "ENOENT", "ENOTDIR");
  }
}
