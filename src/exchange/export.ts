/** A store's clients into a file that others can read, or a stream. */
import { type FileHandle, open, rm, stat } from "node:fs/promises";
import { join } from "node:path";
import { type Client, isRevoked, withoutSecrets } from "../client/client.js";
import { formatJson } from "../client/json.js";
import { hasCode, StoreError, systemError } from "../errors.js";
import { claimName, stagedName } from "../fs/atomic.js";
import { csvHeader, csvRow } from "./csv.js";
import type { Format } from "./import.js";

export interface ExportOptions {
  readonly clients: AsyncIterable<Client>;
  readonly format: Format;
  /**
   * With access keys, passwords and crypto keys, and then with revoked clients too: enough to be imported. Without, a
   * list of those who may come in.
   */
  readonly secrets: boolean;
  readonly progress?: (done: number) => void;
  readonly signal?: AbortSignal;
}

/** Text is handed on in pieces of about this many characters. */
const pieceLength = 64 * 1024;

/** The export in pieces; answers in `progress` how many clients it holds so far. */
export async function* exportText(options: ExportOptions): AsyncGenerator<string> {
  const { format, secrets, progress = () => {}, signal } = options;
  let piece = format === "csv" ? csvHeader(secrets) : '{"clients": [';
  let count = 0;
  for await (const client of options.clients) {
    signal?.throwIfAborted();
    if (!secrets && isRevoked(client)) continue;
    if (format === "csv") piece += csvRow(client, secrets);
    else piece += `${count === 0 ? "\n" : ",\n"}${record(client, secrets)}`;
    count += 1;
    if (piece.length < pieceLength) continue;
    progress(count);
    yield piece;
    piece = "";
  }
  progress(count);
  yield format === "csv" ? piece : `${piece}\n]}\n`;
}

function record(client: Client, secrets: boolean): string {
  const shown = secrets ? { ...client } : { ...withoutSecrets(client) };
  return formatJson(shown, { sortKeys: true, ascii: false });
}

/** Where an export to `path` goes: in a folder, the hub's name for it. */
export async function exportPath(path: string, format: Format): Promise<string> {
  try {
    return (await stat(path)).isDirectory() ? join(path, `hivemind_clients.${format}`) : path;
  } catch (error) {
    if (hasCode(error, "ENOENT")) return path;
    throw systemError(error, `cannot look at ${path}`);
  }
}

/**
 * Writes an export to a new file, 0600, which gets its name when it is whole.
 *
 * @throws StoreError `refused` if something has that name; `io`.
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
