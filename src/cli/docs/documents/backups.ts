/** The documents of the commands for backups and bundles. */
import type { BackupResult } from "../../../backup/backup.js";
import type { FleetListing } from "../../../backup/fleet.js";
import type { FleetVerification, StoreVerdict } from "../../../backup/fleet-verify.js";
import type { FileProblem, Listing } from "../../../backup/listing.js";
import type { PruneResult } from "../../../backup/prune.js";
import type { Verification } from "../../../backup/verify.js";
import type { Bundle, BundleDescription } from "../../../bundle/bundle.js";
import type { CopyReport } from "../../../copies/copy.js";
import type { MediaExport } from "../../../copies/media.js";
import type { FleetStatus } from "../../../diagnostics/fleet.js";
import type { DrillResult } from "../../../restore/drill.js";
import type { RestoreIntoResult } from "../../../restore/into.js";
import type { RestoreResult } from "../../../restore/restore.js";
import * as z from "../../../schema.js";
import type { ImportResult } from "../../../setup/import-passphrase.js";
import {
  bundle,
  bundleOrNull,
  choice,
  cipherCompatibility,
  counts,
  type Documents,
  documentOf,
  drillOrNull,
  errorSchema,
  flag,
  flagOrNull,
  hub,
  integer,
  integerOrNull,
  integers,
  keyId,
  list,
  object,
  objectOrNull,
  only,
  passphraseSource,
  path,
  schedule,
  scheduleOrNull,
  schemaVersion,
  service,
  sha256,
  text,
  textOrNull,
  texts,
  time,
  timeOrNull,
} from "./parts.js";

const copy = documentOf<Omit<CopyReport, "errors" | "postponed">>()({
  target: text("A target of `--copy-to` or `--copy-bundle-to`"),
  contents: choice(["backups", "bundle"], "What is copied there"),
  copied: list({
    path: text("A file that this run copied; manifests are not listed"),
    size: integer("Its size in bytes"),
    checked_by: choice(["read_back", "remote_hash"], "How the copy was compared"),
  }),
  skipped: textOrNull("Why nothing was tried: no such directory, or its disk is not mounted"),
  duration_ms: integerOrNull("How long this target took; null if nothing was tried"),
});

const copies = list({
  ...copy.shape,
  errors: z.array(errorSchema).check(z.describe("Its errors; the exit code is that of the first")),
});

const completed = documentOf<BackupResult>()({
  backup: object({
    path: text("The backup"),
    manifest: text("Its manifest"),
    created_at: time("Every change before this time is in the backup"),
    size: integer("Its size in bytes"),
    sha256,
    key_id: keyId,
    schema_version: schemaVersion,
    clients: counts,
    method: choice(["stopped", "online"], "Whether the service was stopped for it"),
  }),
  bundle,
  service,
  verified: z.literal(true).check(z.describe("True: a backup that is not intact is an error")),
});

const backedUp = object({ ...completed.shape, copies });

const unlisted = documentOf<FileProblem>()({
  path: text("A file that is not counted"),
  problem: text("Why"),
});

const listed = documentOf<Omit<Listing, "unchecked">>()({
  folder: text("The directory"),
  backups: list({
    path: text("A backup, the newest first"),
    manifest: text("Its manifest"),
    created_at: time("Every change before this time is in the backup"),
    age_seconds: integer("Its age in seconds"),
    size: integer("Its size in bytes"),
    clients: counts,
    key_id: keyId,
    schema_version: schemaVersion,
    method: choice(["stopped", "online"], "Whether the service was stopped for it"),
    hostname: text("The machine on which it was made"),
    store_id: textOrNull("The id of its store; null in backups of earlier versions"),
    present: flag("Whether the file exists and has this size"),
    mac: flagOrNull("Whether the manifest is authentic; null without a key to verify it"),
    bundle: textOrNull("Its bundle; null if there is none in the known directory"),
  }),
  others: z.array(unlisted),
  of_other_stores: integer("How many backups are left out because another store made them"),
});

