import { constants } from "node:os";
import { getSystemErrorMap } from "node:util";

/**
 * Exit codes of the command, a contract with scripts. Once `run` has started the hub, it exits with
 * the hub's code instead.
 *
 * @example
 * ```ts
 * process.exitCode = exitCodes[error.kind];
 * ```
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
 * An error a user can act on: `message` names what is wrong and where, `hint` what to do next.
 *
 * Neither ever contains a secret. Any other exception is a defect of this project.
 *
 * @example
 * ```ts
 * if (error instanceof StoreError && error.kind === "notFound") console.error(error.message);
 * ```
 */
export class StoreError extends Error {
  /**
   * Recognises errors by a mark instead of their prototype: the command bundles its own copy of
   * this class, but a database plugin throws the library's.
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

/** Returns whether `error` is a `StoreError` of one of these kinds. */
export function isKind(error: unknown, ...kinds: ErrorKind[]): error is StoreError {
  return error instanceof StoreError && kinds.includes(error.kind);
}

/**
 * Returns a handler for `catch` that returns `fallback` for an error of this kind, and rethrows
 * any other error.
 */
export function ignoreKind<Fallback>(
  kind: ErrorKind,
  fallback: Fallback,
): (error: unknown) => Fallback {
  return (error) => {
    if (isKind(error, kind)) return fallback;
    throw error;
  };
}

/**
 * Returns an error of the same kind with another message or hint. The original error becomes its
 * cause.
 *
 * A function instead of a method: an error that a plugin created with an older copy of the library
 * would lack the method.
 */
export function wrap(
  error: StoreError,
  { message = error.message, hint = error.hint }: { message?: string; hint?: string | undefined },
): StoreError {
  return new StoreError(error.kind, message, { hint, cause: error });
}

/** `strerror`'s texts for the codes that libuv words differently: users search for these. */
const systemMessages: Record<string, string> = {
  EBUSY: "device or resource busy",
  EEXIST: "file exists",
  EIO: "input/output error",
  EISDIR: "is a directory",
  ELOOP: "too many levels of symbolic links",
  ETXTBSY: "text file busy",
  EXDEV: "invalid cross-device link",
};

/** libuv has no name for this error: its `code` is "Unknown system error -122". */
const quotaExceeded = -constants.errno.EDQUOT;

/** Returns the system's text for the error's code, or the error as text if it has no code. */
function systemMessage(error: unknown): string {
  const { code, errno } = (error ?? {}) as NodeJS.ErrnoException;
  if (code === undefined) return String(error);
  if (errno === quotaExceeded) return "disk quota exceeded";
  const known = [...getSystemErrorMap().values()].find(([name]) => name === code);
  return systemMessages[code] ?? known?.[1] ?? code;
}

/**
 * Converts an operating-system error to a `StoreError`. Its message contains the failed action and
 * the path. Returns a `StoreError` unchanged.
 *
 * @param doing - the failed action with the path: `cannot read /path`
 */
export function systemError(error: unknown, doing: string, kind: ErrorKind = "io"): StoreError {
  if (error instanceof StoreError) return error;
  return new StoreError(kind, `${doing}: ${systemMessage(error)}`, { cause: error });
}

/** Returns the message of anything that was thrown. */
export function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}

/** Appends a line to a hint. Returns only the line if there is no hint. */
export function withLine(hint: string | undefined, line: string): string {
  return hint ? `${hint}\n${line}` : line;
}

/** Returns the error with another line in its hint. */
export function addHint(error: StoreError, line: string): StoreError {
  return wrap(error, { hint: withLine(error.hint, line) });
}

/** Returns whether `error` is an operating-system error with one of these codes. */
export function hasCode(error: unknown, ...codes: string[]): boolean {
  return codes.includes((error as NodeJS.ErrnoException)?.code ?? "");
}
