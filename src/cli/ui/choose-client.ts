/** Which client a command is about: the id that was given, or on a terminal the one chosen from a list. */
import { setImmediate } from "node:timers/promises";
import { StoreError } from "../../errors.js";
import type { ClientStore } from "../../store/client-store.js";
import type { Match } from "../../store/matching.js";
import { escapeControlCharacters } from "../../text/escape.js";
import type { Context } from "../context.js";
import { onTerminal } from "./prompt.js";

/** Clients that the list offers at once; typing narrows it. */
const offered = 50;

/** For the help of commands that take one client's id. */
export const idNote =
  "\nOn a terminal the id may be left out: the client is then chosen from a list.";

/** An id as it was typed. @throws StoreError `usage` if it is no whole number. */
export function parseId(text: string): number {
  const id = Number(text);
  if (!/^-?\d+$/.test(text) || !Number.isSafeInteger(id)) {
    throw new StoreError("usage", `"${text}" is not a client's id`, {
      hint: "An id is a whole number; hivemind-sqlcipher list-clients shows them.",
    });
  }
  return id;
}

/**
 * Reads the id before the store is opened, so that a wrong one costs no passphrase.
 *
 * @throws StoreError `usage` if it is no id, or if it was left out where nobody can choose.
 */
export function parseOptionalId(text: string | undefined): number | undefined {
  if (text !== undefined) return parseId(text);
  if (onTerminal()) return undefined;
  throw new StoreError("usage", "which client? Its id is missing", {
    hint: "On a terminal the client can be chosen from a list; here its id must be given.",
  });
}

/**
 * The id, chosen from a list that one can type into if none was given.
 *
 * @throws StoreError `interrupted` if nothing was chosen; `notFound` if there is no client to choose from.
 */
export async function chooseClient(
  context: Context,
  store: ClientStore,
  id: number | undefined,
): Promise<number> {
  if (id !== undefined) return id;
  const { matchingClients } = await import("../../store/matching.js");
  if ((await matchingClients(store, "", 1)).length === 0) {
    throw new StoreError("notFound", `there are no clients in ${context.storePath}`);
  }
  const { default: search } = await import("@inquirer/search");
  let matches: Promise<Match[]> = Promise.resolve([]);
  try {
    const chosen = await search(
      {
        message: "Which client?",
        pageSize: 10,
        source: async (text) => {
          matches = matchingClients(store, text ?? "", offered);
          return (await matches).map(({ id, name }) => ({
            name: `${id}  ${escapeControlCharacters(name)}`,
            value: id,
          }));
        },
        // Enter right behind a letter meets the list of before: what is chosen must be in the one of now.
        validate: async (id) => {
          await setImmediate();
          return (
            (await matches).some((match) => match.id === id) || "The list has changed; look again."
          );
        },
      },
      // Standard output is for the result alone.
      { output: process.stderr },
    );
    return parseId(chosen);
  } catch (error) {
    if (error instanceof Error && error.name === "ExitPromptError") {
      throw new StoreError("interrupted", "no client was chosen; nothing was changed");
    }
    throw error;
  }
}

/** No client has this id. */
export function noClient(context: Context, id: number): StoreError {
  return new StoreError("notFound", `there is no client ${id} in ${context.storePath}`, {
    hint: "hivemind-sqlcipher list-clients shows the ids.",
  });
}
