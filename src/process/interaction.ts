/**
 * The running operation's connection to its user, for functions that do not get a signal and a
 * reporter as arguments. A keyring, for example, may show a dialog at any read.
 */
import { AsyncLocalStorage } from "node:async_hooks";

export interface Interaction {
  /** Aborts the operation, and with it a wait for the user. */
  readonly signal?: AbortSignal | undefined;
  /** Reports that the operation waits for the user. */
  readonly notice?: ((text: string) => void) | undefined;
  /** Asks a yes-or-no question; throws if the answer is no. Undefined if nothing may be asked. */
  readonly confirm?: ((question: string) => Promise<void>) | undefined;
}

const storage = new AsyncLocalStorage<Interaction>();

/** Runs `work` with an interaction. Its members replace those of the surrounding interaction. */
export function withInteraction<Result>(interaction: Interaction, work: () => Result): Result {
  return storage.run({ ...storage.getStore(), ...interaction }, work);
}

/** Runs work that `signal` aborts, too, where it waits for the user. */
export function withSignal<Result>(signal: AbortSignal | undefined, work: () => Result): Result {
  return signal === undefined ? work() : withInteraction({ signal }, work);
}

/**
 * Runs work that an interruption must not stop: the recovery of an operation, and the work after
 * its commit. With an aborted signal, it could not read the keyring.
 */
export function withoutSignal<Result>(work: () => Result): Result {
  return withInteraction({ signal: undefined }, work);
}

/** Returns the interaction of the running operation, or an empty interaction outside of it. */
export function currentInteraction(): Interaction {
  return storage.getStore() ?? {};
}
