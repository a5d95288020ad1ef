/**
 * The JSON documents of the commands, for the reference and for the tests, which validate what
 * every command prints. No command loads this module.
 */
import { backupDocuments } from "./documents/backups.js";
import { clientDocuments } from "./documents/clients.js";
import {
  choice,
  type Documents,
  errorSchema,
  object,
  only,
  text,
  texts,
} from "./documents/parts.js";
import { storeDocuments } from "./documents/store.js";

/** The document of every error, with the exit code of its kind. */
export const errorDocument = object({ error: errorSchema });

const messages = texts("What was recovered or undone");

export const documents: Documents = {
  ...storeDocuments,
  ...clientDocuments,
  ...backupDocuments,
  settle: only(object({ settled: messages })),
  completion: only(
    object({
      shell: choice(["bash", "zsh", "fish"], "The shell"),
      script: text("The completion script"),
    }),
  ),
};
