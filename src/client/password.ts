/**
 * The strength of a client's password. HiveMind 5 checks it when a client is added and when it
 * connects.
 */
import { StoreError } from "../errors.js";

/** HiveMind 5's default for `min_password_bits`. */
const minBits = 40;

/** zxcvbn's maximum for a character: ten guesses. */
const bitsPerCharacter = Math.log2(10);

/**
 * Returns the most bits, accurate to a bit, that zxcvbn can estimate for a password. HiveMind 5
 * estimates passwords with zxcvbn.
 *
 * A repeated block counts as the block and the number of repetitions. Words and keyboard patterns
 * are not recognised, so the estimate of zxcvbn can be lower.
 */
export function maxPasswordBits(password: string): number {
  const characters = [...password];
  for (let length = 1; length <= characters.length / 2; length++) {
    if (characters.length % length !== 0) continue;
    if (characters.every((character, index) => character === characters[index % length])) {
      const repetitions = characters.length / length;
      return length * bitsPerCharacter + Math.log2(repetitions);
    }
  }
  return characters.length * bitsPerCharacter;
}

/**
 * Refuses a password with which HiveMind 5 would let no client connect. HiveMind 5 may refuse an
 * accepted password, too, because `maxPasswordBits` is an upper bound.
 *
 * @throws {@link StoreError} usage - if the password has less than 40 bits
 */
export function assertStrongPassword(password: string): void {
  const bits = maxPasswordBits(password);
  if (bits >= minBits) return;
  throw new StoreError(
    "usage",
    `the password is too weak: at most ${Math.floor(bits)} bits, and HiveMind 5 requires ${minBits}`,
    {
      hint: "Leave out --password for a random password, choose 13 or more characters that do not repeat, or add --allow-weak-password.",
    },
  );
}
