/** Tables that fit the terminal: the widest columns shrink first, and cells are escaped. */
import { escapeControlCharacters } from "../../text/escape.js";
import type { Output } from "./output.js";

export interface Column<Item> {
  readonly title: string;
  readonly align?: "left" | "right";
  readonly cell: (item: Item) => string;
}

/** Rows that determine the column widths. Later rows are formatted as they are read. */
const widthRows = 500;

const gap = "  ";
const minWidth = 6;

const ascii = /^[ -~]*$/;

/** Loaded only for text beyond ASCII: loading takes longer than printing a table. */
let stringWidth: ((text: string) => number) | undefined;

async function loadStringWidth(cells: readonly string[]): Promise<void> {
  if (stringWidth === undefined && !cells.every((cell) => ascii.test(cell))) {
    // An upgrade during an operation may have removed the package. Columns are then misaligned.
    const loaded = import("string-width").then((module) => module.default);
    stringWidth = await loaded.catch(() => (text: string) => text.length);
  }
}

/** Returns a text's width in terminal columns. */
function widthOf(text: string): number {
  return stringWidth === undefined || ascii.test(text) ? text.length : stringWidth(text);
}

function truncate(text: string, width: number): string {
  if (widthOf(text) <= width) return text;
  if (ascii.test(text)) return `${text.slice(0, width - 1)}…`;
  let kept = "";
  for (const { segment } of new Intl.Segmenter().segment(text)) {
    if (widthOf(kept + segment) > width - 1) break;
    kept += segment;
  }
  return `${kept}…`;
}

function pad(text: string, width: number, align: "left" | "right" | undefined): string {
  const space = " ".repeat(Math.max(0, width - widthOf(text)));
  return align === "right" ? space + text : text + space;
}

interface TableOptions<Item> {
  /** Whether cells are cut to fit the terminal (default: true). */
  readonly isCut?: boolean;
  readonly styleRow?: (line: string, item: Item) => string;
}

/**
 * Yields the heading and a line for each item, or nothing without an item.
 *
 * The first rows determine the column widths, so that any number of rows can follow. If no cell is
 * cut, a long cell in a later row moves the cells after it.
 */
export async function* formatTable<Item>(
  output: Pick<Output, "columns" | "style">,
  columns: readonly Column<Item>[],
  items: Iterable<Item> | AsyncIterable<Item>,
  { isCut = true, styleRow = (line) => line }: TableOptions<Item> = {},
): AsyncGenerator<string> {
  const available = isCut ? output.columns : undefined;
  const titles = columns.map(({ title }) => escapeControlCharacters(title));
  const cellsOf = (item: Item) => columns.map(({ cell }) => escapeControlCharacters(cell(item)));
  const remaining = iterate(items);
  const first: Item[] = [];
  while (first.length < widthRows) {
    const next = await remaining.next();
    if (next.done) break;
    first.push(next.value);
  }
  if (first.length === 0) return;
  const firstCells = [titles, ...first.map(cellsOf)];
  await loadStringWidth(firstCells.flat());
  const widths = columns.map((_, index) =>
    Math.max(...firstCells.map((cells) => widthOf(cells[index] ?? ""))),
  );
  if (available !== undefined) shrink(widths, available - gap.length * (columns.length - 1));
  const format = (cells: readonly string[]) =>
    columns
      .map(({ align }, index) => {
        const [cell = "", width = 0] = [cells[index], widths[index]];
        return pad(available === undefined ? cell : truncate(cell, width), width, align);
      })
      .join(gap)
      .trimEnd();
  yield output.style("bold", format(titles));
  for (const item of first) yield styleRow(format(cellsOf(item)), item);
  for await (const item of remaining) {
    const cells = cellsOf(item);
    await loadStringWidth(cells);
    yield styleRow(format(cells), item);
  }
}

async function* iterate<Item>(items: Iterable<Item> | AsyncIterable<Item>): AsyncGenerator<Item> {
  yield* items;
}

/** Narrows the widest columns until all fit, or none is wider than `minWidth`. */
function shrink(widths: number[], available: number): void {
  let excess = widths.reduce((sum, width) => sum + width, 0) - available;
  for (; excess > 0; excess -= 1) {
    const width = Math.max(...widths);
    if (width <= minWidth) return;
    widths[widths.indexOf(width)] = width - 1;
  }
}
