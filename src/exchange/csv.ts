/**
 * Clients as CSV, in the hub's columns.
 *
 * `hivemind-core export-clients` quotes nothing: a comma in a name is a comma more, nothing is `None`, true is `True`.
 * Such a file is known by its header, which is the hub's to the letter, and each of its rows must have one possible
 * reading; a row with two is refused, not guessed. Any other CSV, ours among them, is read as RFC 4180 has it; ours
 * quotes every value, header included, and leaves nothing empty and unquoted.
 */
import { parse } from "csv-parse/sync";
import type { Client } from "../client/client.js";
import { StoreError } from "../errors.js";
import { type ImportRow, type RejectedRow, toImportRow } from "./incoming.js";

const columns = ["client_id", "name", "is_admin", "access_key", "password", "crypto_key"] as const;
type Column = (typeof columns)[number];

/** What the two lines of hubs write first; newer ones have no crypto key. */
const hubHeaders = [columns, columns.slice(0, 5)].map((header) => header.join(","));

/** A quote that stays open over more lines than this was never meant to be closed. */
const mostLines = 1_000;

/** A value, or null for nothing. */
type Value = string | null;

/** The header, without what lets somebody in unless `secrets`. */
export function csvHeader(secrets: boolean): string {
  return csvLine(secrets ? columns : columns.slice(0, 3));
}

export function csvRow(client: Client, secrets: boolean): string {
  const shown = [String(client.client_id), client.name, String(client.is_admin)];
  return csvLine(secrets ? [...shown, client.api_key, client.password, client.crypto_key] : shown);
}

/** One line of CSV as RFC 4180 has it: every value quoted, null neither quoted nor anything else. */
export function csvLine(values: readonly (string | null)[]): string {
  const quoted = values.map((value) => (value === null ? "" : `"${value.replaceAll('"', '""')}"`));
  return `${quoted.join(",")}\r\n`;
}

/**
 * Reads clients from CSV, line by line.
 *
 * @throws StoreError `refused` if the header is not one of clients with their access keys.
 */
export async function* readCsv(
  lines: AsyncIterator<string>,
  first: string,
): AsyncGenerator<ImportRow | RejectedRow> {
  const header = withoutLineEnd(first);
  if (hubHeaders.includes(header)) yield* readHubRows(lines, header.split(","));
  else yield* readQuotedRows(lines, first);
}

async function* readHubRows(
  lines: AsyncIterator<string>,
  header: readonly string[],
): AsyncGenerator<ImportRow | RejectedRow> {
  let number = 1;
  for (let next = await lines.next(); !next.done; next = await lines.next()) {
    number += 1;
    const line = withoutLineEnd(next.value);
    if (line === "") continue;
    const where = `line ${number}`;
    const reading = onlyReading(line, header.length);
    yield typeof reading === "string"
      ? { where, why: reading }
      : fromValues(where, header, reading);
  }
}

/** The one way to read a line of a file with the hub's header, or why there is none. */
function onlyReading(line: string, width: number): Value[] | string {
  const parts = line.split(",");
  const ways = waysToRead(parts, width);
  const quoted = line.includes('"') ? quotedReading(line, width) : undefined;
  if (ways === 0) return quoted ?? "not a row with these columns";
  const plain = ways === 1 ? plainReading(parts, width) : undefined;
  const other = quoted?.some((value, index) => value !== plain?.[index]);
  if (plain !== undefined && !other) return plain;
  return (
    "it can be read in more than one way, for the hub quotes nothing. " +
    "Quote its values, and write true or false in small letters"
  );
}

/**
 * How many unquoted rows a line could be: what is before `True` or `False` is id and name, what is after it the other
 * columns, and commas can be in all of them but the id.
 */
function waysToRead(parts: readonly string[], width: number): number {
  const after = width - 3;
  let ways = 0;
  for (const at of admins(parts)) {
    const left = parts.length - 1 - at;
    // Of the commas in what is left, choose those that separate its columns.
    if (after === 2) ways += Math.max(0, left - 1);
    else if (left >= after) ways += ((left - 1) * (left - 2)) / 2;
  }
  return ways;
}

function admins(parts: readonly string[]): number[] {
  const found: number[] = [];
  for (let at = 2; at < parts.length; at += 1) {
    if (parts[at] === "True" || parts[at] === "False") found.push(at);
  }
  return found;
}

