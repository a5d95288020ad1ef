import { StoreError } from "../errors.js";

/** @throws StoreError `interrupted` once the signal was given, or the StoreError that it was given with. */
export function throwIfInterrupted(signal: AbortSignal): void {
  if (!signal.aborted) return;
  const { reason } = signal;
  throw reason instanceof StoreError ? reason : new StoreError("interrupted", "interrupted");
}
