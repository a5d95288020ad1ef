/** The messages between the parent, the copier process and its threads. */
import { type ErrorKind, StoreError } from "../errors.js";
import { StoreKey } from "../store/cipher.js";

export type CopierRequest =
  | {
      do: "copy";
      store: string;
      staged: string;
      /** Re-encrypts the pages into an existing file. If absent, copies them to a new file. */
      keys?: PlainKeys | undefined;
    }
  | { do: "catchUp" }
  | { do: "sync" }
  | { do: "truncate" }
  | { do: "finish" };

export interface CopyProgress {
  /** Bytes written to the copy by this step. */
  written: number;
  /** Pages copied from the log by this step; 0 if nothing was committed since the last step. */
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

/** The fields of an error for the other process or thread. */
export interface CopierFailure {
  code: string | undefined;
  message: string;
  kind: ErrorKind | undefined;
  hint: string | undefined;
}

export type CopierReply =
  | { ok: true; result: CopyProgress | FinishedCopy }
  | { ok: false; error: CopierFailure };

export function toFailure(error: unknown): CopierFailure {
  const { code, message } = error as NodeJS.ErrnoException;
  const { kind, hint } = error instanceof StoreError ? error : {};
  return { code, message, kind, hint };
}

export function toError({ code, message, kind, hint }: CopierFailure): Error {
  if (kind) return new StoreError(kind, message, { hint });
  return Object.assign(new Error(message), { code });
}

interface PlainKey {
  readonly salt: Uint8Array;
  readonly key: Uint8Array;
  readonly cipherCompatibility: StoreKey["cipherCompatibility"];
}

/** The keys of a re-encryption, as bytes. They are sent only through a pipe and to threads. */
export interface PlainKeys {
  readonly from: PlainKey;
  readonly to: PlainKey;
}

export function toPlainKeys(from: StoreKey, to: StoreKey): PlainKeys {
  return { from: toPlainKey(from), to: toPlainKey(to) };
}

export function toStoreKeys({ from, to }: PlainKeys): { from: StoreKey; to: StoreKey } {
  return { from: toStoreKey(from), to: toStoreKey(to) };
}

function toPlainKey({ salt, key, cipherCompatibility }: StoreKey): PlainKey {
  return { salt, key, cipherCompatibility };
}

function toStoreKey({ salt, key, cipherCompatibility }: PlainKey): StoreKey {
  return new StoreKey(Buffer.from(salt), Buffer.from(key), cipherCompatibility);
}
