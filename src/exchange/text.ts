/** A file's text, line by line, in memory that does not grow with it. */
import { StoreError } from "../errors.js";

/** A longer line is neither a client nor a document of clients that can be read. */
const longestLine = 256_000_000;

/**
 * The lines of UTF-8 text, each with its line end, if it has one.
 *
 * @param seen is told how many bytes were read.
 * @throws StoreError `refused` if it is not UTF-8, or a line is longer than any client can be.
 */
export async function* linesOf(
  bytes: AsyncIterable<Uint8Array>,
  seen: (bytes: number) => void = () => {},
): AsyncGenerator<string> {
  const decoder = new TextDecoder("utf-8", { fatal: true });
  const decode = (chunk?: Uint8Array) => {
    try {
      return decoder.decode(chunk, { stream: chunk !== undefined });
    } catch {
      throw new StoreError("refused", "this file is not UTF-8 text");
    }
  };
  let begun: string[] = [];
  let length = 0;
  let read = 0;
  for await (const chunk of bytes) {
    read += chunk.length;
    const text = decode(chunk);
    let start = 0;
    for (let end = text.indexOf("\n"); end >= 0; end = text.indexOf("\n", start)) {
      yield [...begun, text.slice(start, end + 1)].join("");
      begun = [];
      length = 0;
      start = end + 1;
    }
    begun.push(text.slice(start));
    length += text.length - start;
    if (length > longestLine) {
      throw new StoreError("refused", "a line of this file is longer than can be read");
    }
    seen(read);
  }
  const last = [...begun, decode()].join("");
  if (last !== "") yield last;
}
