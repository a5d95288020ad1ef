/** The documents of the commands for backups and bundles. */
import type { BackupResult } from "../../../backup/backup.js";
import type { FleetListing, FleetVerification, StoreVerdict } from "../../../backup/fleet.js";
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
  bundleFields,
  bundleOrNull,
  choice,
  cipherCompatibility,
  counts,
  documentOf,
  errorSchema,
  flag,
  hub,
  integer,
  integers,
  keyId,
  orNull,
  passphraseSource,
  path,
  schemaVersion,
  service,
  sha256,
  text,
  texts,
  time,
} from "./parts.js";

const copy = documentOf<Omit<CopyReport, "errors">>()(
  z.strictObject({
    target: text("A target of `--copy-to` or `--copy-bundle-to`"),
    contents: choice(["backups", "bundle"], "What is copied there"),
    copied: z.array(
      z.strictObject({
        path: text("A file that this run copied; manifests are not listed"),
        size: integer("Its size in bytes"),
        checked_by: choice(["read_back", "remote_hash"], "How the copy was compared"),
      }),
    ),
    skipped: z.nullable(
      text("Why nothing was tried: no such directory, or its disk is not mounted"),
    ),
    duration_ms: z.nullable(integer("How long this target took; null if nothing was tried")),
  }),
);

const copies = z.array(
  z.strictObject({
    ...copy.shape,
    errors: z
      .array(errorSchema)
      .check(z.describe("Its errors; the exit code is that of the first")),
  }),
);

