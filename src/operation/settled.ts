/** How settling an interrupted operation has ended. */
import { StoreError, systemError, withLine } from "../errors.js";
import type { Journal } from "./journal.js";

/** The store, its service and its passphrase are right again. */
export interface Settled {
  /** What was done, in sentences. */
  readonly said: readonly string[];
  /**
   * Why files that lie apart from the store, its backups and bundles, could not be tidied up: their disk may be away. The
   * journal stays for it. Who begins an operation has to wait for that; who only opens the store has not.
   */
  readonly untidy?: StoreError | undefined;
}

/**
 * Does the last of the settling, which the store and its service can do without, and removes the journal.
 *
 * @returns why it could not: the journal is there for the next try.
 */
export async function tidyUp(
  journal: Journal,
  work: () => Promise<unknown>,
): Promise<StoreError | undefined> {
  try {
    await work();
    await journal.remove();
    return undefined;
  } catch (error) {
    const { kind, message, hint } = systemError(error, "something could not be removed");
    return new StoreError(
      kind,
      `the store is in order, but an interrupted ${journal.entry.operation} left something that cannot be tidied up now: ${message}`,
      {
        hint: withLine(
          hint,
          `the next command tries again; if that is gone for good, remove ${journal.path}`,
        ),
        cause: error,
      },
    );
  }
}
