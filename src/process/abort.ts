/** Cancellation of work by an AbortSignal. */
import { StoreError } from "../errors.js";

/** Returns the signal's reason if it is a StoreError, else a StoreError of kind `interrupted`. */
export function abortReason({ reason }: AbortSignal): StoreError {
  return reason instanceof StoreError ? reason : new StoreError("interrupted", "interrupted");
}

/** Throws if the signal is aborted. */
export function throwIfAborted(signal: AbortSignal | undefined): void {
  if (signal?.aborted) throw abortReason(signal);
}

/**
 * Waits for `work`, but rejects as soon as the signal is aborted. Does not stop the work: it
 * ends by itself or with its process.
 */
export function orAbort<T>(work: Promise<T>, signal: AbortSignal | undefined): Promise<T> {
  if (!signal) return work;
  return new Promise((resolve, reject) => {
    const interrupt = () => reject(abortReason(signal));
    if (signal.aborted) interrupt();
    signal.addEventListener("abort", interrupt, { once: true });
    work.then(resolve, reject).finally(() => signal.removeEventListener("abort", interrupt));
  });
}
