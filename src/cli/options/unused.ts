/** Refuses options that would have no effect. */
import { StoreError } from "../../errors.js";

/**
 * Throws if one of these options was given on the command line. Values of the settings and of the
 * environment are not in `options`. Accepts an option with the value "none", as of `--service`,
 * which requests no effect.
 *
 * @param keys - the names of the options in commander, such as `stopCommand`
 * @param problem - the rest of the message after the option, such as "applies only to --adopt"
 * @throws {@link StoreError} usage - for the first such option
 */
export function assertUnused<Key extends string>(
  options: { readonly [key in Key]?: unknown },
  keys: readonly Key[],
  problem: string,
  hint: string,
): void {
  const given = keys.find((key) => options[key] !== undefined && options[key] !== "none");
  if (given === undefined) return;
  const flag = given.replaceAll(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`);
  throw new StoreError("usage", `--${flag} ${problem}`, { hint });
}
