/**
 * Prints the result to standard output (with --json exactly one document, also for an error) and
 * everything else to standard error.
 */
import { once } from "node:events";
import { messageOf, StoreError } from "../../errors.js";
import { escapeControlCharacters } from "../../text/escape.js";
import { formatDocument, toJson } from "./json.js";

interface OutputOptions {
  readonly json?: boolean;
  readonly quiet?: boolean;
  readonly verbose?: boolean;
  readonly color?: boolean;
}

/** Prints a part of a long result. Waits for a slow reader, so that memory stays constant. */
export async function print(text: string): Promise<void> {
  if (!process.stdout.write(text)) await once(process.stdout, "drain");
}

/** A notice to print with the result, and a warning to print with an error. */
export interface EndNotice {
  readonly result?: string;
  readonly error: string;
}

/** Shared by every `Output`: the command and the error handler in `main` each have their own. */
const endNotices: EndNotice[] = [];

const styles = { bold: 1, dim: 2, red: 31, green: 32, yellow: 33 } as const;

export class Output {
  readonly json: boolean;
  readonly quiet: boolean;
  readonly #isVerbose: boolean;
  readonly #hasColor: boolean;

  constructor({ json = false, quiet = false, verbose = false, color = true }: OutputOptions) {
    this.json = json;
    this.quiet = quiet;
    this.#isVerbose = verbose;
    this.#hasColor = color;
  }

  /** Keeps a notice until the result or the error is printed. */
  onEnd(notice: EndNotice): void {
    endNotices.push(notice);
  }

  /** Prints the command's result: converted by `toJson` with --json, else the lines. */
  result(result: unknown, lines: () => string[]): void {
    this.document(toJson(result), lines);
  }

  /** Prints a result like `result`, but does not convert it, because it contains client records. */
  document(document: unknown, lines: () => string[]): void {
    for (const { result } of endNotices.splice(0)) if (result) this.notice(result);
    const text = this.json ? formatDocument(document) : lines().map(escapeLines).join("\n");
    if (text !== "") process.stdout.write(`${text}\n`);
  }

  /**
   * Prints a line of a result without the notices of `result`. The caller escapes control
   * characters.
   */
  line(text: string): void {
    process.stdout.write(`${text}\n`);
  }

  notice(text: string): void {
    if (!this.quiet) process.stderr.write(`${escapeLines(text)}\n`);
  }

  /** Prints a warning, even with --quiet. */
  warning(text: string): void {
    process.stderr.write(
      `${this.style("yellow", "warning:", process.stderr)} ${escapeLines(text)}\n`,
    );
  }

  /** Prints a step of the work with --verbose. */
  detail(text: string): void {
    if (this.#isVerbose) {
      process.stderr.write(`${this.style("dim", escapeLines(text), process.stderr)}\n`);
    }
  }

  error(error: StoreError): void {
    for (const notice of endNotices.splice(0)) this.warning(notice.error);
    const { message, hint } = error;
    if (this.json) {
      process.stdout.write(`${formatDocument({ error: errorToJson(error) })}\n`);
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

  /** The terminal's width; undefined if standard output is not a terminal. */
  get columns(): number | undefined {
    return (process.stdout.isTTY && process.stdout.columns) || undefined;
  }

  style(
    name: keyof typeof styles,
    text: string,
    stream: NodeJS.WriteStream = process.stdout,
  ): string {
    const plain = !this.#hasColor || !stream.isTTY || Boolean(process.env.NO_COLOR);
    return plain ? text : `\x1b[${styles[name]}m${text}\x1b[0m`;
  }
}

const controlSequence = "\x1b";

/** Matches the colors of `style` and line breaks. Other styles could hide text. */
const keptSequences = new RegExp(
  `(${controlSequence}\\[(?:0|${Object.values(styles).join("|")})m|\\n)`,
);

/**
 * Escapes control characters, except the colors of this program and line breaks. The text may quote
 * a bundle, a manifest or a plugin's error, which must not move the cursor.
 */
export function escapeLines(text: string): string {
  return text
    .split(keptSequences)
    .map((piece, index) => (index % 2 === 0 ? escapeControlCharacters(piece) : piece))
    .join("");
}

/** Returns an error as `--json` prints it. */
export function errorToJson({ exitCode: code, message, hint }: StoreError) {
  return { code, message, ...(hint && { hint }) };
}

/** Converts any thrown value to an error with an exit code. */
export function toStoreError(error: unknown): StoreError {
  if (error instanceof StoreError) return error;
  const message = messageOf(error);
  // Thrown by the package `bindings`, which searches for the output of the install script.
  if (message.startsWith("Could not locate the bindings file")) {
    return new StoreError("failed", "the native part of @journeyapps/sqlcipher is missing", {
      hint: "Compile it: repeat the installation with npm install --allow-scripts=@journeyapps/sqlcipher and the former arguments.",
      cause: error,
    });
  }
  return new StoreError("failed", `unexpected error: ${message}`, {
    hint: "Run the command again with --verbose, and report this defect of hivemind-sqlcipher with its output.",
    cause: error,
  });
}
