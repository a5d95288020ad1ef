/** A query's answer as text. */
import { formatJson, JsonNumber, type JsonValue } from "../client/json.js";
import type { Cell, Rows } from "./session.js";

/** A cell for a person: NULL is told from the empty text, bytes are written as SQL writes them. */
export function cellText(cell: Cell): string {
  if (cell === null) return "NULL";
  if (cell instanceof JsonNumber) return cell.text;
  return typeof cell === "string" ? cell : blobText(cell);
}

/** CSV as RFC 4180 has it, header first: NULL is an empty value, the empty text is `""`. */
export function csvText({ columns, rows }: Rows): string {
  const line = (cells: readonly Cell[]) => `${cells.map(csvValue).join(",")}\r\n`;
  return line(columns) + rows.map(line).join("");
}

function csvValue(cell: Cell): string {
  if (cell === null) return "";
  const text = cellText(cell);
  return /^$|[",\r\n]|^\s|\s$/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
}

/** `{"columns", "rows"}` and what else is given; numbers keep all their digits. */
export function jsonText({ columns, rows }: Rows, more: Record<string, JsonValue> = {}): string {
  const values = rows.map((row) => row.map(jsonValue));
  return formatJson({ columns, rows: values, ...more }, { ascii: false });
}

function jsonValue(cell: Cell): JsonValue {
  return cell instanceof Uint8Array ? blobText(cell) : cell;
}

function blobText(bytes: Uint8Array): string {
  return `X'${Buffer.from(bytes).toString("hex").toUpperCase()}'`;
}
