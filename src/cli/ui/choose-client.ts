/** Determines a command's client: the given id, or a choice from a list on the terminal. */
import { setImmediate } from "node:timers/promises";
import type { Client } from "../../client/client.js";
import { StoreError } from "../../errors.js";
import type { ClientTable } from "../../store/client-table.js";
import type { Match } from "../../store/matching.js";
import { escapeControlCharacters } from "../../text/escape.js";
import type { Context } from "../context.js";
import { hasTerminal } from "./prompt.js";

/** The maximum number of clients in the list. Typing narrows the list. */
const listedClients = 50;

/** A paragraph for the help of commands with an optional id. */
export const optionalIdNote = "Without an id, a terminal shows a list to choose the client from.";

export function parseId(text: string): number {
  const id = Number(text);
  if (!/^-?\d+$/.test(text) || !Number.isSafeInteger(id)) {
    throw new StoreError("usage", `"${text}" is not a client id, which is a whole number`, {
      hint: "Run hivemind-sqlcipher list-clients to see the ids.",
    });
  }
  return id;
}

/** Parses an optional id before the store is opened, so that a wrong id needs no passphrase. */
export function parseOptionalId(text: string | undefined): number | undefined {
  if (text !== undefined) return parseId(text);
  if (hasTerminal()) return undefined;
  throw new StoreError("usage", "missing client id", {
    hint: "Give the id; only a terminal shows a list to choose from.",
  });
}

/** Returns `id`, or the id of the client chosen on the terminal. */
export async function chooseClient(
  context: Context,
  store: ClientTable,
  id: number | undefined,
): Promise<number> {
  if (id !== undefined) return id;
  const { findMatchingClients } = await import("../../store/matching.js");
  if ((await findMatchingClients(store, "", 1)).length === 0) {
    throw new StoreError("notFound", `no clients in ${context.storePath}`);
  }
  const { default: search } = await import("@inquirer/search");
  let matches: Promise<Match[]> = Promise.resolve([]);
  try {
    const chosen = await search(
      {
        message: "Which client?",
        pageSize: 10,
        source: async (text) => {
          matches = findMatchingClients(store, text ?? "", listedClients);
          return (await matches).map(({ id, name }) => ({
            name: `${id}  ${escapeControlCharacters(name)}`,
            value: id,
          }));
        },
        // Enter right after a letter selects from the list that was shown before the letter.
        validate: async (id) => {
          await setImmediate();
          return (await matches).some((match) => match.id === id) || "The list has just changed.";
        },
      },
      // Standard output is only for the result.
      { output: process.stderr },
    );
    return parseId(chosen);
  } catch (error) {
    if (error instanceof Error && error.name === "ExitPromptError") {
      throw new StoreError("interrupted", "no client chosen; nothing changed");
    }
    throw error;
  }
}

export async function getClient(
  { storePath }: Context,
  store: ClientTable,
  id: number,
): Promise<Client> {
  const client = await store.getClientById(id);
  if (client) return client;
  throw new StoreError("notFound", `no client ${id} in ${storePath}`, {
    hint: "Run hivemind-sqlcipher list-clients to see the ids.",
  });
}
