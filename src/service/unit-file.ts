/** The syntax of systemd's unit files: quoting of words and of settings. */
import { StoreError } from "../errors.js";

/** The name of the unit that unlocks the keyring; the hub's unit starts after it, if it is there. */
export const keyringUnit = "hivemind-sqlcipher-keyring.service";

/** The words of a command, for ExecStart= and its like. systemd expands `$` in them, but not in other settings. */
export function execLine(...words: string[]): string {
  return words.map((word) => quoteWord(word).replaceAll("$", "$$$$")).join(" ");
}

/** One word, whatever is in it, in quotes where it needs them. */
export function quoteWord(word: string): string {
  const escaped = onOneLine(word).replace(/[\\"]/g, "\\$&");
  return /^[\w@%+=,./-]+$/.test(escaped) ? escaped : `"${escaped}"`;
}

/** A setting's whole value. @throws StoreError `usage` for a line break, or a backslash at its end, which continues it. */
export function settingValue(text: string): string {
  if (text.endsWith("\\")) {
    throw new StoreError("usage", "a setting of a unit cannot end with a backslash");
  }
  return onOneLine(text);
}

/** `%` is what systemd replaces in all settings. */
function onOneLine(text: string): string {
  if (/[\0\n\r]/.test(text)) throw new StoreError("usage", "a unit cannot hold a line break");
  return text.replaceAll("%", "%%");
}
