/** What the parent, the copier process and its threads send to each other. */
import { type ErrorKind, StoreError } from "../errors.js";
import { StoreKey } from "../store/cipher.js";

export type CopierRequest =
  | {
      do: "copy";
      store: string;
      staged: string;
      /** Re-encrypts the pages into an existing file. Without it, a new file gets the pages. */
      keys?: PlainKeys | undefined;
    }
  | { do: "catchUp" }
  | { do: "sync" }
  | { do: "cut" }
  | { do: "finish" };

export interface CopyProgress {
  /** Bytes written to the copy by this step. */
  written: number;
  /** Pages taken from the log by this step; 0 if nothing was committed since the last. */
  pages: number;
  /** Whether the log cannot update the copy, so that the whole file must be copied again. */
  lost: boolean;
  /** Whether the log was restarted since the last step. */
  restarted: boolean;
}

export interface FinishedCopy {
  size: number;
  sha256: string;
}

/** An error with the fields that reach the other side. */
export interface CopierFailure {
  code: string | undefined;
  message: string;
  kind: ErrorKind | undefined;
  hint: string | undefined;
}

export type CopierReply =
  | { ok: true; result: CopyProgress | FinishedCopy }
  | { ok: false; error: CopierFailure };

export function failureOf(error: unknown): CopierFailure {
  const { code, message } = error as NodeJS.ErrnoException;
  const { kind, hint } = error instanceof StoreError ? error : {};
  return { code, message, kind, hint };
}

/** Returns the error that the other side had. */
export function errorFrom({ code, message, kind, hint }: CopierFailure): Error {
  if (kind) return new StoreError(kind, message, { hint });
  return Object.assign(new Error(message), { code });
}

interface PlainKey {
  readonly salt: Uint8Array;
  readonly key: Uint8Array;
  readonly cipherCompatibility: StoreKey["cipherCompatibility"];
}

/** The keys of a re-encryption. They travel through a pipe between the processes. */
export interface PlainKeys {
  readonly from: PlainKey;
  readonly to: PlainKey;
}

export function plainKeys(from: StoreKey, to: StoreKey): PlainKeys {
  return { from: plain(from), to: plain(to) };
}

export function storeKeys({ from, to }: PlainKeys): { from: StoreKey; to: StoreKey } {
  return { from: storeKey(from), to: storeKey(to) };
}

function plain({ salt, key, cipherCompatibility }: StoreKey): PlainKey {
  return { salt, key, cipherCompatibility };
}

function storeKey({ salt, key, cipherCompatibility }: PlainKey): StoreKey {
  return new StoreKey(Buffer.from(salt), Buffer.from(key), cipherCompatibility);
}
