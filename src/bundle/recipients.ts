/** Who can open the bundles: the recipients of the settings, or those of a recovery key that is made for it. */

import { loadSettings, saveSettings } from "../config/settings.js";
import { emitStep } from "../operation/step.js";
import { generateRecoveryKey, parseRecipient } from "./recovery-key.js";

export interface RecipientOptions {
  readonly settingsPath: string;
  /** Recipients that the user named; with any, no recovery key is made. */
  readonly recipients: readonly string[];
  /** Hands a new recovery key to its owner, once; nothing goes on before it is safe there. */
  readonly keepRecoveryKey: (identity: string, recipient: string) => Promise<void>;
}

/**
 * The recipients that bundles are made for from now on, written to the settings. A recovery key is made if there are
 * none yet, and only its recipient is kept.
 *
 * @throws StoreError `usage` for a recipient that does not parse, and what `keepRecoveryKey` throws.
 */
export async function ensureRecipients(options: RecipientOptions): Promise<string[]> {
  const named = options.recipients.map((recipient) => parseRecipient(recipient));
  const settings = (await loadSettings(options.settingsPath)) ?? {};
  const known = settings.recipients ?? [];
  const recipients = [...new Set([...known, ...named])];
  if (recipients.length === 0) {
    const { identity, recipient } = await generateRecoveryKey();
    await options.keepRecoveryKey(identity, recipient);
    recipients.push(recipient);
  }
  if (recipients.length > known.length) {
    await saveSettings(options.settingsPath, { ...settings, recipients });
    emitStep("recipients.kept");
  }
  return recipients;
}
