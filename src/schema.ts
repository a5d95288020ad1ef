/**
 * zod's small build with English messages, for the shapes of all external data.
 *
 * zod's full build takes five times as long to load, and every command loads this module.
 */
import { config } from "zod/mini";
import english from "zod/v4/locales/en.js";

// The configuration is that of the whole process: a program that uses zod keeps its language.
if (config().localeError === undefined) config(english());

export * from "zod/mini";

/** Parses JSON. Returns undefined, which no object's schema accepts, for any other text. */
export function parseJson(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}
