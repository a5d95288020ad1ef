import { existsSync, readFileSync } from "node:fs";
import { expect, test } from "vitest";

const root = new URL("..", import.meta.url).pathname;
const text = readFileSync(`${root}SECURITY.md`, "utf8");

test("what SECURITY.md says is shown by tests, and each of them is there", () => {
  const named = new Set(text.match(/test\/[\w./-]+\.test\.ts/g));
  expect(named.size).toBeGreaterThan(10);
  expect([...named].filter((path) => !existsSync(root + path))).toEqual([]);
});

test("every attacker of the threat model has a test that shows what they cannot do, or is said not to be stopped", () => {
  const table = text.slice(text.indexOf("| attacker | can |")).split("\n\n")[0] ?? "";
  const rows = table.split("\n").slice(2);
  expect(rows.length).toBeGreaterThan(10);
  const without = rows.filter((row) => !/test\/[\w./-]+\.test\.ts`|not prevented/.test(row));
  expect(without).toEqual([]);
});
