/**
 * The recipients of the bundles, from the settings and the command line. Without a recipient, a
 * recovery key is generated.
 *
 * The user must not receive a key to which no bundle is encrypted. So an operation generates the
 * key after the steps that often fail, and a later failure revokes it.
 */
import { join } from "node:path";
import {
  hasSection,
  loadSection,
  type Settings,
  type SettingsSection,
  selectSection,
  withoutSection,
  withSection,
} from "../config/settings-file.js";
import { StoreError } from "../errors.js";
import { listDirectory } from "../fs/read.js";
import { changeSettings, updateSection } from "../operation/settings.js";
import { emitStep } from "../operation/step.js";
import { generateRecoveryKey, parseRecipient } from "./recovery-key.js";
import { readVerificationRecord } from "./verification-record.js";

export interface RecipientOptions {
  readonly settings: SettingsSection;
  /** Recipients on the command line. */
  readonly recipients: readonly string[];
  readonly recoveryKey: RecoveryKeyDelivery;
}

export interface RecoveryKeyDelivery {
  /** Whether the user requested a new key, even if there are recipients. */
  readonly isRequested: boolean;
  /** @throws {@link StoreError} usage or refused - if a key cannot be delivered */
  assertPossible(): Promise<void>;
  /** Delivers the key. Resolves when the key is stored safely. */
  deliver(identity: string, recipient: string): Promise<void>;
  /** Reports the key's location, after the operation that needed it. */
  report(): void;
  /** Removes the key's file or asks the user to discard the key. No bundle is encrypted to it. */
  revoke(): Promise<void>;
}

/** The recipients of an operation's bundle, before a key is generated. */
export interface RecipientPlan {
  /** A notice for the user, if only recipients in the settings are used. */
  readonly notice: string | undefined;
  /**
   * Generates a recovery key if one is needed, saves the recipients, and runs `work`. If `work`
   * fails and no bundle in the directory is encrypted to the new key, restores the settings and
   * revokes the key.
   *
   * @param bundleDirectory - the directory in which `work` may write a bundle
   */
  use<Result>(
    bundleDirectory: string | undefined,
    work: (recipients: readonly string[]) => Promise<Result>,
  ): Promise<Result>;
}

/**
 * Plans the recipients of an operation's bundle.
 *
 * @throws {@link StoreError} usage - for a malformed recipient, or if a new key is needed and
 *   cannot be delivered
 */
export async function planRecipients(options: RecipientOptions): Promise<RecipientPlan> {
  const named = options.recipients.map((recipient) => parseRecipient(recipient));
  const settings = await loadSection(options.settings);
  const isNewSection =
    options.settings.store !== undefined && !(await hasSection(options.settings));
  const known = settings?.recipients ?? [];
  const recipients = [...new Set([...known, ...named])];
  const needsKey = recipients.length === 0 || options.recoveryKey.isRequested;
  if (needsKey) await options.recoveryKey.assertPossible();
  const notice = `no recovery key was generated: bundles are encrypted to the recipients in ${options.settings.path}, ${known.join(" and ")}; --recovery-key-file PATH adds a new key`;
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
        const restore = () => succeeds(restoreRecipients(options.settings, settings, isNewSection));
        // The key is revoked only if the settings no longer name it: otherwise the next bundle
        // would be encrypted to a key that the user has discarded.
        if (key === undefined) await restore();
        else if ((await mayBeUsed(bundleDirectory, key.recipient)) || !(await restore())) {
          options.recoveryKey.report();
        } else await succeeds(options.recoveryKey.revoke());
        throw error;
      }
    },
  };
}

async function saveRecipients(
  section: SettingsSection,
  recipients: readonly string[],
): Promise<void> {
  const change = (settings: Settings) => ({ ...settings, recipients: [...recipients] });
  const { isChanged } = await updateSection(section, change);
  if (isChanged) emitStep("recipients.kept");
}

/** Restores only the recipients, because the operation may have saved other settings. */
async function restoreRecipients(
  { path, store }: SettingsSection,
  before: Settings | undefined,
  isNewSection: boolean,
): Promise<void> {
  await changeSettings(path, (file) => {
    const { recipients, ...others } = selectSection(file ?? {}, store);
    // The file still has the former recipients if saving the new recipients was what failed.
    if (JSON.stringify(recipients) === JSON.stringify(before?.recipients)) return file;
    const former = { ...others, ...(before?.recipients && { recipients: before.recipients }) };
    const isUnused = isNewSection && Object.keys(former).length === 0;
    const restored = isUnused
      ? withoutSection(file ?? {}, store)
      : withSection(file ?? {}, store, former);
    return before === undefined && Object.keys(restored).length === 0 ? undefined : restored;
  });
}

/** Returns whether `work` succeeds. Its error must not replace the error of the operation. */
async function succeeds(work: Promise<void>): Promise<boolean> {
  try {
    await work;
    return true;
  } catch (error) {
    if (!(error instanceof StoreError)) throw error;
    return false;
  }
}

/** Returns whether a bundle in the directory is encrypted to a recipient, or may be. */
async function mayBeUsed(directory: string | undefined, recipient: string): Promise<boolean> {
  if (directory === undefined) return false;
  try {
    for (const name of (await listDirectory(directory)) ?? []) {
      if (!name.endsWith(".age")) continue;
      const record = await readVerificationRecord(join(directory, name));
      if (record?.recipients.includes(recipient)) return true;
    }
    return false;
  } catch {
    return true;
  }
}
