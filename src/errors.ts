/**
 * Exit codes of the command, a contract with scripts. `run` is the exception: it exits with the hub's code.
 */
export const exitCodes = {
  failed: 1,
  usage: 2,
  notFound: 10,
  inUse: 11,
  wrongPassphrase: 12,
  passphraseUnavailable: 13,
  corrupted: 14,
  service: 15,
  newerVersion: 16,
  refused: 17,
  io: 18,
  interrupted: 130,
} as const;

export type ErrorKind = keyof typeof exitCodes;

const storeErrorMark = Symbol.for("hivemind-sqlcipher StoreError");

/**
 * An error a user can act on: what is wrong and where (`message`), and what to type next (`hint`).
 * Neither ever holds a secret. Anything thrown that is not a `StoreError` is a defect of this project.
 */
export class StoreError extends Error {
  /**
   * The command and the library are built apart: an error that a database plugin got from the library is one of these in
   * the command as well.
   */
  static override [Symbol.hasInstance](value: unknown): boolean {
    return typeof value === "object" && value !== null && storeErrorMark in value;
  }

  override readonly name = "StoreError";
  readonly kind: ErrorKind;
  readonly hint: string | undefined;

  constructor(
    kind: ErrorKind,
    message: string,
    options: { hint?: string | undefined; cause?: unknown } = {},
  ) {
    super(message, options.cause === undefined ? undefined : { cause: options.cause });
    this.kind = kind;
    this.hint = options.hint;
  }

  get [storeErrorMark](): true {
    return true;
  }

  get exitCode(): number {
    return exitCodes[this.kind];
  }
}

/** Words for the system errors that users meet; any other is named by its code. */
const systemErrorWords: Record<string, string> = {
  EACCES: "permission denied",
  EPERM: "operation not permitted",
  ENOSPC: "no space left on the device",
  EDQUOT: "the disk quota is used up",
  EROFS: "the file system is read-only",
  EIO: "input/output error",
  ENOENT: "no such file or folder",
  ENOTDIR: "a part of the path is not a folder",
  EISDIR: "it is a folder",
  EEXIST: "it exists already",
  ELOOP: "it is a symbolic link",
  EMFILE: "too many open files",
  ETXTBSY: "the file is being executed",
};

/**
 * Turns an error of the operating system into a `StoreError` of kind `io` (or `kind`), saying what was being
 * done to which path. A `StoreError` passes through as it is.
 */
export function systemError(error: unknown, doing: string, kind: ErrorKind = "io"): StoreError {
  if (error instanceof StoreError) return error;
  const code = (error as NodeJS.ErrnoException)?.code;
  const words = code === undefined ? undefined : (systemErrorWords[code] ?? code);
  return new StoreError(kind, `${doing}: ${words ?? String(error)}`, { cause: error });
}

/** A hint with one more line; that line alone if there is no hint yet. */
export function withLine(hint: string | undefined, line: string): string {
  return hint ? `${hint}\n${line}` : line;
}

/** Whether `error` is an operating-system error with one of these codes. */
export function hasCode(error: unknown, ...codes: string[]): boolean {
  return codes.includes((error as NodeJS.ErrnoException)?.code ?? "");
}
