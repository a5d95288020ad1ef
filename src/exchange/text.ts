/** Splits text into lines in constant memory. */
import { StoreError } from "../errors.js";
import { detectEncoding } from "../fs/encoding.js";

/** In characters. A longer line is neither a client nor a document that can be parsed. */
const maxLineLength = 256_000_000;

/** The first nonblank line of a file. */
export interface FirstLine {
  readonly text: string;
  readonly number: number;
}

/**
 * Yields the lines of UTF-8 text, or of UTF-16 with a byte order mark, each with its line end.
 *
 * @param onRead - called with the number of bytes read so far
 * @throws {@link StoreError} refused - if it is not text, or if a line is too long
 */
export async function* splitLines(
  bytes: AsyncIterable<Uint8Array>,
  onRead: (bytes: number) => void = () => {},
): AsyncGenerator<string> {
  let decoder: InstanceType<typeof TextDecoder> | undefined;
  const decode = (chunk?: Uint8Array) => {
    // A file of zeros has no line end for gigabytes.
    const isText = decoder !== undefined || chunk === undefined || chunk[0] !== 0;
    try {
      decoder ??= new TextDecoder(detectEncoding(chunk ?? new Uint8Array()), { fatal: true });
      if (isText) return decoder.decode(chunk, { stream: chunk !== undefined });
    } catch {
      // Reported below.
    }
    throw new StoreError("refused", "the file is not text in UTF-8 or UTF-16");
  };
  let begun: string[] = [];
  let length = 0;
  let read = 0;
  let held = "";
  let lineEnd: string | undefined;
  for await (const chunk of bytes) {
    read += chunk.length;
    let text = held + decode(chunk);
    held = "";
    lineEnd ??= detectLineEnd(text);
    // The next chunk decides what a CR at the end means.
    if (lineEnd === undefined && text.endsWith("\r")) {
      held = "\r";
      text = text.slice(0, -1);
    }
    let start = 0;
    for (
      let end = findLineEnd(text, lineEnd, 0);
      end >= 0;
      end = findLineEnd(text, lineEnd, start)
    ) {
      yield [...begun, text.slice(start, end + 1)].join("");
      begun = [];
      length = 0;
      start = end + 1;
    }
    begun.push(text.slice(start));
    length += text.length - start;
    if (length > maxLineLength) {
      throw new StoreError(
        "refused",
        `a line of the file has more than ${maxLineLength} characters`,
      );
    }
    onRead(read);
  }
  const last = [...begun, held, decode()].join("");
  if (last !== "") yield last;
}

/**
 * Returns the line end: CR if the first line ends with CR without LF, as in old spreadsheets'
 * files, else LF. Returns undefined if the text contains no complete line end yet.
 */
function detectLineEnd(text: string): string | undefined {
  return /\r(?!\n)(?=[\s\S])|\n/.exec(text)?.[0];
}

function findLineEnd(text: string, lineEnd: string | undefined, from: number): number {
  return lineEnd === undefined ? -1 : text.indexOf(lineEnd, from);
}
