/**
 * Passphrases: generates a form to type from paper, and locates typing mistakes in it.
 *
 * A generated passphrase is 256 random bits in Crockford's base32 (no I, L, O or U): 52 symbols in
 * 13 groups of four, each group followed by a check symbol (`7QK3M-…`, 77 characters with dashes).
 * SQLCipher receives this text as a passphrase, in capitals with dashes; it is not an encoded key.
 *
 * Let α be a generator of the multiplicative group of the field of 32 elements. The check symbol of
 * group g over the symbols s1…s4 is α·s1 + α²·s2 + α³·s3 + α⁴·s4 + α^g. The factors are distinct
 * and neither 0 nor 1. Each wrong symbol and each exchange of two symbols in a group, the check
 * symbol included, is therefore detected. α^g differs for the 13 groups, so exchanged or missing
 * groups are detected as well.
 */
import { randomBytes } from "node:crypto";
import { base32crockford } from "@scure/base";
import { StoreError } from "../errors.js";

const alphabet = "0123456789ABCDEFGHJKMNPQRSTVWXYZ";
const groups = 13;
/** Four symbols and their check symbol. */
const groupLength = 5;

/** α is a root of x⁵ + x² + 1, so its powers are all 31 non-zero elements. */
const fieldPolynomial = 0b100101;
const powers = [1];
for (let power = 2; power !== 1; ) {
  powers.push(power);
  power = power < 16 ? power * 2 : (power * 2) ^ fieldPolynomial;
}

export type CheckedPassphrase =
  /** All check symbols match; `passphrase` is in canonical form. */
  | { readonly kind: "generated"; readonly passphrase: string }
  /**
   * At least half of the groups match; `group`, counted from 1, is the first wrong or missing
   * group.
   */
  | { readonly kind: "mistyped"; readonly passphrase: string; readonly group: number }
  /** Chosen by a user. */
  | { readonly kind: "other"; readonly passphrase: string };

export function generatePassphrase(): string {
  const symbols = base32crockford.encode(randomBytes(32)).slice(0, groups * 4);
  const text: string[] = [];
  for (let group = 0; group < groups; group++) {
    const four = symbols.slice(group * 4, group * 4 + 4);
    text.push(four + computeCheckSymbol(four, group));
  }
  return text.join("-");
}

/**
 * Classifies a passphrase and returns it in canonical form.
 *
 * In a generated passphrase, case, dashes, spaces and lookalikes (O for 0, I and L for 1) do not
 * matter. Any other passphrase is returned unchanged.
 *
 * @throws {@link StoreError} refused - for an unusable text: empty, with a NUL character (at which
 *   SQLCipher would truncate it), or in the form of a raw key (`x'…'`)
 */
export function checkPassphrase(text: string): CheckedPassphrase {
  assertUsable(text);
  const typed = splitGroups(text);
  if (typed === undefined) return { kind: "other", passphrase: text };
  const wrong = typed.findIndex((group, index) => !isValidGroup(group, index));
  if (wrong === -1 && typed.length === groups) {
    return { kind: "generated", passphrase: typed.join("-") };
  }
  // A missing or repeated group shifts the groups after it by one position.
  const valid = typed.filter((group, index) =>
    [index, index + 1, index - 1].some((position) => isValidGroup(group, position)),
  );
  if (valid.length < groups / 2) return { kind: "other", passphrase: text };
  const group = wrong === -1 ? Math.min(typed.length, groups) : wrong;
  return { kind: "mistyped", passphrase: text, group: group + 1 };
}

function assertUsable(text: string): void {
  if (text === "") throw new StoreError("refused", "the passphrase is empty");
  if (text.includes("\0")) {
    throw new StoreError(
      "refused",
      "the passphrase contains a NUL character, at which SQLCipher would truncate it",
    );
  }
  if (/^x'(?:[0-9a-f]{64}|[0-9a-f]{96})'$/i.test(text)) {
    throw new StoreError(
      "refused",
      "the passphrase has the form of a raw key (x'…'), and SQLCipher would use it as a raw key",
      { hint: "Use a passphrase that does not begin with x'." },
    );
  }
}

/**
 * Returns the typed groups in canonical symbols, or undefined if their number rules out a generated
 * passphrase.
 */
function splitGroups(text: string): string[] | undefined {
  const upper = text.trim().toUpperCase().replaceAll("O", "0").replace(/[IL]/g, "1");
  const parts = upper.split(/[-\s]+/);
  const typed = parts.length > 1 ? parts : (upper.match(/.{1,5}/g) ?? []);
  return Math.abs(typed.length - groups) <= 1 ? typed : undefined;
}

function isValidGroup(group: string, position: number): boolean {
  return (
    group.length === groupLength &&
    position >= 0 &&
    position < groups &&
    computeCheckSymbol(group.slice(0, 4), position) === group[4]
  );
}

/** Returns the check symbol of a group, or undefined if a character is not in the alphabet. */
function computeCheckSymbol(four: string, position: number): string | undefined {
  let sum = powerOfAlpha(position);
  for (const [index, symbol] of [...four].entries()) {
    const value = alphabet.indexOf(symbol);
    if (value === -1) return undefined;
    if (value !== 0) sum ^= powerOfAlpha(powers.indexOf(value) + index + 1);
  }
  return alphabet[sum];
}

function powerOfAlpha(exponent: number): number {
  return powers[exponent % powers.length] ?? 0;
}
