/** Quoting in systemd's unit files. */
import { StoreError } from "../errors.js";

/** The unit that unlocks the keyring. The hub's unit starts after it if it exists. */
export const keyringUnit = "hivemind-sqlcipher-keyring.service";

/** Quotes a command for `ExecStart=` and similar settings, so that systemd expands no variable. */
export function quoteCommand(...args: string[]): string {
  return quoteExpandedCommand(...args.map(escapeVariables));
}

/** Quotes a command in which systemd expands `$NAME` and `${NAME}`. */
export function quoteExpandedCommand(...args: string[]): string {
  return args.map(quoteArg).join(" ");
}

/** Doubles `$`, which begins a variable in a command of a unit. */
export function escapeVariables(arg: string): string {
  return arg.replaceAll("$", "$$$$");
}

/** Quotes an argument, where needed, for a setting with several arguments. */
export function quoteArg(arg: string): string {
  const escaped = escapePercent(arg).replace(/[\\"]/g, "\\$&");
  return /^[\w@%+=,./-]+$/.test(escaped) ? escaped : `"${escaped}"`;
}

/**
 * Escapes the whole value of a setting.
 *
 * @throws {@link StoreError} usage - for a line break, or for a final backslash, which would
 *   continue the line
 */
export function escapeSetting(text: string): string {
  if (text.endsWith("\\")) {
    throw new StoreError("usage", "a setting of a unit cannot end with a backslash");
  }
  return escapePercent(text);
}

/** Doubles `%`, which begins a specifier in every setting. */
function escapePercent(text: string): string {
  if (/[\0\n\r]/.test(text)) {
    throw new StoreError("usage", "a setting of a unit cannot contain a line break");
  }
  return text.replaceAll("%", "%%");
}
