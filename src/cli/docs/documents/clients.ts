/** The documents of the commands for clients and databases. */
import type { Widened as WidenedByImport } from "../../../exchange/import.js";
import type { Migration } from "../../../migrate/migrate.js";
import * as z from "../../../schema.js";
import {
  choice,
  counts,
  documentOf,
  errorSchema,
  flag,
  integer,
  integers,
  text,
  texts,
} from "./parts.js";

export const client = z.strictObject({
  client_id: integer("The client's number"),
  api_key: z.optional(text("Its access key, if secrets are shown; `revoked` if it is revoked")),
  name: z.nullable(text("Its name")),
  description: z.nullable(text("Its description")),
  is_admin: flag("Whether it is an administrator"),
  last_seen: z.number().check(z.describe("Unix time in seconds; -1 for never")),
  allowed_types: texts("The message types that it may send"),
  crypto_key: z.optional(z.nullable(text("Its crypto key, if secrets are shown"))),
  password: z.optional(z.nullable(text("Its password, if secrets are shown"))),
  can_broadcast: flag("Whether it may send BROADCAST"),
  can_escalate: flag("Whether it may send ESCALATE"),
  can_propagate: flag("Whether it may send PROPAGATE"),
  metadata: z
    .record(z.string(), z.unknown())
    .check(z.describe("Its other fields, such as the blacklists; unchanged")),
});

export const clientList = z.strictObject({
  clients: z.array(client),
  error: z
    .optional(errorSchema)
    .check(z.describe("Why the list is incomplete; absent if it is complete")),
});

export const changedClient = z.strictObject({
  client,
  changed: z
    .record(z.string(), z.strictObject({ before: z.unknown(), after: z.unknown() }))
    .check(z.describe("The changed fields by name, before and after; empty without a change")),
});

export const imported = z.strictObject({
  import: z.strictObject({
    path: z.nullable(text("The file; null for standard input")),
    format: choice(["csv", "json"], "The format of the file"),
    dry_run: flag("Whether nothing was imported because of `--dry-run`"),
    added: integer("New clients"),
    updated: integer("Clients that were changed"),
    revoked: integer("Clients that were revoked"),
    unchanged: integer("Rows without a change"),
    filled: integer("Revoked rows for missing ids"),
    default_permissions: integer("New clients with default permissions"),
    empty_lists: integer("New clients with an empty list of message types"),
    widened: documentOf<readonly WidenedByImport[]>()(
      z.array(
        z.strictObject({
          client_id: integer("A client that can do more than before"),
          name: z.nullable(text("Its name")),
          fields: texts("The fields that extend its permissions"),
        }),
      ),
    ),
    refused_rows: integer("Rows that were refused; nothing is imported if there is one"),
    refused: z.array(
      z.strictObject({
        where: text("The line or record of a refused row; at most 1000 are listed"),
        why: text("Why it was refused"),
      }),
    ),
  }),
});

export const sqlRows = {
  columns: texts("The names of the columns"),
  rows: z
    .array(z.array(z.union([z.string(), z.number(), z.null()])))
    .check(z.describe("The rows; a BLOB is the text `X'…'`")),
};

export const migrated = documentOf<{
  migrated: Migration & { switched: string | null; removed: string[] };
}>()(
  z.strictObject({
    migrated: z.strictObject({
      from: z.strictObject({ name: text("The plugin"), place: text("Its path or URL") }),
      to: z.strictObject({ name: text("The plugin"), place: text("Its path or URL") }),
      clients: counts,
      copied: integer("Clients that were written"),
      unchanged: integer("Clients that the target had already"),
      filled_gaps: integer("Revoked rows for missing ids"),
      kept_revoked: integers("Clients that stay revoked in the target"),
      resumed: flag("Whether an interrupted migration was continued"),
      dry_run: flag("Whether nothing was copied because of `--dry-run`"),
      verified: flag("Whether every record was read back and compared"),
      switched: z.nullable(text("The server.json that names the target now; null without one")),
      removed: texts("The files of the source that were removed"),
    }),
  }),
);

export const plugins = z.strictObject({
  plugins: z.array(
    z.strictObject({
      name: text("The name for `--from`, `--to` and `--into`"),
      package: text("The npm package"),
      version: text("Its version"),
      folder: z.nullable(text("Its directory; null for the plugins of this package")),
      problem: z.nullable(text("Why it cannot be used; null if no problem is known")),
    }),
  ),
});
