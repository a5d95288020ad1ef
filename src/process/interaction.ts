/**
 * The user's side of the running operation, for calls too deep to be passed a signal and a reporter:
 * a keyring may show a dialog at any read.
 */
import { AsyncLocalStorage } from "node:async_hooks";

export interface Interaction {
  /** Ends a wait for the user. */
  readonly signal?: AbortSignal | undefined;
  /** Reports what the operation waits for. */
  readonly notice?: ((text: string) => void) | undefined;
  /** Asks a yes-or-no question; throws if the answer is no. Without it, nothing is asked. */
  readonly confirm?: ((question: string) => Promise<void>) | undefined;
}

const storage = new AsyncLocalStorage<Interaction>();

/** Runs `work` with an interaction, whose members replace those of the surrounding one. */
export function withInteraction<Result>(interaction: Interaction, work: () => Result): Result {
  return storage.run({ ...storage.getStore(), ...interaction }, work);
}

/** Returns the interaction of the running operation; empty outside of any. */
export function currentInteraction(): Interaction {
  return storage.getStore() ?? {};
}
