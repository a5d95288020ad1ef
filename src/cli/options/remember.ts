/** Saves the choices of a finished command in the settings of its store. */
import type { Settings } from "../../config/settings-file.js";
import { formatSource, parseSource } from "../../keys/source.js";
import type { Context } from "../context.js";
import { toStoreError } from "../ui/output.js";

/**
 * Saves the source of a passphrase that this command has stored, or opened the store with. Does not
 * save a credential, which only a unit has.
 */
export async function rememberSource(context: Context, source: string): Promise<void> {
  if (parseSource(source).kind === "credential") return;
  await remember(context, "the passphrase source", (settings) => {
    const saved = formatSource(parseSource(settings.passphrase_source ?? "keyring"));
    return saved === source ? settings : { ...settings, passphrase_source: source };
  });
}

/** Changes the settings. Only reports an error, because the operation has finished. */
export async function remember(
  { settingsPath, settingsSection, output }: Context,
  what: string,
  change: (settings: Settings) => Settings,
): Promise<void> {
  const { updateSection } = await import("../../operation/settings.js");
  try {
    const { isChanged } = await updateSection(settingsSection, change);
    if (isChanged) output.notice(`saved ${what} to ${settingsPath}`);
  } catch (error) {
    output.notice(`${what} were not saved: ${toStoreError(error).message}`);
  }
}
