/**
 * The JSON documents of the commands, for the reference and for the tests, which validate what
 * every command prints. No command loads this module.
 */
import * as z from "../../schema.js";
import {
  backedUp,
  bundleExported,
  bundleImported,
  bundleShown,
  drilled,
  exported,
  fleetListed,
  fleetStatus,
  fleetVerified,
  listed,
  pruned,
  restored,
  restoredInto,
  verified,
} from "./documents/backups.js";
import {
  changedClient,
  client,
  clientList,
  imported,
  migrated,
  plugins,
  sqlRows,
} from "./documents/clients.js";
import {
  choice,
  counts,
  drillOrNull,
  errorSchema,
  flag,
  integer,
  type JsonDocument,
  schedule,
  scheduleOrNull,
  text,
  texts,
} from "./documents/parts.js";
import {
  adopted,
  decrypted,
  diagnosis,
  encrypted,
  initialized,
  rotated,
  setupDone,
  setupPlan,
  setupUnchanged,
  setupUndone,
  status,
  upgraded,
} from "./documents/store.js";

/** The documents of a command that prints the same form each time. */
const only = (schema: z.ZodMiniType): readonly JsonDocument[] => [{ schema }];

const messages = texts("What was recovered or undone");
const clients = only(clientList);
const edited = only(changedClient);
const shown = only(z.strictObject({ client }));

/** The document of every error, with the exit code of its kind. */
export const errorDocument = z.strictObject({ error: errorSchema });

/** The documents of each command, by its name. Commands with the same document share it. */
export const documents: Readonly<Record<string, readonly JsonDocument[]>> = {
  setup: [
    { when: "With `--dry-run`", schema: setupPlan },
    { when: "After a change", schema: setupDone },
    { when: "If nothing is left to do", schema: setupUnchanged },
    { when: "With `--undo`", schema: setupUndone },
  ],
  init: [{ schema: initialized }, { when: "With `--adopt`", schema: adopted }],
  status: [{ schema: status }, { when: "With `--all`", schema: fleetStatus }],
  doctor: only(diagnosis),
  encrypt: only(encrypted),
  decrypt: only(decrypted),
  rotate: only(rotated),
  "upgrade-schema": only(upgraded),
  run: [
    {
      when: "With `--print-unit`; otherwise standard output is the hub's",
      schema: z.strictObject({ unit: text("The text of the unit or drop-in") }),
    },
  ],
  "add-client": shown,
  "list-clients": clients,
  "show-client": shown,
  "find-client": clients,
  "delete-client": only(
    z.strictObject({
      client: z.strictObject({
        client_id: integer("The client's number"),
        revoked: flag("True"),
        already: flag("Whether it was revoked before"),
      }),
    }),
  ),
  ...Object.fromEntries(
    [
      ...["rename-client", "make-admin", "revoke-admin"],
      ...["escalate", "propagate", "broadcast", "msg", "skill", "intent"].flatMap((action) => [
        `allow-${action}`,
        `blacklist-${action}`,
      ]),
    ].map((name) => [name, edited]),
  ),
  "export-clients": [
    { when: "To standard output", schema: clientList },
    {
      when: "To a file",
      schema: z.strictObject({
        export: z.strictObject({
          path: text("The new file"),
          format: choice(["csv", "json"], "Its format"),
          clients: integer("The number of clients in it"),
          secrets: flag("Whether it has access keys, passwords and crypto keys"),
        }),
      }),
    },
  ],
  "import-clients": only(imported),
  sql: [
    { schema: z.strictObject(sqlRows) },
    {
      when: "With `--write`, for statements that change something",
      schema: z.strictObject({
        ...sqlRows,
        changed: integer("The number of changed rows"),
        clients: z.strictObject({ before: counts, after: counts }),
      }),
    },
  ],
  migrate: only(migrated),
  plugins: only(plugins),
  backup: only(backedUp),
  verify: [{ schema: verified }, { when: "With `--all`", schema: fleetVerified }],
  backups: [{ schema: listed }, { when: "With `--all`", schema: fleetListed }],
  prune: only(pruned),
  restore: [{ schema: restored }, { when: "With `--into`", schema: restoredInto }],
  export: only(exported),
  drill: only(drilled),
  "schedule install": only(z.strictObject({ schedule, drill: drillOrNull })),
  "schedule status": only(z.strictObject({ schedule: scheduleOrNull, drill: drillOrNull })),
  "schedule remove": only(
    z.strictObject({
      removed: z.strictObject({
        unit: z.nullable(text("The first of `units`; null if only a service was left")),
        units: texts("The timers that were removed"),
        drop_ins: texts("Drop-ins of the units, which stay"),
      }),
    }),
  ),
  "metrics install": only(
    z.strictObject({ metrics: z.strictObject({ file: text("The file of the metrics") }) }),
  ),
  "metrics remove": only(
    z.strictObject({ removed: z.strictObject({ file: text("The file that was removed") }) }),
  ),
  "bundle export": only(bundleExported),
  "bundle show": only(bundleShown),
  "bundle import": only(bundleImported),
  "bundle print": [
    {
      when: "With `--output`",
      schema: z.strictObject({
        sheet: z.strictObject({ path: text("The page"), bundle: text("The bundle on it") }),
      }),
    },
    {
      when: "Without `--output`",
      schema: z.strictObject({ page: text("The page, in HTML") }),
    },
  ],
  settle: only(z.strictObject({ settled: messages })),
  completion: only(
    z.strictObject({
      shell: choice(["bash", "zsh", "fish"], "The shell"),
      script: text("The completion script"),
    }),
  ),
};
