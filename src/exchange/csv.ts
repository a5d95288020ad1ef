/**
 * Reads and writes clients as CSV, in the hub's columns.
 *
 * `hivemind-core export-clients` quotes nothing: a comma in a name looks like a separator, `None`
 * means no value, and booleans are `True` and `False`. A row of such a file is accepted only if it
 * has a single possible reading. Any other file is read by RFC 4180. Its separator, line end and
 * spelling of booleans may vary, because spreadsheets change all three when they save the hub's
 * file.
 */
import { parse } from "csv-parse/sync";
import type { Client } from "../client/client.js";
import { StoreError } from "../errors.js";
import { type ImportRow, type RejectedRow, toImportRow } from "./import-row.js";
import type { FirstLine } from "./text.js";

const columns = ["client_id", "name", "is_admin", "access_key", "password", "crypto_key"] as const;
type Column = (typeof columns)[number];

/** The headers of HiveMind 4 and of HiveMind 5, which has no crypto key. */
const hubHeaders = [columns, columns.slice(0, 5)].map((header) => header.join(","));

const separators = [",", ";", "\t", "|"] as const;

/** The maximum number of lines in a record; a longer record has an unclosed quote. */
const maxRecordLines = 1_000;

type Value = string | null;

/** Returns the header. Without secrets, it has no columns for keys and passwords. */
export function formatCsvHeader(secrets: boolean): string {
  return formatCsvLine(secrets ? columns : columns.slice(0, 3));
}

export function formatCsvRow(client: Client, secrets: boolean): string {
  const shown = [String(client.client_id), client.name, String(client.is_admin)];
  return formatCsvLine(
    secrets ? [...shown, client.api_key, client.password, client.crypto_key] : shown,
  );
}

/** Returns a line of CSV by RFC 4180: values are quoted, null is empty and unquoted. */
function formatCsvLine(values: readonly (string | null)[]): string {
  const quoted = values.map((value) => (value === null ? "" : `"${value.replaceAll('"', '""')}"`));
  return `${quoted.join(",")}\r\n`;
}

/**
 * Reads clients from CSV, line by line.
 *
 * @throws {@link StoreError} refused - if the header has other or duplicate columns, or no access
 *   keys
 */
export async function* readCsv(
  lines: AsyncIterable<string>,
  first: FirstLine,
): AsyncGenerator<ImportRow | RejectedRow> {
  const header = trimLineEnd(first.text);
  if (hubHeaders.includes(header)) yield* readHubRows(lines, header.split(","), first.number);
  else yield* readQuotedRows(lines, first);
}

async function* readHubRows(
  lines: AsyncIterable<string>,
  header: readonly string[],
  headerNumber: number,
): AsyncGenerator<ImportRow | RejectedRow> {
  let number = headerNumber;
  for await (const text of lines) {
    number += 1;
    const line = trimLineEnd(text);
    if (line === "") continue;
    const where = `line ${number}`;
    const reading = readHubRow(line, header.length);
    if (typeof reading !== "string" && isBlank(reading)) continue;
    yield typeof reading === "string"
      ? { where, why: reading }
      : rowFromValues(where, header, reading);
  }
}

/** Returns the values of a row below the hub's header, or why the row cannot be read. */
function readHubRow(line: string, width: number): Value[] | string {
  const parts = line.split(",");
  const quoted = readQuoted(line, width, ",");
  // The hub writes the id without quotes, and True or False. Otherwise a spreadsheet or the user
  // wrote the row, by RFC 4180.
  const ways = line.startsWith('"') ? 0 : countReadings(parts, width);
  if (ways === 0) return quoted ?? "not a row with these columns";
  const plain = ways === 1 ? readPlain(parts, width) : undefined;
  const contradicts =
    line.includes('"') && quoted?.some((value, index) => value !== plain?.[index]) === true;
  if (plain !== undefined && !contradicts) return plain;
  return (
    "the row is ambiguous, because the hub writes no quotes. " +
    "Quote its values and write true or false in lower case"
  );
}

/**
 * Counts the readings of an unquoted row: id and name precede `True` or `False`, the other columns
 * follow it, and every column except the id may contain commas.
 */
function countReadings(parts: readonly string[], width: number): number {
  const after = width - 3;
  let ways = 0;
  for (const at of findAdminPositions(parts)) {
    const left = parts.length - 1 - at;
    // The number of ways to choose the separators of the remaining columns among the commas.
    if (after === 2) ways += Math.max(0, left - 1);
    else if (left >= after) ways += ((left - 1) * (left - 2)) / 2;
  }
  return ways;
}

function findAdminPositions(parts: readonly string[]): number[] {
  const found: number[] = [];
  for (let at = 2; at < parts.length; at += 1) {
    if (parts[at] === "True" || parts[at] === "False") found.push(at);
  }
  return found;
}

function readPlain(parts: readonly string[], width: number): Value[] {
  const at = parts.length - (width - 3) - 1;
  const values = [parts[0] ?? "", parts.slice(1, at).join(","), ...parts.slice(at)];
  return values.map((value) => (value === "None" ? null : value));
}

function readQuoted(line: string, width: number, separator: string): Value[] | undefined {
  const values = parseValues(line, separator);
  return values?.length === width ? values : undefined;
}

/** Returns the values of a record, or undefined if it is malformed by RFC 4180. */
function parseValues(text: string, separator: string): Value[] | undefined {
  try {
    const records = parse(text, {
      cast: nullIfBare,
      delimiter: separator,
      record_delimiter: ["\r\n", "\n", "\r"],
      relax_column_count: true,
    });
    return records.length === 1 ? (records[0] as unknown as Value[]) : undefined;
  } catch {
    return undefined;
  }
}

