/** The documents of the commands for the store. */
import type { Diagnosis } from "../../../diagnostics/doctor.js";
import type { StoreStatus } from "../../../diagnostics/status.js";
import { type ErrorKind, exitCodes } from "../../../errors.js";
import * as z from "../../../schema.js";
import type { AdoptResult } from "../../../setup/adopt.js";
import type { InitResult } from "../../../setup/init.js";
import type { Plan } from "../../../setup/plan.js";
import type { SetupResult } from "../../../setup/request.js";
import type { UndoResult } from "../../../setup/undo.js";
import type { DecryptResult } from "../../../swap/decrypt.js";
import type { EncryptResult } from "../../../swap/encrypt.js";
import type { RotateResult } from "../../../swap/rotate.js";
import type { UpgradeSchemaResult } from "../../../swap/upgrade-schema.js";
import { fleetStatus } from "./backups.js";
import {
  bundleOrNull,
  checks,
  choice,
  cipherCompatibility,
  counts,
  type Documents,
  documentOf,
  flag,
  hub,
  integer,
  integerOrNull,
  keyId,
  list,
  object,
  objectOrNull,
  only,
  orNull,
  outage,
  passphraseSource,
  path,
  scheduleOrNull,
  schemaVersion,
  service,
  text,
  textOrNull,
  texts,
  time,
  timeOrNull,
} from "./parts.js";

const planSteps = list({
  id: choice(
    [
      "packages",
      "keys",
      "drop-in",
      "store",
      "server.json",
      "restart",
      "backup",
      "plain-copy",
      "schedule",
    ] as const,
    "The step",
  ),
  state: choice(["needed", "done"], "Whether the step is still needed"),
  changes: text("What the step changes"),
  undo: text("What `setup --undo` does about it"),
});

const setupPlan = documentOf<{ plan: Plan & { unit: string | null; store: string } }>()({
  plan: object({
    unit: textOrNull("The hub's unit; null if none was found"),
    store: path,
    steps: planSteps,
    obstacles: list({
      id: text("What keeps setup from beginning"),
      kind: choice(
        Object.keys(exitCodes) as ErrorKind[],
        "The kind of the error; the exit code is that of the first obstacle",
      ),
      problem: text("What is wrong"),
      fix: text("How to fix it, a command or action on each line"),
    }),
    notices: texts("What to know before confirming"),
  }),
});

const setupDone = documentOf<{ setup: SetupResult & { findings: Diagnosis["checks"] } }>()({
  setup: object({
    changed: flag("True"),
    unit: text("The hub's unit"),
    store: path,
    former_database: text("The path of the database that the hub used before"),
    settings: text("The path of the settings file"),
    recovery_key: choice(
      ["new", "kept"],
      "Whether a new recovery key was handed out, or bundles are encrypted to the one in use",
    ),
    backup: objectOrNull("The first backup; null if it was made by an earlier setup", {
      path: text("The first backup"),
      bundle: text("Its bundle"),
      tested: flag("Whether the recovery key opened both"),
    }),
    outage,
    schedule: textOrNull("The timer; null if backups are not scheduled"),
    plain_copy: textOrNull(
      "The plaintext database that was kept because it had changed; null if it was removed",
    ),
    findings: checks,
  }),
});

const setupUnchanged = object({
  setup: object({
    changed: flag("False"),
    unit: text("The hub's unit"),
    store: path,
  }),
});

const setupUndone = documentOf<{
  undone: Omit<UndoResult, "kept"> & { kept: UndoResult["kept"] | null };
}>()({
  undone: object({
    changed: flag("False if setup had changed nothing; the other values are null then"),
    unit: textOrNull("The hub's unit"),
    database: textOrNull("The path of the database that the hub uses now"),
    kept: objectOrNull("Where the encrypted clients are kept", {
      backup: textOrNull("The backup that was made first"),
      store: textOrNull("The encrypted store"),
    }),
    outage,
  }),
});

const initialized = documentOf<InitResult>()({
  path,
  key_id: keyId,
  schema_version: schemaVersion,
  cipher_compatibility: cipherCompatibility,
  passphrase_source: passphraseSource,
  recipients: texts("The age recipients of later bundles"),
  settings: text("The path of the settings file"),
  bundle: bundleOrNull,
});

const adopted = documentOf<AdoptResult>()({
  adopted: object({
    path,
    key_id: keyId,
    cipher_compatibility: cipherCompatibility,
    passphrase_source: passphraseSource,
    password_from: choice(["server.json", "given"], "Where the store's password was"),
    password_removed: flag("Whether it was removed from server.json"),
  }),
  bundle: bundleOrNull,
  service: z
    .exactOptional(service)
    .check(z.describe("Only if the store was encrypted again with SQLCipher's defaults")),
});

