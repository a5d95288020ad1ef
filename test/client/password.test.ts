import { expect, test } from "vitest";
import { assertStrongPassword, maxPasswordBits } from "../../src/client/password.js";

test.each([
  "",
  "hunter2",
  "xQ7rTz9!mK2p",
  "aaaaaaaaaaaaaaaaaaaaaaaa",
  "abcabcabcabcabcabcabcabc",
  "ß".repeat(40),
])("a password below 40 bits is refused, without repeating it: %j", (password) => {
  expect(() => assertStrongPassword(password)).toThrow(expect.objectContaining({ kind: "usage" }));
  const message = (() => {
    try {
      assertStrongPassword(password);
    } catch (error) {
      return String(error);
    }
    return "";
  })();
  if (password !== "") expect(message).not.toContain(password);
});

test.each(["xQ7rTz9!mK2pL", "0123456789abcdef0123456789abcde!"])("%s is accepted", (password) => {
  expect(() => assertStrongPassword(password)).not.toThrow();
});

test("characters beyond ASCII count once", () => {
  expect(maxPasswordBits("😀x")).toBeCloseTo(2 * Math.log2(10));
});
