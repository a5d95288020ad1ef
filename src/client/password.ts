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
 * Returns zxcvbn's maximum for a password in bits, accurate to a bit. HiveMind 5 uses zxcvbn.
 *
 * A repeated block counts once, with its number of repetitions. Words and keyboard patterns are not
 * recognised, so the real estimate can be lower.
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
 * Refuses a password that HiveMind 5 refuses for every client: the client could not connect.
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