const status = documentOf<StoreStatus>()({
  path,
  format: choice(
    ["absent", "plaintext", "sqlcipher", "unknown"],
    "What the file is; `sqlcipher` for any file that may be encrypted",
  ),
  cipher_compatibility: z.nullable(cipherCompatibility),
  key_id: z.nullable(keyId),
  schema_version: z.nullable(schemaVersion),
  clients: orNull("The numbers of clients; null if they cannot be read", counts),
  database: objectOrNull("The hub's database; null if it is the store", {
    module: text("Its plugin"),
    location: text("Its path or URL"),
  }),
  service: objectOrNull("The service that has the store open; null if it cannot be determined", {
    kind: choice(
      ["systemd-user", "systemd", "podman", "docker", "command", "none"],
      "What runs the hub",
    ),
    unit: textOrNull("The unit or container"),
    active: flag("Whether it runs"),
  }),
  last_backup: objectOrNull("The newest backup; null if none is known", {
    path: text("The newest backup"),
    created_at: time("When it was made, by its manifest, which is not verified"),
  }),
  schedule: scheduleOrNull,
  runs: z
    .record(
      z.string(),
      object({
        at: time("When the last run of this operation began"),
        duration_ms: integer("How long it took"),
        exit_code: integer("Its exit code"),
        succeeded_at: timeOrNull("When the last successful run began; null if no run succeeded"),
        stopped_ms: z.nullable(z.number().check(z.describe("How long it stopped the service"))),
        size: integerOrNull("The bytes of the backup that it wrote"),
      }),
    )
    .check(
      z.describe(
        "The last run of each operation, by the operation's name; for prune and drill of another target than backup.to, by this name and the target",
      ),
    ),
  copies: list({
    target: text("The directory or remote"),
    contents: choice(["backups", "bundle"], "What is copied to it"),
    at: timeOrNull("When a run last copied to it, or tried to; null if no run did"),
    succeeded_at: timeOrNull("When a run last left it complete; null if no run did"),
    skipped: textOrNull("Why the last run did not try, such as a missing disk; null if it tried"),
    error: textOrNull("The first error of the last run"),
    duration_ms: integerOrNull("How long the last run took for it; null if the run did not try"),
    size: integerOrNull("Bytes of the newest file that was copied to it; null if none is known"),
  }).check(z.describe("The last copy to each target in the settings")),
  drills: list({
    target: text("The directory or remote"),
    at: time("When the last drill began"),
    duration_ms: integer("How long it took"),
    exit_code: integer("Its exit code"),
    succeeded_at: timeOrNull("When the last successful drill began; null if no drill succeeded"),
    size: integerOrNull(
      "Bytes of the backup that the last drill restored; null if it restored none",
    ),
  }).check(z.describe("The last drill of each target")),
  last_restore_test: objectOrNull("The last restore test; null if none is known", {
    at: time("When a backup was last restored, drilled, or verified with its bundle"),
    backup: text("The backup"),
  }),
  last_bundle_test: objectOrNull("The last restore test with a bundle; null if none is known", {
    at: time("When a backup was last tested with its bundle and the recovery key"),
    backup: text("The backup"),
  }),
  pending: objectOrNull("The operation in the journal; null without one", {
    operation: text("The operation that runs or was interrupted"),
    started_at: time("When it began"),
    step: text("Its last step in the journal"),
  }),
  problems: texts("Why values of this document could not be read"),
});

const diagnosis = documentOf<Diagnosis>()({
  ok: flag("Whether there is no finding; the exit code is 1 otherwise"),
  filled: integerOrNull("Revoked rows inserted; null without `--fill-gaps`"),
  checks,
});

const encrypted = documentOf<EncryptResult>()({
  encrypted: object({
    path,
    key_id: keyId,
    cipher_compatibility: cipherCompatibility,
    from: text("The earlier format: `plaintext`, `SQLCipher 3`, or other parameters"),
    passphrase_source: passphraseSource,
    hub,
    caution: textOrNull(
      "A warning that the deleted plaintext is not erased; null if the old file was encrypted",
    ),
  }),
  bundle: bundleOrNull,
  service,
});

const decrypted = documentOf<DecryptResult>()({
  decrypted: object({ path, previous_key_id: keyId, hub }),
  service,
});

const rotated = documentOf<RotateResult>()({
  rotated: object({
    path,
    key_id: keyId,
    previous_key_id: text("The `key_id` before, which names the bundle of earlier backups"),
    passphrase_source: passphraseSource,
    previous_kept: flag("Whether the keyring still has the previous passphrase"),
    hub,
  }),
  bundle: bundleOrNull,
  service,
  backups: objectOrNull(
    "The backups under earlier passphrases; null without `--reencrypt-backups`",
    {
      reencrypted: texts("The new files"),
      left: list({
        path: text("A backup that keeps its passphrase"),
        reason: text("Why"),
      }),
    },
  ),
});

const upgraded = documentOf<UpgradeSchemaResult>()({
  upgraded: object({
    path,
    from: integer("The schema before"),
    to: integer("The schema now; equal if nothing changed"),
    dropped: list({
      client_id: text("The client's number, as text"),
      name: textOrNull("Its name"),
      what: text("The value that was lost"),
    }),
    hub: objectOrNull("The hub's packages; null if no hub was found or nothing changed", {
      plugin_manager: textOrNull("The version of hivemind-plugin-manager"),
      schema_version: integer("The newest schema that the hub supports"),
    }),
  }),
  service,
});

export const storeDocuments: Documents = {
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
      schema: object({ unit: text("The text of the unit or drop-in") }),
    },
  ],
};
