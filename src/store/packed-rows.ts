/**
 * Rows by the hundred, packed by SQLite into one JSON text: the binding makes each value of a row one by one, which
 * takes longer than all else that reading does.
 *
 * What JSON cannot carry unchanged is not read this way: blobs, numbers in columns of text, and reals, of which SQLite
 * writes 15 digits. `last_seen`, the one real among the columns, is packed as its whole part and its fraction in units
 * of 2^-52, both of which are exact.
 */
import type { Row } from "./client-row.js";
import { type Column, knownColumns } from "./schema.js";

const fractionUnits = 2 ** 52;
const highest = Number.MAX_SAFE_INTEGER;

/** These hold numbers, the last four as truths. */
const notText: ReadonlySet<Column> = new Set([
  "client_id",
  "last_seen",
  "is_admin",
  "can_broadcast",
  "can_escalate",
  "can_propagate",
]);

export interface PackedRows {
  packed: string;
  /** How many of the columns known here the table has now: others may have added one. */
  known: number;
}

/** SQL that answers the selected rows as one text. */
export function packedRows(columns: readonly Column[], selection: string): string {
  // Between -1 and 1 a double has bits beyond those units: it is answered as a text, and then not taken.
  const seen = `CASE WHEN typeof(last_seen) <> 'real' THEN last_seen
    WHEN last_seen = 0 OR abs(last_seen) >= 1 THEN CAST(last_seen AS INTEGER) ELSE '' END`;
  const fraction = `CAST((last_seen - CAST(last_seen AS INTEGER)) * ${fractionUnits}.0 AS INTEGER)`;
  const members = columns.map((column) => `'${column}', ${column === "last_seen" ? seen : column}`);
  members.push("'exact_id', CAST(client_id AS TEXT)", `'exact_last_seen', ${fraction}`);
  const known = knownColumns.map((column) => `'${column}'`).join(", ");
  return `SELECT json_group_array(json_object(${members.join(", ")})) AS packed,
    (SELECT count(*) FROM pragma_table_info('clients') WHERE name IN (${known})) AS known
    FROM (SELECT ${columns.join(", ")} FROM clients ${selection})`;
}

/** The rows, as the binding would have made them; undefined if they did not survive the packing. */
export function unpackRows(
  columns: readonly Column[],
  { packed, known }: PackedRows,
): Row[] | undefined {
  if (known !== columns.length) return undefined;
  const texts = columns.filter((column) => !notText.has(column));
  const rows = JSON.parse(packed) as Row[];
  for (const row of rows) {
    for (const column of texts) if (typeof row[column] === "number") return undefined;
    const seen = unpackReal(row.last_seen, row.exact_last_seen);
    if (seen === undefined) return undefined;
    row.last_seen = seen;
    row.exact_last_seen = null;
  }
  return rows;
}

function unpackReal(whole: unknown, fraction: unknown): number | null | undefined {
  if (whole === null) return null;
  if (typeof whole !== "number" || Math.abs(whole) > highest) return undefined;
  return whole + Number(fraction) / fractionUnits;
}
