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
import {
  bundleOrNull,
  checks,
  choice,
  cipherCompatibility,
  counts,
  documentOf,
  flag,
  hub,
  integer,
  keyId,
  orNull,
  outage,
  passphraseSource,
  path,
  scheduleOrNull,
  schemaVersion,
  service,
  text,
  texts,
  time,
} from "./parts.js";

const planSteps = z.array(
  z.strictObject({
    id: choice(
      [
        ...["packages", "keys", "drop-in", "store", "server.json"],
        ...["restart", "backup", "plain-copy", "schedule"],
      ] as const,
      "The step",
    ),
    state: choice(["needed", "done"], "Whether the step is still needed"),
    changes: text("What the step changes"),
    undo: text("What `setup --undo` does about it"),
  }),
);

export const setupPlan = documentOf<{ plan: Plan & { unit: string | null; store: string } }>()(
  z.strictObject({
    plan: z.strictObject({
      unit: z.nullable(text("The hub's unit; null if none was found")),
      store: path,
      steps: planSteps,
      obstacles: z.array(
        z.strictObject({
          id: text("What keeps setup from beginning"),
          kind: choice(
            Object.keys(exitCodes) as ErrorKind[],
            "The kind of the error; the exit code is that of the first obstacle",
          ),
          problem: text("What is wrong"),
          fix: text("How to fix it, a command or action on each line"),
        }),
      ),
      notices: texts("What to know before confirming"),
    }),
  }),
);

export const setupDone = documentOf<{ setup: SetupResult & { findings: Diagnosis["checks"] } }>()(
  z.strictObject({
    setup: z.strictObject({
      changed: flag("True"),
      unit: text("The hub's unit"),
      store: path,
      former_database: text("The path of the database that the hub used before"),
      settings: text("The path of the settings file"),
      recovery_key: choice(
        ["new", "kept"],
        "Whether a new recovery key was handed out, or bundles are encrypted to the one in use",
      ),
      backup: orNull(
        z.strictObject({
          path: text("The first backup"),
          bundle: text("Its bundle"),
          tested: flag("Whether the recovery key opened both"),
        }),
        "The first backup; null if it was made by an earlier setup",
      ),
      outage,
      schedule: z.nullable(text("The timer; null if backups are not scheduled")),
      plain_copy: z.nullable(
        text("The plaintext database that was kept because it had changed; null if it was removed"),
      ),
      findings: checks,
    }),
  }),
);

export const setupUnchanged = z.strictObject({
  setup: z.strictObject({
    changed: flag("False"),
    unit: text("The hub's unit"),
    store: path,
  }),
});

export const setupUndone = documentOf<{
  undone: Omit<UndoResult, "kept"> & { kept: UndoResult["kept"] | null };
}>()(
  z.strictObject({
    undone: z.strictObject({
      changed: flag("False if setup had changed nothing; the other values are null then"),
      unit: z.nullable(text("The hub's unit")),
      database: z.nullable(text("The path of the database that the hub uses now")),
      kept: orNull(
        z.strictObject({
          backup: z.nullable(text("The backup that was made first")),
          store: z.nullable(text("The encrypted store")),
        }),
        "Where the encrypted clients are kept",
      ),
      outage,
    }),
  }),
);

export const initialized = documentOf<InitResult>()(
  z.strictObject({
    path,
    key_id: keyId,
    schema_version: schemaVersion,
    cipher_compatibility: cipherCompatibility,
    passphrase_source: passphraseSource,
    recipients: texts("The age recipients of later bundles"),
    settings: text("The path of the settings file"),
    bundle: bundleOrNull,
  }),
);

