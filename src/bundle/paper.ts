/**
 * A bundle on paper, as numbered lines of base64, each with a check, so that a mistyped line is
 * found while it is typed.
 *
 * The characters of the base64 are called letters here. A line is its number, its letters and a
 * check: the first 3 hexadecimal digits of the SHA-256 of `<number> <letters>`, the number without
 * a leading zero. The last line is `all`, the number of lines before it, and the first 6 digits of
 * the SHA-256 of all letters.
 */
import { base64 } from "@scure/base";
import { armor } from "age-encryption";
import { StoreError } from "../errors.js";
import { sha256Hex } from "../fs/read.js";

/** One mistyped line in 4096 has the right check; the last line's check finds it. */
const lineCheckDigits = 3;
const totalCheckDigits = 6;
const totalWord = "all";

export interface PaperLine {
  /** The number with two digits or more, or the word of the last line. */
  readonly label: string;
  /** In the last line, the number of lines before it. */
  readonly letters: string;
  readonly check: string;
}

export function encodeLetters(bundle: Uint8Array): string {
  return base64.encode(bundle);
}

/** Splits letters into lines to print, with the line of the total check. */
export function splitIntoLines(letters: string, lineLength: number): PaperLine[] {
  const texts = letters.match(new RegExp(`.{1,${lineLength}}`, "g")) ?? [];
  return [
    ...texts.map((text, index) => ({
      label: String(index + 1).padStart(2, "0"),
      letters: text,
      check: computeLineCheck(index + 1, text),
    })),
    { label: totalWord, letters: String(texts.length), check: computeTotalCheck(letters) },
  ];
}

function computeLineCheck(number: number, letters: string): string {
  return sha256Hex(`${number} ${letters}`).slice(0, lineCheckDigits);
}

function computeTotalCheck(letters: string): string {
  return sha256Hex(letters).slice(0, totalCheckDigits);
}

/** Reads the lines in their order. A rejected line can be typed again. */
export class PaperReader {
  readonly #lines: string[] = [];

  get next(): number {
    return this.#lines.length + 1;
  }

  /**
   * Reads a line as it is printed. Blanks between the letters do not matter.
   *
   * @returns whether it is the last line
   * @throws {@link StoreError} usage - with the line's number, if it has a mistake
   */
  accept(line: string): boolean {
    const [label = "", ...rest] = line.trim().split(/\s+/);
    const check = rest.pop()?.toLowerCase();
    const letters = rest.join("");
    if (check === undefined || letters === "") {
      throw typingError(`line ${this.next} needs its number, its letters and its check`);
    }
    if (label.toLowerCase() === totalWord) {
      this.#checkTotal(letters, check);
      return true;
    }
    if (Number(label) !== this.next) {
      // Quote nothing else of the line: a file with a secret may have been named by mistake.
      const found = /^\d{1,3}$/.test(label) ? `line ${Number(label)}` : "a line without its number";
      throw typingError(`line ${this.next} is expected, but ${found} was typed`);
    }
    if (check !== computeLineCheck(this.next, letters)) {
      throw typingError(
        `line ${this.next} has a typing mistake: its letters do not match its check`,
      );
    }
    this.#lines.push(letters);
    return false;
  }

  #checkTotal(count: string, check: string): void {
    if (Number(count) !== this.#lines.length) {
      throw typingError(
        `line ${this.next} is missing, or the last line has a typing mistake: it does not say ${this.#lines.length}`,
      );
    }
    if (check !== computeTotalCheck(this.#lines.join(""))) {
      throw typingError(
        "the last line has a typing mistake, or an earlier line has one that its own check did not find",
      );
    }
  }

  /**
   * Returns the bundle with armor, as its file contains it.
   *
   * @throws {@link StoreError} usage - if the letters are not base64
   */
  decodeBundle(): string {
    try {
      return armor.encode(base64.decode(this.#lines.join("")));
    } catch (error) {
      throw new StoreError("usage", "the typed lines are not valid base64", { cause: error });
    }
  }
}

/**
 * Reads all lines of a text.
 *
 * @returns the bundle with armor, as its file contains it
 * @throws {@link StoreError} usage - for the first line with a mistake, or a missing line
 */
export function readPaper(text: string): string {
  if (text.trim() === "") throw typingError("the text with the lines is empty");
  const reader = new PaperReader();
  for (const line of text.split("\n")) {
    if (line.trim() !== "" && reader.accept(line)) return reader.decodeBundle();
  }
  throw typingError(
    `line ${reader.next} is missing, or the last line, which begins with "${totalWord}"`,
  );
}

function typingError(message: string): StoreError {
  return new StoreError("usage", message, {
    hint: "Type each line as it is printed: number, letters and check. Capitals and small letters differ.",
  });
}
