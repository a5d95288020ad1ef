/** Prints JSON documents with a list of any length in constant memory. */
import { formatDocument } from "./json.js";
import { errorToJson, print, toStoreError } from "./output.js";

interface JsonList<Item> {
  /** The document up to the first element, such as `{"clients":[`. */
  readonly head: string;
  readonly items: AsyncIterable<Item>;
  readonly record: (item: Item) => object;
  /** Returns the members after the list. Called after the last element, also before an error. */
  readonly rest?: () => object;
}

/**
 * Prints a document while the elements of its list are read. If reading fails halfway, the document
 * ends with the error next to the elements read so far.
 *
 * @throws the error of reading if it occurs before the first element
 */
export async function printJsonList<Item>(list: JsonList<Item>): Promise<void> {
  const { head, items, record, rest = () => ({}) } = list;
  let separator = head;
  try {
    for await (const item of items) {
      await print(separator + formatDocument(record(item)));
      separator = ",";
    }
  } catch (error) {
    if (separator !== ",") throw error;
    const failure = toStoreError(error);
    process.stdout.write(formatEnd({ ...rest(), error: errorToJson(failure) }));
    process.exitCode = failure.exitCode;
    return;
  }
  process.stdout.write(`${separator === "," ? "" : head}${formatEnd(rest())}`);
}

function formatEnd(members: object): string {
  const text = formatDocument(members).slice(1);
  return text === "}" ? "]}\n" : `],${text}\n`;
}