const completed = documentOf<BackupResult>()(
  z.strictObject({
    backup: z.strictObject({
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
  }),
);

export const backedUp = z.strictObject({ ...completed.shape, copies });

const unlisted = documentOf<FileProblem>()(
  z.strictObject({ path: text("A file that is not counted"), problem: text("Why") }),
);

export const listed = documentOf<Omit<Listing, "unchecked">>()(
  z.strictObject({
    folder: text("The directory"),
    backups: z.array(
      z.strictObject({
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
        store_id: z.nullable(text("The id of its store; null in backups of earlier versions")),
        present: flag("Whether the file exists and has this size"),
        mac: z.nullable(flag("Whether the manifest is authentic; null without a key to verify it")),
        bundle: z.nullable(text("Its bundle; null if there is none in the known directory")),
      }),
    ),
    others: z.array(unlisted),
    of_other_stores: integer("How many backups are left out because another store made them"),
  }),
);

const fleetStore = {
  store_id: z.nullable(text("The id of a store; null for backups of earlier versions")),
  name: text("The name of its file without `.db`"),
  key_ids: texts("The `key_id` of each of its keys"),
  hostnames: texts("The machines that made its backups"),
  backups: integer("How many backups it has"),
  incomplete: integer("How many of them lack their file, or have a file of another size"),
  size: integer("Bytes of the complete backups"),
  oldest: time("When the oldest was made"),
  newest: z.strictObject({
    path: text("The newest backup by its manifest, which is not verified"),
    created_at: time("When it was made"),
    age_seconds: integer("Its age in seconds"),
    clients: counts,
  }),
  newest_complete_at: z.nullable(
    time("When the newest complete backup was made; null if no backup is complete"),
  ),
  own: flag("Whether it is the store of this command"),
};

const fleetOthers = {
  others: z.array(unlisted).check(z.describe("The first 100 files that are not counted")),
  others_count: integer("How many files are not counted"),
  unreadable_manifests: integer("How many of them are manifests"),
};

export const fleetListed = documentOf<FleetListing>()(
  z.strictObject({
    folder: text("The directory"),
    stores: z.array(z.strictObject(fleetStore)),
    ...fleetOthers,
  }),
);

export const fleetStatus = documentOf<FleetStatus>()(
  z.strictObject({
    folder: text("The directory"),
    max_age_seconds: integer("How old the newest backup of a store may be"),
    stores: z.array(
      z.strictObject({
        ...fleetStore,
        problem: z.nullable(
          text(
            "`overdue`, `newest incomplete`, `newest from the future` or `no complete backup`; null without one",
          ),
        ),
      }),
    ),
    problems: integer("How many stores have a problem"),
    ...fleetOthers,
    ok: flag("False if a store has a problem, a manifest cannot be read, or there is no store"),
  }),
);

export const fleetVerified = z.strictObject({
  folder: text("The directory"),
  backups: z.array(
    documentOf<FleetVerification>()(
      z.strictObject({
        path: text("A backup"),
        store_id: z.nullable(
          text("The id of its store; null if the backup has none or cannot be read"),
        ),
        key_id: z.nullable(
          text("The `key_id` in its manifest; null if the manifest cannot be read"),
        ),
        ok: z.nullable(flag("Whether every check passed; null if it was not opened")),
        problem: z.nullable(text("The first failed check, or why it was not opened")),
      }),
    ),
  ),
  stores: z.array(
    documentOf<StoreVerdict>()(
      z.strictObject({
        store_id: z.nullable(text("The id of a store; null if its backups have none")),
        name: text("The name of its file without `.db`"),
        intact: integer("How many backups are intact"),
        damaged: integer("How many are not intact; the exit code is 14 if there is one"),
        not_opened: integer("How many cannot be read, or are not opened by a known key"),
        reason: z.nullable(text("Why the first backup that was not opened was not")),
      }),
    ),
  ),
  error: z
    .optional(errorSchema)
    .check(z.describe("Why not every backup was verified; absent if every backup was")),
});

export const pruned = documentOf<{ prune: PruneResult }>()(
  z.strictObject({
    prune: z.strictObject({
      folder: text("The directory"),
      dry_run: flag("Whether nothing was removed because of `--dry-run`"),
      kept: z.array(
        z.strictObject({
          path: text("A backup that stays"),
          created_at: time("When it was made"),
          rules: z
            .array(z.enum(["last", "daily", "weekly", "monthly"]))
            .check(
              z.describe("The rules that keep it; empty if it stays as the newest intact backup"),
            ),
        }),
      ),
      removed: z.array(
        z.strictObject({
          path: text("A backup that is removed"),
          created_at: time("When it was made"),
          size: integer("Its size in bytes; 0 for a manifest without its backup"),
        }),
      ),
      not_removed: z.array(
        z.strictObject({
          path: text("A backup that no rule keeps and that could not be removed"),
          problem: text("Why"),
        }),
      ),
      freed: integer("The bytes of the removed backups"),
      removed_bundles: texts("The bundles that are removed, with `--bundles`"),
      verified: z.nullable(
        text("The newest intact backup that stays; null if nothing was to be removed"),
      ),
      left: z.array(unlisted),
    }),
  }),
);

export const verified = documentOf<Pick<Verification, "path" | "ok" | "checks">>()(
  z.strictObject({
    path: text("The backup"),
    ok: flag("Whether every check passed; the exit code is 14 otherwise"),
    checks: z.array(
      z.strictObject({
        name: text("What was checked"),
        ok: flag("Whether it passed"),
        detail: text("What was found"),
      }),
    ),
  }),
);

export const widened = z.array(
  z.strictObject({
    client_id: integer("A client that can do more than before the restore"),
    name: z.nullable(text("Its name")),
    what: texts("What it can do again"),
  }),
);

const restoredFields = {
  backup: text("The backup that was restored"),
  created_at: z.nullable(time("When it was made; null without a valid manifest")),
  key_id: keyId,
  clients: counts,
  replaced: z.nullable(
    text("Where the replaced store or a backup of the replaced clients is; null without one"),
  ),
  stayed_revoked: integers("Clients that were revoked after the backup and stay revoked"),
  widened,
};

export const restored = documentOf<RestoreResult>()(
  z.strictObject({
    restored: z.strictObject({
      path,
      ...restoredFields,
      schema_version: schemaVersion,
      passphrase_source: passphraseSource,
      hub,
    }),
    bundle: bundleOrNull,
    service,
  }),
);

export const restoredInto = documentOf<RestoreIntoResult>()(
  z.strictObject({
    restored: z.strictObject({
      path: text("The path or URL of the database"),
      module: text("Its plugin"),
      ...restoredFields,
    }),
    bundle: z.null().check(z.describe("No bundle is written for this database")),
    service,
  }),
);

export const drilled = documentOf<{ drill: DrillResult & { withBundle: boolean } }>()(
  z.strictObject({
    drill: z.strictObject({
      backup: text("The newest backup, which was restored to a copy"),
      created_at: time("When it was made"),
      key_id: keyId,
      size: integer("Its size in bytes"),
      schema_version: schemaVersion,
      clients: counts,
      with_bundle: flag("Whether its bundle was opened with the recovery key"),
    }),
  }),
);

export const exported = documentOf<{ export: MediaExport }>()(
  z.strictObject({
    export: z.strictObject({
      path: text("The new directory"),
      backup: text("The backup that was exported"),
      created_at: time("When it was made"),
      key_id: keyId,
      size: integer("Its size in bytes"),
      parts: integer("The number of files into which it is split"),
      device_label: z.nullable(text("The label of `--device-label`; null without it")),
      files: z.array(
        z.strictObject({
          name: text("A file in the new directory"),
          size: integer("Its size in bytes"),
          sha256,
        }),
      ),
    }),
  }),
);

export const bundleExported = documentOf<{ bundle: Bundle }>()(
  z.strictObject({
    bundle: z.strictObject({
      ...bundleFields,
      reused: flag("Whether it existed already and is valid"),
    }),
  }),
);

export const bundleImported = documentOf<ImportResult>()(
  z.strictObject({
    imported: z.strictObject({
      path,
      key_id: keyId,
      bundle: text("The bundle's path"),
      known: flag("Whether the keyring had the passphrase already"),
    }),
  }),
);

const bundleDescription = documentOf<BundleDescription>()(
  z.strictObject({
    path: text("The bundle's path"),
    key_id: z.nullable(text("The `key_id` in its name; null for another name")),
    opens_with: choice(["recovery key", "bundle passphrase"], "What opens it"),
    size: integer("Its size in bytes"),
    sha256,
    proof: orNull(
      z.strictObject({
        recipients: texts("The recipients in its verification record"),
        matches: flag("Whether the record is of this bundle"),
      }),
      "Its verification record; null without one",
    ),
  }),
);

const bundleContents = z.strictObject({
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

export const bundleShown = z.strictObject({
  bundle: z.strictObject({
    ...bundleDescription.shape,
    contents: z
      .optional(bundleContents)
      .check(z.describe("Its decrypted contents, if a key to open it was given")),
  }),
});
