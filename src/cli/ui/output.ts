/**
 * What the command prints, and where: the result to stdout (with --json exactly one document, also for an error),
 * everything else to stderr.
 */
import { once } from "node:events";
import { StoreError } from "../../errors.js";
import { escapeControlCharacters } from "../../text/escape.js";

export interface OutputOptions {
  json: boolean;
  quiet: boolean;
  verbose: boolean;
  color: boolean;
}

/** A piece of a long result. It waits for a slow reader, so that no more than a piece is kept in memory. */
export async function print(text: string): Promise<void> {
  if (!process.stdout.write(text)) await once(process.stdout, "drain");
}

const styles = { bold: 1, dim: 2, red: 31, green: 32, yellow: 33 } as const;

export class Output {
  readonly json: boolean;
  readonly #options: OutputOptions;

  constructor(options: OutputOptions) {
    this.json = options.json;
    this.#options = options;
  }

  get quiet(): boolean {
    return this.#options.quiet;
  }

  /** The command's answer: the document with --json, the lines for a person otherwise. */
  result(document: unknown, lines: () => string[]): void {
    const text = this.json ? JSON.stringify(document) : lines().map(escapeLines).join("\n");
    if (text !== "") process.stdout.write(`${text}\n`);
  }

  /** A line of a result that is printed as it comes. */
  line(text: string): void {
    process.stdout.write(`${text}\n`);
  }

  /** Something the user should know besides the result; not with --quiet. */
  notice(text: string): void {
    if (!this.#options.quiet) process.stderr.write(`${escapeLines(text)}\n`);
  }

  /** Something the user must see whatever was asked. */
  warning(text: string): void {
    process.stderr.write(
      `${this.style("yellow", "warning:", process.stderr)} ${escapeLines(text)}\n`,
    );
  }

  /** A step of the work, only with --verbose. */
  detail(text: string): void {
    if (this.#options.verbose) {
      process.stderr.write(`${this.style("dim", escapeLines(text), process.stderr)}\n`);
    }
  }

  error(error: StoreError): void {
    const { message, hint } = error;
    if (this.json) {
      process.stdout.write(`${JSON.stringify({ error: errorToJson(error) })}\n`);
      return;
    }
    process.stderr.write(
      `${this.style("red", "error:", process.stderr)} ${escapeControlCharacters(message)}\n`,
    );
    if (hint) {
      for (const line of hint.split("\n"))
        process.stderr.write(`  ${escapeControlCharacters(line)}\n`);
    }
  }

  /** The terminal's width, where stdout is one and knows it. */
  get columns(): number | undefined {
    return (process.stdout.isTTY && process.stdout.columns) || undefined;
  }

  style(
    name: keyof typeof styles,
    text: string,
    stream: NodeJS.WriteStream = process.stdout,
  ): string {
    const plain = !this.#options.color || !stream.isTTY || Boolean(process.env.NO_COLOR);
    return plain ? text : `\x1b[${styles[name]}m${text}\x1b[0m`;
  }
}

const controlSequence = "\x1b";

/** The colours that `style` puts in, and the ends of lines. */
const ownMarks = new RegExp(`(${controlSequence}\\[\\d+m|\\n)`);

/**
 * Text that may quote what others wrote, a bundle, a manifest, a plugin's error: of what moves a terminal's cursor only
 * this program's own colours and line breaks are left.
 */
export function escapeLines(text: string): string {
  return text
    .split(ownMarks)
    .map((piece, index) => (index % 2 === 0 ? escapeControlCharacters(piece) : piece))
    .join("");
}

/** An error as `--json` says it. */
export function errorToJson({ exitCode: code, message, hint }: StoreError) {
  return { code, message, ...(hint && { hint }) };
}

/** Turns whatever was thrown into an error with an exit code; what is not ours is a defect, and said to be. */
export function asStoreError(error: unknown): StoreError {
  if (error instanceof StoreError) return error;
  const message = error instanceof Error ? error.message : String(error);
  // In the words of `bindings`, which looks for what the package's install script compiles.
  if (message.startsWith("Could not locate the bindings file")) {
    return new StoreError("failed", "the native part of @journeyapps/sqlcipher is missing", {
      hint: "npm compiles it if it may: install again with --allow-scripts=@journeyapps/sqlcipher.",
      cause: error,
    });
  }
  return new StoreError("failed", `unexpected: ${message}`, {
    hint: "This is a defect of hivemind-sqlcipher. Run again with --verbose for the place, and report it.",
    cause: error,
  });
}
