import fc from "fast-check";
import stringWidth from "string-width";
import { expect, onTestFinished, test, vi } from "vitest";
import { escapeLines } from "../../src/cli/ui/output.js";
import { type Column, formatTable } from "../../src/cli/ui/table.js";
import { escapeControlCharacters } from "../../src/text/escape.js";

type Row = readonly [id: string, name: string, may: string];

const columns: Column<Row>[] = [
  { title: "ID", align: "right", cell: ([id]) => id },
  { title: "NAME", cell: ([, name]) => name },
  { title: "MAY", cell: ([, , may]) => may },
];

const format = (rows: readonly Row[], width: number | undefined, table = formatTable) =>
  Array.fromAsync(table({ columns: width, style: (_, text) => text }, columns, rows));

test("a table is as wide as it needs to be where there is room", async () => {
  expect(await format([["1", "kitchen", "escalate"]], 80)).toEqual([
    "ID  NAME     MAY",
    " 1  kitchen  escalate",
  ]);
});

test("without a terminal, a row that is longer than the first rows is not cut", async () => {
  const rows = Array.from({ length: 500 }, (): Row => ["1", "hall", ""]);
  const lines = await format([...rows, ["12345", "kitchen", "escalate"]], undefined);
  expect(lines.slice(-2)).toEqual([" 1  hall", "12345  kitchen  escalate"]);
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
        for (const line of await format(rows, width))
          expect(stringWidth(line)).toBeLessThanOrEqual(width);
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
  const { formatTable: measured } = await import("../../src/cli/ui/table.js");
  const lines = await format([["1", "Zé", "escalate"]], 80, measured);
  expect(lines[1]).toBe(" 1  Zé    escalate");
});
