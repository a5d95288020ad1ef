/** How settling an interrupted operation has ended. */
import { StoreError, systemError, withLine } from "../errors.js";
import { shellQuote } from "../text/escape.js";
import { downStep, type Journal } from "./journal.js";

/** The store and its passphrase are right again, and so is its service, but for what is said here. */
export interface Recovery {
  /** What was done, in sentences. */
  readonly messages: readonly string[];
  /**
   * Why files that lie apart from the store, its backups and bundles, could not be tidied up: their disk may be away. The
   * journal stays for it. Who begins an operation has to wait for that; who only opens the store has not.
   */
  readonly cleanupPending?: StoreError | undefined;
  /**
   * Why the service that was stopped does not run. The journal stays, and each command tries to start it again. Who only
   * opens the store need not wait for that, and may have come to find out what is wrong.
   */
  readonly serviceDown?: StoreError | undefined;
}

/** What is said of a service that could not be started after an interrupted operation. */
export function serviceDownError({ entry, path }: Journal, error: unknown): StoreError {
  const { message, hint } = systemError(error, "the service could not be started", "service");
  const meanwhile =
    "once it runs, the next command settles this; commands that only open the store go on meanwhile";
  const words =
    entry.step === downStep
      ? [
          `${meanwhile}, and so does restore`,
          "if it is not to run any more:",
          `rm ${shellQuote(path)}`,
        ]
      : [
          meanwhile,
          "to restore a backup before that, or if it is not to run any more (what may be left over is named there, and to start it is up to you then):",
          `mv ${shellQuote(path)} ${shellQuote(`${path}.left`)}`,
        ];
  return new StoreError("service", `after an interrupted ${entry.operation}: ${message}`, {
    hint: [...(hint === undefined ? [] : [hint]), ...words].join("\n"),
    cause: error,
  });
}

/**
 * Does the last of the settling, which the store and its service can do without, and removes the journal, or leaves
 * nothing in it but a service that is down.
 *
 * @returns why it could not: the journal is there for the next try.
 */
export async function cleanUp(
  journal: Journal,
  work: () => Promise<unknown>,
  options: { isDown?: boolean } = {},
): Promise<StoreError | undefined> {
  try {
    await work();
    if (options.isDown) await journal.write(downStep, { stopped: journal.entry.data.stopped });
    else await journal.remove();
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
