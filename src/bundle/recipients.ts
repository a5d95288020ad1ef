/** The recipients of the bundles: those in the settings, or that of a new recovery key. */

import { loadSection, type SettingsSection, saveSection } from "../config/settings.js";
import { emitStep } from "../operation/step.js";
import { generateRecoveryKey, parseRecipient } from "./recovery-key.js";

export interface RecipientOptions {
  readonly settings: SettingsSection;
  /** Named by the user; with any, no recovery key is generated. */
  readonly recipients: readonly string[];
  /** Hands a new recovery key to the user, and resolves when it is in safe keeping. */
  readonly keepRecoveryKey: (identity: string, recipient: string) => Promise<void>;
}

/**
 * Returns the recipients of all bundles from now on, and writes them to the settings. Generates a
 * recovery key if there are none yet, and stores only its recipient.
 *
 * @throws {@link StoreError} `usage` - for a malformed recipient
 * @throws what `keepRecoveryKey` throws
 */
export async function ensureRecipients(options: RecipientOptions): Promise<string[]> {
  const named = options.recipients.map((recipient) => parseRecipient(recipient));
  const settings = (await loadSection(options.settings)) ?? {};
  const known = settings.recipients ?? [];
  const recipients = [...new Set([...known, ...named])];
  if (recipients.length === 0) {
    const { identity, recipient } = await generateRecoveryKey();
    await options.keepRecoveryKey(identity, recipient);
    recipients.push(recipient);
  }
  if (recipients.length > known.length) {
    await saveSection(options.settings, { ...settings, recipients });
    emitStep("recipients.kept");
  }
  return recipients;
}