const fleetStore = {
  store_id: textOrNull("The id of a store; null for backups of earlier versions"),
  name: text("The name of its file without `.db`"),
  key_ids: texts("The `key_id` of each of its keys"),
  hostnames: texts("The machines that made its backups"),
  backups: integer("How many backups it has"),
  incomplete: integer("How many of them lack their file, or have a file of another size"),
  size: integer("Bytes of the complete backups"),
  oldest: time("When the oldest was made"),
  newest: object({
    path: text("The newest backup by its manifest, which is not verified"),
    created_at: time("When it was made"),
    age_seconds: integer("Its age in seconds"),
    clients: counts,
  }),
  newest_complete_at: timeOrNull(
    "When the newest complete backup was made; null if no backup is complete",
  ),
  own: flag("Whether it is the store of this command"),
};

const fleetOthers = {
  others: z.array(unlisted).check(z.describe("The first 100 files that are not counted")),
  others_count: integer("How many files are not counted"),
  unreadable_manifests: integer("How many of them are manifests"),
};

const fleetListed = documentOf<FleetListing>()({
  folder: text("The directory"),
  stores: list(fleetStore),
  ...fleetOthers,
});

export const fleetStatus = documentOf<FleetStatus>()({
  folder: text("The directory"),
  max_age_seconds: integer("How old the newest backup of a store may be"),
  stores: list({
    ...fleetStore,
    problem: textOrNull(
      "`overdue`, `newest incomplete`, `newest from the future` or `no complete backup`; null without one",
    ),
  }),
  problems: integer("How many stores have a problem"),
  ...fleetOthers,
  ok: flag("False if a store has a problem, a manifest cannot be read, or there is no store"),
});

const fleetVerified = object({
  folder: text("The directory"),
  backups: z.array(
    documentOf<FleetVerification>()({
      path: text("A backup"),
      store_id: textOrNull("The id of its store; null if the backup has none or cannot be read"),
      key_id: textOrNull("The `key_id` in its manifest; null if the manifest cannot be read"),
      ok: flagOrNull("Whether every check passed; null if it was not opened"),
      problem: textOrNull("The first failed check, or why it was not opened"),
    }),
  ),
  stores: z.array(
    documentOf<StoreVerdict>()({
      store_id: textOrNull("The id of a store; null if its backups have none"),
      name: text("The name of its file without `.db`"),
      intact: integer("How many backups are intact"),
      damaged: integer("How many are not intact; the exit code is 14 if there is one"),
      not_opened: integer("How many cannot be read, or are not opened by a known key"),
      reason: textOrNull("Why the first backup that was not opened was not"),
    }),
  ),
  error: z
    .optional(errorSchema)
    .check(z.describe("Why not every backup was verified; absent if every backup was")),
});

const pruned = documentOf<{ prune: PruneResult }>()({
  prune: object({
    folder: text("The directory"),
    dry_run: flag("Whether nothing was removed because of `--dry-run`"),
    kept: list({
      path: text("A backup that stays"),
      created_at: time("When it was made"),
      rules: z
        .array(z.enum(["last", "daily", "weekly", "monthly"]))
        .check(z.describe("The rules that keep it; empty if it stays as the newest intact backup")),
    }),
    removed: list({
      path: text("A backup that is removed"),
      created_at: time("When it was made"),
      size: integer("Its size in bytes; 0 for a manifest without its backup"),
    }),
    not_removed: list({
      path: text("A backup that no rule keeps and that could not be removed"),
      problem: text("Why"),
    }),
    freed: integer("The bytes of the removed backups"),
    removed_bundles: texts("The bundles that are removed, with `--bundles`"),
    verified: textOrNull("The newest intact backup that stays; null if nothing was to be removed"),
    left: z.array(unlisted),
  }),
});

const verified = documentOf<Pick<Verification, "path" | "ok" | "checks">>()({
  path: text("The backup"),
  ok: flag("Whether every check passed; the exit code is 14 otherwise"),
  checks: list({
    name: text("What was checked"),
    ok: flag("Whether it passed"),
    detail: text("What was found"),
  }),
});

const widened = list({
  client_id: integer("A client that can do more than before the restore"),
  name: textOrNull("Its name"),
  what: texts("What it can do again"),
});

const restoredFields = {
  backup: text("The backup that was restored"),
  created_at: timeOrNull("When it was made; null without a valid manifest"),
  key_id: keyId,
  clients: counts,
  replaced: textOrNull(
    "Where the replaced store or a backup of the replaced clients is; null without one",
  ),
  stayed_revoked: integers("Clients that were revoked after the backup and stay revoked"),
  widened,
};

