/** Reads, writes and removes small JSON files with the state of an operation. */
import { dirname } from "node:path";
import { StoreError } from "../errors.js";
import { makeDirectory, removeFile, replaceFile, syncDirectory } from "./atomic.js";
import { readTextIfExists } from "./read.js";

/**
 * Reads a record; returns undefined if the file does not exist.
 *
 * @param parse - returns the record; throws if the JSON has another shape
 * @param what - the content, for the error: `a migration note`
 * @param hint - the hint of the error
 * @throws {@link StoreError} corrupted - if the file is not such a record
 * @throws {@link StoreError} io - if it cannot be read
 */
export async function readRecord<Content>(
  path: string,
  parse: (json: unknown) => Content,
  what: string,
  hint: string,
): Promise<Content | undefined> {
  const text = await readTextIfExists(path);
  if (text === undefined) return undefined;
  try {
    return parse(JSON.parse(text));
  } catch (cause) {
    throw new StoreError("corrupted", `${path} is not ${what}`, { hint, cause });
  }
}

/** Writes and syncs a record. Creates its directory if necessary. */
export async function writeRecord(path: string, content: object): Promise<void> {
  await makeDirectory(dirname(path));
  await replaceFile(path, `${JSON.stringify(content, undefined, 2)}\n`);
}

/** Removes a record, if it exists, and syncs its directory. */
export async function removeRecord(path: string): Promise<void> {
  await removeFile(path);
  await syncDirectory(dirname(path));
}
