/** Formats rows as text. */
import { formatJson, JsonNumber, type JsonValue } from "../client/json.js";
import type { Cell, Rows } from "./session.js";

/** Formats a value as text: NULL as `NULL`, and bytes as SQL's literal `X'…'`. */
export function formatCell(cell: Cell): string {
  if (cell === null) return "NULL";
  if (cell instanceof JsonNumber) return cell.text;
  return typeof cell === "string" ? cell : blobText(cell);
}

/** Formats rows as CSV (RFC 4180) with a header: NULL is an empty value, the empty text is `""`. */
export function formatRowsAsCsv({ columns, rows }: Rows): string {
  const line = (cells: readonly Cell[]) => `${cells.map(csvValue).join(",")}\r\n`;
  return line(columns) + rows.map(line).join("");
}

function csvValue(cell: Cell): string {
  if (cell === null) return "";
  const text = formatCell(cell);
  return /^$|[",\r\n]|^\s|\s$/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
}

/** Formats rows as `{"columns", "rows", …more}`, with all digits of numbers. */
export function formatRowsAsJson(
  { columns, rows }: Rows,
  more: Record<string, JsonValue> = {},
): string {
  const values = rows.map((row) => row.map(jsonValue));
  return formatJson({ columns, rows: values, ...more }, { ascii: false });
}

function jsonValue(cell: Cell): JsonValue {
  return cell instanceof Uint8Array ? blobText(cell) : cell;
}

function blobText(bytes: Uint8Array): string {
  return `X'${Buffer.from(bytes).toString("hex").toUpperCase()}'`;
}
