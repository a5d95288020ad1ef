/** Strength of a client's password, which HiveMind 5 checks when a client is added and connects. */
import { StoreError } from "../errors.js";

/** HiveMind 5's default for `min_password_bits`. */
const minBits = 40;

/** The most that zxcvbn credits a character with: it counts ten guesses for each. */
const bitsPerCharacter = Math.log2(10);

/**
 * Returns, to within a bit, the most that zxcvbn credits a password with; HiveMind 5 uses it.
 *
 * A repeated block counts once, with its number of repetitions. Words and keyboard patterns are not
 * recognized, so the estimate itself can be lower.
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
 * Refuses a password that HiveMind 5 refuses for every client: a satellite could not connect.
 *
 * @throws {@link StoreError} usage - below 40 bits
 */
export function assertStrongPassword(password: string): void {
  const bits = maxPasswordBits(password);
  if (bits >= minBits) return;
  throw new StoreError(
    "usage",
    `the password is too weak: at most ${Math.floor(bits)} bits, and HiveMind 5 requires ${minBits}`,
    {
      hint: "Leave --password out for a random password, choose one of 13 or more characters, or add --allow-weak-password.",
    },
  );
}