function plainReading(parts: readonly string[], width: number): Value[] {
  const at = parts.length - (width - 3) - 1;
  const values = [parts[0] ?? "", parts.slice(1, at).join(","), ...parts.slice(at)];
  return values.map((value) => (value === "None" ? null : value));
}

function quotedReading(line: string, width: number): Value[] | undefined {
  const values = quotedValues(line);
  return values?.length === width ? values : undefined;
}

/** One record's values; undefined if it is not one as RFC 4180 has it. */
function quotedValues(text: string): Value[] | undefined {
  try {
    const records = parse(text, { cast: nothingIfBare, relax_column_count: true });
    return records.length === 1 ? (records[0] as unknown as Value[]) : undefined;
  } catch {
    return undefined;
  }
}

/** Unquoted, an empty value and the hub's `None` are nothing. */
function nothingIfBare(value: string, { quoting }: { quoting: boolean }): Value {
  return !quoting && (value === "" || value === "None") ? null : value;
}

async function* readQuotedRows(
  lines: AsyncIterator<string>,
  first: string,
): AsyncGenerator<ImportRow | RejectedRow> {
  let header: readonly string[] | undefined;
  for await (const { text, line } of quotedRecords(lines, first)) {
    const where = `line ${line}`;
    const values = quotedValues(text);
    if (header === undefined) header = checkedHeader(values ?? []);
    else if (values === undefined) yield { where, why: "its quotes are not as CSV has them" };
    else if (values.length === header.length) yield fromValues(where, header, values);
    else yield { where, why: `it has ${values.length} values, not ${header.length}` };
  }
}

/** Records with the line that each begins on: one goes on over a line end as long as a quote is open. */
async function* quotedRecords(
  lines: AsyncIterator<string>,
  first: string,
): AsyncGenerator<{ text: string; line: number }> {
  let parts: string[] = [];
  let open = false;
  let line = 0;
  let began = 1;
  for (let next = { value: first, done: false }; !next.done; next = await following(lines)) {
    line += 1;
    if (!open) began = line;
    parts.push(next.value);
    if (next.value.split('"').length % 2 === 0) open = !open;
    if (open && parts.length <= mostLines) continue;
    const text = withoutLineEnd(parts.join(""));
    if (text !== "") yield { text, line: began };
    parts = [];
    open = false;
  }
  if (open) yield { text: parts.join(""), line: began };
}

function checkedHeader(record: readonly Value[]): readonly string[] {
  const header = record.map((name) => name?.trim() ?? "");
  const unknown = header.find((name) => !(columns as readonly string[]).includes(name));
  if (unknown !== undefined) {
    throw new StoreError("refused", "the first line is not a header of clients", {
      hint: `The columns are ${columns.join(", ")}.`,
    });
  }
  if (new Set(header).size < header.length) {
    throw new StoreError("refused", "the header has a column twice");
  }
  if (!header.includes("access_key")) {
    throw new StoreError("refused", "there are no access keys in this file", {
      hint: "export-clients writes them with --show-secrets.",
    });
  }
  return header;
}

function fromValues(
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
  const id = client_id === null ? undefined : wholeNumber(client_id);
  if (id === null) return { where, why: "its client_id is not a whole number" };
  const admin = is_admin === null ? undefined : truth(is_admin);
  if (admin === null) return { where, why: "its is_admin is neither true nor false" };
  return toImportRow(where, id, {
    api_key: access_key ?? "",
    ...(name !== undefined && { name }),
    ...(admin !== undefined && { is_admin: admin }),
    ...(password !== undefined && { password }),
    ...(crypto_key !== undefined && { crypto_key }),
  });
}

function wholeNumber(text: string): number | null {
  const value = Number(text);
  return /^-?\d+$/.test(text) && Number.isSafeInteger(value) ? value : null;
}

function truth(text: string): boolean | null {
  if (/^true$/i.test(text)) return true;
  return /^false$/i.test(text) ? false : null;
}

async function following(lines: AsyncIterator<string>): Promise<{ value: string; done: boolean }> {
  const { value, done = false } = await lines.next();
  return { value, done };
}

function withoutLineEnd(line: string): string {
  return line.replace(/\r?\n$/, "");
}
