/** Options that would have no effect together with another option. */
import { StoreError } from "../../errors.js";

/**
 * Throws if one of these options was given on the command line. Values of the settings and of the
 * environment are not in `options`. Accepts the value "none", which requests no effect.
 *
 * @param keys - the options, as commander names them: `stopCommand`
 * @param problem - follows the option in the message: "applies only to --adopt"
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
