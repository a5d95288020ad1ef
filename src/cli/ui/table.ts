/** Tables that fit the terminal: the widest columns shrink first, and cells are escaped. */
import { escapeControlCharacters } from "../../text/escape.js";

export interface Column {
  readonly title: string;
  readonly align?: "left" | "right";
}

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

function pad(text: string, width: number, align: Column["align"]): string {
  const space = " ".repeat(Math.max(0, width - widthOf(text)));
  return align === "right" ? space + text : text + space;
}

/** A table with column widths from its first rows, so that any number of rows can follow. */
export class Table {
  readonly #columns: readonly Column[];
  readonly #widths: number[];
  readonly #isCut: boolean;

  private constructor(columns: readonly Column[], widths: number[], isCut: boolean) {
    this.#columns = columns;
    this.#widths = widths;
    this.#isCut = isCut;
  }

  /**
   * @param available - the terminal's columns; if undefined, no cell is cut, and a long cell in a
   *   later row moves the cells after it
   */
  static async of(
    columns: readonly Column[],
    firstRows: readonly string[][],
    available: number | undefined,
  ): Promise<Table> {
    await loadStringWidth([...columns.map(({ title }) => title), ...firstRows.flat()]);
    const widths = columns.map(({ title }, index) =>
      Math.max(
        widthOf(title),
        ...firstRows.map((row) => widthOf(escapeControlCharacters(row[index] ?? ""))),
      ),
    );
    const table = new Table(columns, widths, available !== undefined);
    if (available !== undefined) table.#shrink(available - gap.length * (columns.length - 1));
    return table;
  }

  #shrink(available: number): void {
    let excess = this.#widths.reduce((sum, width) => sum + width, 0) - available;
    while (excess > 0) {
      const widest = this.#widths.indexOf(Math.max(...this.#widths));
      const width = this.#widths[widest] ?? 0;
      if (width <= minWidth) return;
      this.#widths[widest] = width - 1;
      excess -= 1;
    }
  }

  heading(): string {
    return this.#line(this.#columns.map((column) => column.title));
  }

  async row(cells: readonly string[]): Promise<string> {
    await loadStringWidth(cells);
    return this.#line(cells.map(escapeControlCharacters));
  }

  rows(rows: readonly string[][]): Promise<string[]> {
    return Promise.all(rows.map((cells) => this.row(cells)));
  }

  #line(cells: string[]): string {
    return this.#columns
      .map((column, index) => {
        const width = this.#widths[index] ?? 0;
        const cell = cells[index] ?? "";
        return pad(this.#isCut ? truncate(cell, width) : cell, width, column.align);
      })
      .join(gap)
      .trimEnd();
  }
}