const restored = documentOf<RestoreResult>()({
  restored: object({
    path,
    ...restoredFields,
    schema_version: schemaVersion,
    passphrase_source: passphraseSource,
    hub,
  }),
  bundle: bundleOrNull,
  service,
});

const restoredInto = documentOf<RestoreIntoResult>()({
  restored: object({
    path: text("The path or URL of the database"),
    module: text("Its plugin"),
    ...restoredFields,
  }),
  bundle: z.null().check(z.describe("No bundle is written for this database")),
  service,
});

const drilled = documentOf<{ drill: DrillResult & { withBundle: boolean } }>()({
  drill: object({
    backup: text("The newest backup, which was restored to a copy"),
    created_at: time("When it was made"),
    key_id: keyId,
    size: integer("Its size in bytes"),
    schema_version: schemaVersion,
    clients: counts,
    with_bundle: flag("Whether its bundle was opened with the recovery key"),
  }),
});

const exported = documentOf<{ export: MediaExport }>()({
  export: object({
    path: text("The new directory"),
    backup: text("The backup that was exported"),
    created_at: time("When it was made"),
    key_id: keyId,
    size: integer("Its size in bytes"),
    parts: integer("The number of files into which it is split"),
    device_label: textOrNull("The label of `--device-label`; null without it"),
    files: list({
      name: text("A file in the new directory"),
      size: integer("Its size in bytes"),
      sha256,
    }),
  }),
});

const unscheduled = object({
  removed: object({
    unit: textOrNull("The first of `units`; null if only a service was left"),
    units: texts("The timers that were removed"),
    drop_ins: texts("Drop-ins of the units, which stay"),
  }),
});

const bundleExported = documentOf<{ bundle: Bundle }>()({
  bundle: object({
    ...bundle.shape,
    reused: flag("Whether it existed already and is valid"),
  }),
});

const bundleImported = documentOf<ImportResult>()({
  imported: object({
    path,
    key_id: keyId,
    bundle: text("The bundle's path"),
    known: flag("Whether the keyring had the passphrase already"),
  }),
});

const bundleDescription = documentOf<BundleDescription>()({
  path: text("The bundle's path"),
  key_id: textOrNull("The `key_id` in its name; null for another name"),
  opens_with: choice(["recovery key", "bundle passphrase"], "What opens it"),
  size: integer("Its size in bytes"),
  sha256,
  proof: objectOrNull("Its verification record; null without one", {
    recipients: texts("The recipients in its verification record"),
    matches: flag("Whether the record is of this bundle"),
  }),
});

const bundleContents = object({
  format: text("The name of the format"),
  version: integer("The version of the format"),
  key_id: keyId,
  passphrase: z.optional(text("The store's passphrase, with `--show-passphrase`")),
  cipher_compatibility: cipherCompatibility,
  database: text("The path of the store when the bundle was written"),
  created_at: time("When the bundle was written"),
  store_id: z.optional(text("The id of the store; absent in bundles of earlier versions")),
  how_to_open: texts("Instructions for opening a backup without this program"),
});

const bundleShown = object({
  bundle: object({
    ...bundleDescription.shape,
    contents: z
      .optional(bundleContents)
      .check(z.describe("Its decrypted contents, if a key to open it was given")),
  }),
});

const schedules = { schedule: scheduleOrNull, drill: drillOrNull };

export const backupDocuments: Documents = {
  backup: only(backedUp),
  verify: [{ schema: verified }, { when: "With `--all`", schema: fleetVerified }],
  backups: [{ schema: listed }, { when: "With `--all`", schema: fleetListed }],
  prune: only(pruned),
  restore: [{ schema: restored }, { when: "With `--into`", schema: restoredInto }],
  export: only(exported),
  drill: only(drilled),
  "schedule install": only(object({ ...schedules, schedule })),
  "schedule status": only(object(schedules)),
  "schedule remove": only(unscheduled),
  "metrics install": only(object({ metrics: object({ file: text("The file of the metrics") }) })),
  "metrics remove": only(object({ removed: object({ file: text("The file that was removed") }) })),
  "bundle export": only(bundleExported),
  "bundle show": only(bundleShown),
  "bundle import": only(bundleImported),
  "bundle print": [
    {
      when: "With `--output`",
      schema: object({
        sheet: object({ path: text("The page"), bundle: text("The bundle on it") }),
      }),
    },
    { when: "Without `--output`", schema: object({ page: text("The page, in HTML") }) },
  ],
};