/** Returns null for an unquoted empty value and for the hub's unquoted `None`. */
function nullIfBare(value: string, { quoting }: { quoting: boolean }): Value {
  return !quoting && (value === "" || value === "None") ? null : value;
}

async function* readQuotedRows(
  lines: AsyncIterable<string>,
  first: FirstLine,
): AsyncGenerator<ImportRow | RejectedRow> {
  let header: readonly string[] | undefined;
  let separator = ",";
  for await (const { text, line } of readRecords(lines, first)) {
    const where = `line ${line}`;
    if (header === undefined) {
      separator = detectSeparator(text);
      header = parseHeader(parseValues(text, separator) ?? []);
      continue;
    }
    const values = parseValues(text, separator);
    if (values !== undefined && isBlank(values)) continue;
    if (values === undefined) yield { where, why: "malformed quotes" };
    else if (values.length === header.length) yield rowFromValues(where, header, values);
    else yield { where, why: `it has ${values.length} values, not ${header.length}` };
  }
}

/**
 * Yields records with the number of their first line. An open quote continues a record over a line
 * end.
 */
async function* readRecords(
  lines: AsyncIterable<string>,
  first: FirstLine,
): AsyncGenerator<{ text: string; line: number }> {
  let parts: string[] = [];
  let open = false;
  let line = first.number - 1;
  let began = first.number;
  for await (const text of withFirst(first.text, lines)) {
    line += 1;
    if (!open) began = line;
    parts.push(text);
    if (text.split('"').length % 2 === 0) open = !open;
    if (open && parts.length <= maxRecordLines) continue;
    const record = trimLineEnd(parts.join(""));
    if (record !== "") yield { text: record, line: began };
    parts = [];
    open = false;
  }
  if (open) yield { text: parts.join(""), line: began };
}

/** Returns the separator that yields the most known columns in the header. */
function detectSeparator(header: string): string {
  const known = (separator: string) =>
    (parseValues(header, separator) ?? []).filter((name) => isColumn(name?.trim() ?? "")).length;
  return [...separators].sort((a, b) => known(b) - known(a))[0] ?? ",";
}

function isColumn(name: string): boolean {
  return (columns as readonly string[]).includes(name);
}

/** Returns whether a row is empty. A spreadsheet saves an empty row as separators only. */
function isBlank(values: readonly Value[]): boolean {
  return values.every((value) => value === null || value.trim() === "");
}

function parseHeader(record: readonly Value[]): readonly string[] {
  const header = record.map((name) => name?.trim() ?? "");
  const unknown = header.find((name) => !isColumn(name));
  if (unknown !== undefined) {
    throw new StoreError("refused", "the first line is not a header, or has an unknown column", {
      hint: `The columns are ${columns.join(", ")}.`,
    });
  }
  if (new Set(header).size < header.length) {
    throw new StoreError("refused", "duplicate column in the header");
  }
  if (!header.includes("access_key")) {
    throw new StoreError("refused", "the file has no access keys", {
      hint: "Export with --show-secrets.",
    });
  }
  return header;
}

function rowFromValues(
  where: string,
  header: readonly string[],
  values: readonly Value[],
): ImportRow | RejectedRow {
  const row = Object.fromEntries(header.map((name, index) => [name, values[index] ?? null]));
  const {
    client_id = null,
    name,
    is_admin = null,
    access_key,
    password,
    crypto_key,
  } = row as Partial<Record<Column, Value>>;
  const id = client_id === null ? undefined : parseInteger(client_id);
  if (id === null) return { where, why: "client_id is not a whole number" };
  const admin = is_admin === null ? undefined : parseBoolean(is_admin);
  if (admin === null) return { where, why: "is_admin is neither true nor false" };
  const numeric = (["access_key", "password", "crypto_key"] as const).find((name) =>
    scientific.test(row[name] ?? ""),
  );
  if (numeric !== undefined) {
    const why = `${numeric} is in scientific notation: a spreadsheet has replaced it by a number`;
    return { where, why };
  }
  return toImportRow(where, id, {
    api_key: access_key ?? "",
    ...(name !== undefined && { name }),
    ...(admin !== undefined && { is_admin: admin }),
    ...(password !== undefined && { password }),
    ...(crypto_key !== undefined && { crypto_key }),
  });
}

/**
 * Matches a number as spreadsheets write it, such as `1.23457E+31`. Some locales have a decimal
 * comma. A fraction or a sign is required: without both, a key of hex digits may have this form.
 */
const scientific = /^\d+(?:[.,]\d+E[+-]?|E[+-])\d+$/i;

function parseInteger(text: string): number | null {
  const value = Number(text);
  return /^-?\d+$/.test(text) && Number.isSafeInteger(value) ? value : null;
}

/** Parses a boolean in the spellings of spreadsheets and other programs. */
function parseBoolean(text: string): boolean | null {
  if (/^(?:true|yes|y|t|on|1)$/i.test(text.trim())) return true;
  return /^(?:false|no|n|f|off|0)$/i.test(text.trim()) ? false : null;
}

async function* withFirst(first: string, lines: AsyncIterable<string>): AsyncGenerator<string> {
  yield first;
  yield* lines;
}

function trimLineEnd(line: string): string {
  return line.replace(/\r?\n$|\r$/, "");
}
