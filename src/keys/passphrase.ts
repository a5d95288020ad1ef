/**
 * Passphrases: making one that can be typed from paper, and telling a mistyped one from a wrong one.
 *
 * A generated passphrase is 256 random bits in Crockford's base32 (no I, L, O or U), 52 symbols in 13 groups of four,
 * each followed by a check symbol: `7QK3M-…`, 77 characters with the dashes. SQLCipher gets that text as it is, in
 * capitals with dashes; it is no encoding of a key.
 *
 * The check of group g over the symbols s1…s4, in the field of 32 elements with a generator α of its multiplicative
 * group, is α·s1 + α²·s2 + α³·s3 + α⁴·s4 + α^g. All factors differ and none is 0 or 1, so every single wrong symbol
 * and every exchange of two symbols of a group, the check included, shows in that group. α^g differs for each of the
 * 13 groups, so two groups exchanged, or a group left out, show as well.
 */
import { randomBytes } from "node:crypto";
import { base32crockford } from "@scure/base";
import { StoreError } from "../errors.js";

const alphabet = "0123456789ABCDEFGHJKMNPQRSTVWXYZ";
const groups = 13;
/** Four symbols and their check. */
const groupLength = 5;

/** x⁵ + x² + 1, whose root generates all 31 non-zero elements. */
const fieldPolynomial = 0b100101;
const powers = powersOfAlpha();

export type CheckedPassphrase =
  /** One that this project made, or that looks exactly so; `passphrase` is its canonical form. */
  | { readonly kind: "generated"; readonly passphrase: string }
  /** Close to a generated one; `group`, counted from 1, is the first that is wrong or missing. */
  | { readonly kind: "mistyped"; readonly passphrase: string; readonly group: number }
  /** Somebody's own. */
  | { readonly kind: "other"; readonly passphrase: string };

export function generatePassphrase(): string {
  const symbols = base32crockford.encode(randomBytes(32)).slice(0, groups * 4);
  const text: string[] = [];
  for (let group = 0; group < groups; group++) {
    const four = symbols.slice(group * 4, group * 4 + 4);
    text.push(four + checkSymbol(four, group));
  }
  return text.join("-");
}

/**
 * Looks at a passphrase that somebody typed, or that a file holds. Case, dashes, spaces and the symbols that look
 * alike (O for 0, I and L for 1) do not matter in a generated one; any other passphrase is left exactly as it is.
 *
 * @throws StoreError `refused` for what SQLCipher would not take as a passphrase: nothing, a text with a NUL (it would
 *   be cut there), and `x'…'` with the digits of a raw key.
 */
export function checkPassphrase(text: string): CheckedPassphrase {
  assertUsable(text);
  const typed = splitGroups(text);
  if (typed === undefined) return { kind: "other", passphrase: text };
  const wrong = typed.findIndex((group, index) => !holds(group, index));
  if (wrong === -1 && typed.length === groups) {
    return { kind: "generated", passphrase: typed.join("-") };
  }
  // A group that was left out, or typed twice, moves the ones after it by one place.
  const right = typed.filter((group, index) =>
    [index, index + 1, index - 1].some((place) => holds(group, place)),
  );
  if (right.length < groups / 2) return { kind: "other", passphrase: text };
  const group = wrong === -1 ? Math.min(typed.length, groups) : wrong;
  return { kind: "mistyped", passphrase: text, group: group + 1 };
}

function assertUsable(text: string): void {
  if (text === "") throw new StoreError("refused", "the passphrase is empty");
  if (text.includes("\0")) {
    throw new StoreError(
      "refused",
      "the passphrase holds a NUL character, where SQLCipher cuts it off",
    );
  }
  if (/^x'(?:[0-9a-f]{64}|[0-9a-f]{96})'$/i.test(text)) {
    throw new StoreError(
      "refused",
      "the passphrase has the form of a raw key, and SQLCipher would take it as one",
      {
        hint: "use a passphrase that does not begin with x'",
      },
    );
  }
}

/** The groups as they were typed, in canonical symbols; nothing if this cannot be meant as a generated passphrase. */
function splitGroups(text: string): string[] | undefined {
  const upper = text.trim().toUpperCase().replaceAll("O", "0").replace(/[IL]/g, "1");
  const parts = upper.split(/[-\s]+/);
  const typed = parts.length > 1 ? parts : (upper.match(/.{1,5}/g) ?? []);
  return Math.abs(typed.length - groups) <= 1 ? typed : undefined;
}

function holds(group: string, place: number): boolean {
  return (
    group.length === groupLength &&
    place >= 0 &&
    place < groups &&
    checkSymbol(group.slice(0, 4), place) === group[4]
  );
}

/** The check symbol for four symbols at a place; nothing if one of them is none. */
function checkSymbol(four: string, place: number): string | undefined {
  let sum = powers[place] ?? 0;
  for (const [index, symbol] of [...four].entries()) {
    const value = alphabet.indexOf(symbol);
    if (value === -1) return undefined;
    sum ^= multiply(value, powers[index + 1] ?? 0);
  }
  return alphabet[sum];
}

function multiply(a: number, b: number): number {
  let product = 0;
  for (let shift = 0; shift < 5; shift++) {
    if ((b >> shift) & 1) product ^= a << shift;
  }
  for (let bit = 9; bit >= 5; bit--) {
    if ((product >> bit) & 1) product ^= fieldPolynomial << (bit - 5);
  }
  return product;
}

function powersOfAlpha(): number[] {
  const found = [1];
  for (let exponent = 1; exponent < 31; exponent++) {
    found.push(multiply(found[exponent - 1] ?? 0, 2));
  }
  return found;
}
