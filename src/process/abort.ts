/** Ctrl-C and its like, as they come to the work: through an AbortSignal. */
import { StoreError } from "../errors.js";

/** What to throw once the signal was given: the StoreError that it was given with, or one of kind `interrupted`. */
export function abortReason({ reason }: AbortSignal): StoreError {
  return reason instanceof StoreError ? reason : new StoreError("interrupted", "interrupted");
}

/** @throws StoreError `interrupted` once the signal was given, or the StoreError that it was given with. */
export function throwIfAborted(signal: AbortSignal | undefined): void {
  if (signal?.aborted) throw abortReason(signal);
}

/** Rejects as soon as the signal does; what was under way then ends by itself, or with what it belongs to. */
export function orAbort<T>(work: Promise<T>, signal: AbortSignal | undefined): Promise<T> {
  if (!signal) return work;
  return new Promise((resolve, reject) => {
    const interrupt = () => reject(abortReason(signal));
    if (signal.aborted) interrupt();
    signal.addEventListener("abort", interrupt, { once: true });
    work.then(resolve, reject).finally(() => signal.removeEventListener("abort", interrupt));
  });
}
