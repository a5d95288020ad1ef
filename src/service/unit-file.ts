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

/** Matches an argument of a command, with quoted and plain parts. */
const argPattern = /(?:"(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*'|[^\s"'\\]|\\.)+/g;

/** Matches a quoted text, an escape or a specifier. */
const partPattern = /"((?:[^"\\]|\\.)*)"|'((?:[^'\\]|\\.)*)'|\\(.)|%(.)/g;

/**
 * Parses a command in the file of a unit: the inverse of {@link quoteExpandedCommand}. Leaves out
 * prefixes of the program, such as `-`.
 *
 * @param specifiers - the values of specifiers, such as `h`
 * @returns undefined if it has an escape, a specifier or a prefix that is unknown here
 */
export function parseCommand(
  line: string,
  specifiers: Readonly<Record<string, string>>,
): string[] | undefined {
  const [prefixes = ""] = /^[-@:+!|]*/.exec(line) ?? [];
  const values: Readonly<Record<string, string>> = { ...specifiers, "%": "%" };
  let isKnown = !prefixes.includes("@");
  const parse = (text: string): string =>
    text.replace(partPattern, (_, double?: string, single?: string, escaped = "", name = "") => {
      if (double !== undefined) return parse(double.replaceAll("'", "\\'"));
      if (single !== undefined) return parse(single.replaceAll('"', '\\"'));
      const value = name === "" ? escaped : Object.hasOwn(values, name) ? values[name] : undefined;
      if (value === undefined || /\w/.test(escaped)) isKnown = false;
      return value ?? "";
    });
  const args = (line.slice(prefixes.length).match(argPattern) ?? []).map(parse);
  if (!isKnown) return undefined;
  return prefixes.includes(":") ? args.map(escapeVariables) : args;
}