export const adopted = documentOf<AdoptResult>()(
  z.strictObject({
    adopted: z.strictObject({
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
  }),
);

export const status = documentOf<StoreStatus>()(
  z.strictObject({
    path,
    format: choice(
      ["absent", "plaintext", "sqlcipher", "unknown"],
      "What the file is; `sqlcipher` for any file that may be encrypted",
    ),
    cipher_compatibility: z.nullable(cipherCompatibility),
    key_id: z.nullable(keyId),
    schema_version: z.nullable(schemaVersion),
    clients: orNull(counts, "The numbers of clients; null if they cannot be read"),
    database: orNull(
      z.strictObject({
        module: text("Its plugin"),
        location: text("Its path or URL"),
      }),
      "The hub's database; null if it is the store",
    ),
    service: orNull(
      z.strictObject({
        kind: choice(
          ["systemd-user", "systemd", "podman", "docker", "command", "none"],
          "What runs the hub",
        ),
        unit: z.nullable(text("The unit or container")),
        active: flag("Whether it runs"),
      }),
      "The service that has the store open; null if it cannot be determined",
    ),
    last_backup: orNull(
      z.strictObject({
        path: text("The newest backup"),
        created_at: time("When it was made, by its manifest, which is not verified"),
      }),
      "The newest backup; null if none is known",
    ),
    schedule: scheduleOrNull,
    runs: z
      .record(
        z.string(),
        z.strictObject({
          at: time("When the last run of this operation began"),
          duration_ms: integer("How long it took"),
          exit_code: integer("Its exit code"),
          succeeded_at: z.nullable(
            time("When the last successful run began; null if no run succeeded"),
          ),
          stopped_ms: z.nullable(z.number().check(z.describe("How long it stopped the service"))),
          size: z.nullable(integer("The bytes of the backup that it wrote")),
        }),
      )
      .check(z.describe("The last run of each operation, by the operation's name")),
    copies: z
      .array(
        z.strictObject({
          target: text("The directory or remote"),
          contents: choice(["backups", "bundle"], "What is copied to it"),
          at: z.nullable(time("When a run last copied to it, or tried to; null if no run did")),
          succeeded_at: z.nullable(time("When a run last left it complete; null if no run did")),
          skipped: z.nullable(
            text("Why the last run did not try, such as a missing disk; null if it tried"),
          ),
          error: z.nullable(text("The first error of the last run")),
          duration_ms: z.nullable(
            integer("How long the last run took for it; null if the run did not try"),
          ),
          size: z.nullable(
            integer("Bytes of the newest file that was copied to it; null if none is known"),
          ),
        }),
      )
      .check(z.describe("The last copy to each target in the settings")),
    drills: z
      .array(
        z.strictObject({
          target: text("The directory or remote"),
          at: time("When the last drill began"),
          duration_ms: integer("How long it took"),
          exit_code: integer("Its exit code"),
          succeeded_at: z.nullable(
            time("When the last successful drill began; null if no drill succeeded"),
          ),
          size: z.nullable(
            integer("Bytes of the backup that the last drill restored; null if it restored none"),
          ),
        }),
      )
      .check(z.describe("The last drill of each target")),
    last_restore_test: orNull(
      z.strictObject({
        at: time("When a backup was last restored, drilled, or verified with its bundle"),
        backup: text("The backup"),
      }),
      "The last restore test; null if none is known",
    ),
    last_bundle_test: orNull(
      z.strictObject({
        at: time("When a backup was last tested with its bundle and the recovery key"),
        backup: text("The backup"),
      }),
      "The last restore test with a bundle; null if none is known",
    ),
    pending: orNull(
      z.strictObject({
        operation: text("The operation that runs or was interrupted"),
        started_at: time("When it began"),
        step: text("Its last step in the journal"),
      }),
      "The operation in the journal; null without one",
    ),
    problems: texts("Why values of this document could not be read"),
  }),
);

export const diagnosis = documentOf<Diagnosis>()(
  z.strictObject({
    ok: flag("Whether there is no finding; the exit code is 1 otherwise"),
    filled: z.nullable(integer("Revoked rows inserted; null without `--fill-gaps`")),
    checks,
  }),
);

export const encrypted = documentOf<EncryptResult>()(
  z.strictObject({
    encrypted: z.strictObject({
      path,
      key_id: keyId,
      cipher_compatibility: cipherCompatibility,
      from: text("The earlier format: `plaintext`, `SQLCipher 3`, or other parameters"),
      passphrase_source: passphraseSource,
      hub,
      caution: z.nullable(
        text(
          "A warning that the deleted plaintext is not erased; null if the old file was encrypted",
        ),
      ),
    }),
    bundle: bundleOrNull,
    service,
  }),
);

export const decrypted = documentOf<DecryptResult>()(
  z.strictObject({
    decrypted: z.strictObject({ path, previous_key_id: keyId, hub }),
    service,
  }),
);

export const rotated = documentOf<RotateResult>()(
  z.strictObject({
    rotated: z.strictObject({
      path,
      key_id: keyId,
      previous_key_id: text("The `key_id` before, which names the bundle of earlier backups"),
      passphrase_source: passphraseSource,
      previous_kept: flag("Whether the keyring still has the previous passphrase"),
      hub,
    }),
    bundle: bundleOrNull,
    service,
    backups: orNull(
      z.strictObject({
        reencrypted: texts("The new files"),
        left: z.array(
          z.strictObject({
            path: text("A backup that keeps its passphrase"),
            reason: text("Why"),
          }),
        ),
      }),
      "The backups under earlier passphrases; null without `--reencrypt-backups`",
    ),
  }),
);

export const upgraded = documentOf<UpgradeSchemaResult>()(
  z.strictObject({
    upgraded: z.strictObject({
      path,
      from: integer("The schema before"),
      to: integer("The schema now; equal if nothing changed"),
      dropped: z.array(
        z.strictObject({
          client_id: text("The client's number, as text"),
          name: z.nullable(text("Its name")),
          what: text("The value that was lost"),
        }),
      ),
      hub: orNull(
        z.strictObject({
          plugin_manager: z.nullable(text("The version of hivemind-plugin-manager")),
          schema_version: integer("The newest schema that the hub supports"),
        }),
        "The hub's packages; null if no hub was found or nothing changed",
      ),
    }),
    service,
  }),
);
