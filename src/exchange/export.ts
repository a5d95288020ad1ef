/** Formats the clients of a store as CSV or JSON, and writes this text to a file. */
import { type FileHandle, open, rm, stat } from "node:fs/promises";
import { join } from "node:path";
import { type Client, isRevoked, withoutSecrets } from "../client/client.js";
import { formatJson } from "../client/json.js";
import { hasCode, StoreError, systemError } from "../errors.js";
import { claimName, stagedName } from "../fs/atomic.js";
import { formatCsvHeader, formatCsvRow } from "./csv.js";
import type { Format } from "./import.js";

export interface ExportOptions {
  readonly clients: AsyncIterable<Client>;
  readonly format: Format;
  /**
   * Whether to include access keys, passwords, crypto keys and revoked clients. Only such an export
   * can be imported; without secrets it is a list of the active clients.
   */
  readonly secrets: boolean;
  readonly progress?: (done: number) => void;
  readonly signal?: AbortSignal;
}

/** The minimum number of characters in a piece, except the last. */
const pieceLength = 64 * 1024;

/** Yields the export in pieces and reports the number of clients so far to `progress`. */
export async function* exportText(options: ExportOptions): AsyncGenerator<string> {
  const { format, secrets, progress = () => {}, signal } = options;
  let piece = format === "csv" ? formatCsvHeader(secrets) : '{"clients": [';
  let count = 0;
  for await (const client of options.clients) {
    signal?.throwIfAborted();
    if (!secrets && isRevoked(client)) continue;
    if (format === "csv") piece += formatCsvRow(client, secrets);
    else piece += `${count === 0 ? "\n" : ",\n"}${formatRecord(client, secrets)}`;
    count += 1;
    if (piece.length < pieceLength) continue;
    progress(count);
    yield piece;
    piece = "";
  }
  progress(count);
  yield format === "csv" ? piece : `${piece}\n]}\n`;
}

function formatRecord(client: Client, secrets: boolean): string {
  const shown = secrets ? { ...client } : { ...withoutSecrets(client) };
  return formatJson(shown, { sortKeys: true, ascii: false });
}

/** Returns `path`, or `path/hivemind_clients.FORMAT` if `path` is a directory. */
export async function resolveExportPath(path: string, format: Format): Promise<string> {
  try {
    return (await stat(path)).isDirectory() ? join(path, `hivemind_clients.${format}`) : path;
  } catch (error) {
    if (hasCode(error, "ENOENT")) return path;
    throw systemError(error, `cannot access ${path}`);
  }
}

/**
 * Writes an export to a new file with mode 0600. The file gets its name when it is complete.
 *
 * @throws {@link StoreError} refused - if the path exists
 * @throws {@link StoreError} io - if the file cannot be written
 */
export async function exportToFile(path: string, text: AsyncIterable<string>): Promise<void> {
  const staged = stagedName(path);
  let file: FileHandle;
  try {
    file = await open(staged, "wx", 0o600);
  } catch (error) {
    throw systemError(error, `cannot create ${path}`);
  }
  try {
    try {
      for await (const piece of text) await file.writeFile(piece);
      await file.sync();
    } finally {
      await file.close();
    }
    await claimName(staged, path);
  } catch (error) {
    if (error instanceof StoreError) throw error;
    throw systemError(error, `cannot write ${path}`);
  } finally {
    await rm(staged, { force: true });
  }
}
