import fc from "fast-check";
import { expect, test } from "vitest";
import { checkPassphrase, generatePassphrase } from "../../src/keys/passphrase.js";

const alphabet = "0123456789ABCDEFGHJKMNPQRSTVWXYZ";

/** A fresh passphrase each run; what fast-check shrinks are the places that are changed. */
const passphrase = fc.constant(null).map(generatePassphrase);
const place = fc.nat({ max: 12 });
const within = fc.nat({ max: 4 });

function groupsOf(text: string): string[] {
  return text.split("-");
}

test("a generated passphrase has 13 groups of four symbols and a check, and is its own canonical form", () => {
  fc.assert(
    fc.property(passphrase, (text) => {
      expect(text).toMatch(/^([0-9A-HJKMNP-TV-Z]{5}-){12}[0-9A-HJKMNP-TV-Z]{5}$/);
      expect(checkPassphrase(text)).toEqual({ kind: "generated", passphrase: text });
    }),
  );
});

test("two generated passphrases have no group in common but by chance", () => {
  const all = Array.from({ length: 200 }, generatePassphrase).flatMap((text) =>
    groupsOf(text).slice(0, 12),
  );
  expect(new Set(all).size).toBeGreaterThan(all.length - 20);
});

test("it can be typed in small letters, with blanks for dashes or nothing at all, and with look-alikes", () => {
  fc.assert(
    fc.property(passphrase, (text) => {
      const expected = { kind: "generated", passphrase: text };
      expect(checkPassphrase(text.toLowerCase())).toEqual(expected);
      expect(checkPassphrase(` ${text.replaceAll("-", "  ")}\n`)).toEqual(expected);
      expect(checkPassphrase(text.replaceAll("-", ""))).toEqual(expected);
      expect(checkPassphrase(text.replaceAll("0", "o").replaceAll("1", "l"))).toEqual(expected);
      expect(checkPassphrase(text.replaceAll("1", "I"))).toEqual(expected);
    }),
  );
});

test("every wrong symbol is found in its group", () => {
  const text = generatePassphrase();
  for (let at = 0; at < text.length; at++) {
    if (text[at] === "-") continue;
    for (const symbol of alphabet) {
      if (symbol === text[at]) continue;
      const mistyped = text.slice(0, at) + symbol + text.slice(at + 1);
      expect(checkPassphrase(mistyped)).toEqual({
        kind: "mistyped",
        passphrase: mistyped,
        group: Math.floor(at / 6) + 1,
      });
    }
  }
});

test("two symbols of a group exchanged are found there", () => {
  fc.assert(
    fc.property(passphrase, place, within, within, (text, group, a, b) => {
      const groups = groupsOf(text);
      const symbols = [...(groups[group] ?? "")];
      [symbols[a], symbols[b]] = [symbols[b] ?? "", symbols[a] ?? ""];
      const exchanged = symbols.join("");
      fc.pre(exchanged !== groups[group]);
      groups[group] = exchanged;
      expect(checkPassphrase(groups.join("-"))).toMatchObject({
        kind: "mistyped",
        group: group + 1,
      });
    }),
    { numRuns: 1000 },
  );
});

test("two groups exchanged are found at the first of them", () => {
  fc.assert(
    fc.property(passphrase, place, place, (text, a, b) => {
      fc.pre(a !== b);
      const groups = groupsOf(text);
      [groups[a], groups[b]] = [groups[b] ?? "", groups[a] ?? ""];
      expect(checkPassphrase(groups.join("-"))).toMatchObject({
        kind: "mistyped",
        group: Math.min(a, b) + 1,
      });
    }),
    { numRuns: 1000 },
  );
});

test("a group left out, or typed twice, is found there", () => {
  fc.assert(
    fc.property(passphrase, place, (text, at) => {
      const groups = groupsOf(text);
      const without = groups.toSpliced(at, 1).join("-");
      expect(checkPassphrase(without)).toMatchObject({ kind: "mistyped", group: at + 1 });
      const twice = groups.toSpliced(at, 0, groups[at] ?? "").join("-");
      expect(checkPassphrase(twice)).toMatchObject({ kind: "mistyped" });
    }),
    { numRuns: 1000 },
  );
});

test("a symbol left out or added is found in its group", () => {
  fc.assert(
    fc.property(passphrase, place, within, (text, at, symbol) => {
      const groups = groupsOf(text);
      const group = groups[at] ?? "";
      for (const wrong of [
        group.slice(0, symbol) + group.slice(symbol + 1),
        `${group.slice(0, symbol)}7${group.slice(symbol)}`,
      ]) {
        const mistyped = groups.with(at, wrong).join("-");
        expect(checkPassphrase(mistyped)).toMatchObject({ kind: "mistyped", group: at + 1 });
      }
    }),
  );
});

test("somebody's own passphrase is left exactly as it is", () => {
  const alike = /^(?:[0-9a-f]{64}|[a-z]{5}( [a-z]{5}){12})$/;
  const own = fc.oneof(
    fc.string({ minLength: 1 }),
    fc.string({ unit: "grapheme", minLength: 1 }),
    fc.stringMatching(/^[0-9a-f]{64}$/),
    fc.stringMatching(/^[a-z]{5}( [a-z]{5}){12}$/),
    fc.constantFrom("correct 'horse' battery", "legacy pass'phrase", " blank ", "-", "\n"),
  );
  fc.assert(
    fc.property(own, (text) => {
      fc.pre(!text.includes("\0"));
      const { kind, passphrase } = checkPassphrase(text);
      expect(passphrase).toBe(text);
      // By chance, text of the same form has all checks of a generated passphrase but one.
      expect(alike.test(text) ? ["other", "mistyped"] : ["other"]).toContain(kind);
    }),
    { numRuns: 2000 },
  );
});

test.each([
  ["nothing", ""],
  ["a NUL", "before\0after"],
  ["a raw key", `x'${"0a".repeat(32)}'`],
  ["a raw key with its salt, in capitals", `X'${"0A".repeat(48)}'`],
])("what SQLCipher would not take as a passphrase is refused: %s", (_what, text) => {
  expect(() => checkPassphrase(text)).toThrow(expect.objectContaining({ kind: "refused" }));
});
