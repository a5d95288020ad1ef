/** The documents of the commands for clients and databases. */
import type { Migration } from "../../../migrate/copy-database.js";
import * as z from "../../../schema.js";
import {
  choice,
  counts,
  type Documents,
  documentOf,
  errorSchema,
  flag,
  integer,
  integers,
  list,
  object,
  only,
  text,
  textOrNull,
  texts,
} from "./parts.js";

const client = object({
  client_id: integer("The client's number"),
  api_key: z.optional(text("Its access key, if secrets are shown; `revoked` if it is revoked")),
  name: textOrNull("Its name"),
  description: textOrNull("Its description"),
  is_admin: flag("Whether it is an administrator"),
  last_seen: z.number().check(z.describe("Unix time in seconds; -1 for never")),
  allowed_types: texts("The message types that it may send"),
  crypto_key: z.optional(textOrNull("Its crypto key, if secrets are shown")),
  password: z.optional(textOrNull("Its password, if secrets are shown")),
  can_broadcast: flag("Whether it may send BROADCAST"),
  can_escalate: flag("Whether it may send ESCALATE"),
  can_propagate: flag("Whether it may send PROPAGATE"),
  metadata: z
    .record(z.string(), z.unknown())
    .check(z.describe("Its other fields, such as the blacklists; unchanged")),
});

const clientList = object({
  clients: z.array(client),
  error: z
    .optional(errorSchema)
    .check(z.describe("Why the list is incomplete; absent if it is complete")),
});

const changedClient = object({
  client,
  changed: z
    .record(z.string(), object({ before: z.unknown(), after: z.unknown() }))
    .check(z.describe("The changed fields by name, before and after; empty without a change")),
});

const revokedClient = object({
  client: object({
    client_id: integer("The client's number"),
    revoked: flag("True"),
    already: flag("Whether it was revoked before"),
  }),
});

const exportedToFile = object({
  export: object({
    path: text("The new file"),
    format: choice(["csv", "json"], "Its format"),
    clients: integer("The number of clients in it"),
    secrets: flag("Whether it has access keys, passwords and crypto keys"),
  }),
});

const imported = object({
  import: object({
    path: textOrNull("The file; null for standard input"),
    format: choice(["csv", "json"], "The format of the file"),
    dry_run: flag("Whether nothing was imported because of `--dry-run`"),
    added: integer("New clients"),
    updated: integer("Clients that were changed"),
    revoked: integer("Clients that were revoked"),
    unchanged: integer("Rows without a change"),
    filled: integer("Revoked rows for missing ids"),
    default_permissions: integer("New clients with default permissions"),
    empty_lists: integer("New clients with an empty list of message types"),
    widened: list({
      client_id: integer("A client that can do more than before"),
      name: textOrNull("Its name"),
      fields: texts("The fields that extend its permissions"),
    }),
    refused_rows: integer("Rows that were refused; nothing is imported if there is one"),
    refused: list({
      where: text("The line or record of a refused row; at most 1000 are listed"),
      why: text("Why it was refused"),
    }),
  }),
});

const sqlRows = {
  columns: texts("The names of the columns"),
  rows: z
    .array(z.array(z.union([z.string(), z.number(), z.null()])))
    .check(z.describe("The rows; a BLOB is the text `X'…'`")),
};

const migrated = documentOf<{
  migrated: Migration & { switched: string | null; removed: string[] };
}>()({
  migrated: object({
    from: object({ name: text("The plugin"), place: text("Its path or URL") }),
    to: object({ name: text("The plugin"), place: text("Its path or URL") }),
    clients: counts,
    copied: integer("Clients that were written"),
    unchanged: integer("Clients that the target had already"),
    filled_gaps: integer("Revoked rows for missing ids"),
    kept_revoked: integers("Clients that stay revoked in the target"),
    resumed: flag("Whether an interrupted migration was continued"),
    dry_run: flag("Whether nothing was copied because of `--dry-run`"),
    verified: flag("Whether every record was read back and compared"),
    switched: textOrNull("The server.json that names the target now; null without one"),
    removed: texts("The files of the source that were removed"),
  }),
});

const plugins = object({
  plugins: list({
    name: text("The name for `--from`, `--to` and `--into`"),
    package: text("The npm package"),
    version: text("Its version"),
    folder: textOrNull("Its directory; null for the plugins of this package"),
    problem: textOrNull("Why it cannot be used; null if no problem is known"),
  }),
});

const shown = only(object({ client }));
const clients = only(clientList);
const edited = only(changedClient);
const actions = ["escalate", "propagate", "broadcast", "msg", "skill", "intent"];

/** Commands with the same document share it, so that the reference has one section for them. */
export const clientDocuments: Documents = {
  "add-client": shown,
  "list-clients": clients,
  "show-client": shown,
  "find-client": clients,
  "delete-client": only(revokedClient),
  "rename-client": edited,
  "make-admin": edited,
  "revoke-admin": edited,
  ...Object.fromEntries(
    actions.flatMap((action) => [
      [`allow-${action}`, edited],
      [`blacklist-${action}`, edited],
    ]),
  ),
  "export-clients": [
    { when: "To standard output", schema: clientList },
    { when: "To a file", schema: exportedToFile },
  ],
  "import-clients": only(imported),
  sql: [
    { schema: object(sqlRows) },
    {
      when: "With `--write`, for statements that change something",
      schema: object({
        ...sqlRows,
        changed: integer("The number of changed rows"),
        clients: object({ before: counts, after: counts }),
      }),
    },
  ],
  migrate: only(migrated),
  plugins: only(plugins),
};
