import fc from "fast-check";
import stringWidth from "string-width";
import { expect, onTestFinished, test, vi } from "vitest";
import { escapeLines } from "../../src/cli/ui/output.js";
import { Table } from "../../src/cli/ui/table.js";
import { escapeControlCharacters } from "../../src/text/escape.js";

const columns = [{ title: "ID", align: "right" as const }, { title: "NAME" }, { title: "MAY" }];

test("a table is as wide as it needs to be where there is room", async () => {
  const rows = [["1", "kitchen", "escalate"]];
  const table = await Table.of(columns, rows, 80);
  expect(table.heading()).toBe("ID  NAME     MAY");
  expect(await table.row(rows[0] as string[])).toBe(" 1  kitchen  escalate");
});

test("without a terminal, a row that is longer than the first rows is not cut", async () => {
  const table = await Table.of(columns, [["1", "hall", ""]], undefined);
  expect(await table.row(["12345", "kitchen", "escalate"])).toBe("12345  kitchen  escalate");
});

test("no line is wider than the terminal, whatever the cells hold", async () => {
  await fc.assert(
    fc.asyncProperty(
      fc.array(fc.tuple(fc.nat().map(String), fc.string({ unit: "grapheme" }), fc.string()), {
        minLength: 1,
        maxLength: 5,
      }),
      fc.integer({ min: 30, max: 120 }),
      async (rows, width) => {
        const table = await Table.of(columns, rows, width);
        for (const row of rows)
          expect(stringWidth(await table.row(row))).toBeLessThanOrEqual(width);
      },
    ),
  );
});

test("a cell cannot move the cursor, ring the bell or turn the line around", () => {
  expect(escapeControlCharacters("a\x1b[2Jb\x07c\u202ed\n")).toBe(
    "a\\u001b[2Jb\\u0007c\\u202ed\\u000a",
  );
  expect(escapeControlCharacters('Zé "sala" 🚀 👨‍👩‍👧')).toBe('Zé "sala" 🚀 👨‍👩‍👧');
});

test("of what others wrote, a line that is printed keeps this program's own colours and no other control", () => {
  expect(escapeLines("\x1b[32msound\x1b[0m\nand more")).toBe("\x1b[32msound\x1b[0m\nand more");
  expect(escapeLines("\x1b[8mhidden")).toBe("\\u001b[8mhidden");
  expect(escapeLines("\x1b[2J\x1b]0;title\x07\r")).toBe("\\u001b[2J\\u001b]0;title\\u0007\\u000d");
});

test("a table is printed although an upgrade has removed what measures other text than ASCII", async () => {
  vi.resetModules();
  vi.doMock("string-width", () => {
    throw new Error("no such file or directory");
  });
  onTestFinished(() => void vi.doUnmock("string-width"));
  const { Table: Measured } = await import("../../src/cli/ui/table.js");
  const rows = [["1", "Zé", "escalate"]];
  const table = await Measured.of(columns, rows, 80);
  expect(await table.row(rows[0] as string[])).toBe(" 1  Zé    escalate");
});
