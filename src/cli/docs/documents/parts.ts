/** Values that several documents share, and the comparison of a schema with a result type. */
import type { BundleReport } from "../../../bundle/bundle.js";
import type { ServiceReport } from "../../../operation/service.js";
import * as z from "../../../schema.js";
import type { Schedule } from "../../../service/schedule.js";
import type { Json } from "../../ui/json.js";

/** A document that a command prints, or one of several. */
export interface JsonDocument {
  /** When the command prints it; absent if it prints no other. */
  readonly when?: string;
  readonly schema: z.ZodMiniType;
}

type Mutable<Value> = Value extends readonly unknown[]
  ? Mutable<Value[number]>[]
  : Value extends object
    ? { -readonly [Key in keyof Value]: Mutable<Value[Key]> }
    : Value;

type Same<A, B> = [A, B] extends [B, A] ? unknown : never;

/** Makes the compiler compare a schema with the result that is printed. */
export function documentOf<Result>() {
  return <Schema extends z.ZodMiniType>(
    schema: Schema & Same<z.output<Schema>, Mutable<Json<Result>>>,
  ): Schema => schema;
}

export const text = (description: string) => z.string().check(z.describe(description));

export const integer = (description: string) => z.int().check(z.describe(description));

export const flag = (description: string) => z.boolean().check(z.describe(description));

export const time = (description: string) => z.iso.datetime().check(z.describe(description));

export const texts = (description: string) => z.array(z.string()).check(z.describe(description));

export const integers = (description: string) => z.array(z.int()).check(z.describe(description));

export const choice = <const Choices extends readonly string[]>(
  choices: Choices,
  description: string,
) => z.enum(choices).check(z.describe(description));

/** Returns the schema for an object or null. The description says what null means. */
export const orNull = <Schema extends z.ZodMiniType>(schema: Schema, description: string) =>
  z.nullable(schema).check(z.describe(description));

export const path = text("The path of the store");

export const sha256 = text("The file's SHA-256, in hex");

export const keyId = text(
  "The first 8 bytes of the encrypted file, in hex; bundles are named after it",
);

export const schemaVersion = integer(
  "The schema of the table: 0 and 1 for HiveMind 4, 2 for HiveMind 5",
);

export const cipherCompatibility = z
  .literal([3, 4])
  .check(z.describe("The SQLCipher version whose format the file has"));

export const passphraseSource = text("Where the passphrase is: `keyring`, `file:PATH` and others");

export const hub = choice(
  ["run", "server.json", "none"],
  "How the hub receives the passphrase: from `run`, in `server.json`, or not at all",
);

export const counts = z.strictObject({
  active: integer("Clients that can connect"),
  revoked: integer("Rows of revoked clients"),
});

export const service = documentOf<ServiceReport>()(
  z.strictObject({
    unit: z.nullable(text("The unit or container; null without one")),
    was_active: flag("Whether it ran before"),
    active: flag("Whether it runs now"),
    stopped_ms: z.nullable(
      integer("From the request to stop until it ran again; null if it was not stopped"),
    ),
    listening_ms: z.nullable(
      integer(
        "From the request to stop until it listened on its ports again; null if it was not stopped, has no known ports, or does not listen after 30 s",
      ),
    ),
  }),
);

export const bundleFields = {
  path: text("The bundle's path"),
  key_id: keyId,
  recipients: texts("The age recipients whose keys open it; empty for a bundle with a passphrase"),
};

export const bundle = documentOf<BundleReport>()(z.strictObject(bundleFields));

export const bundleOrNull = orNull(
  bundle,
  "The store's bundle; null if none was written or reused",
);

export const outage = orNull(
  z.strictObject({
    stopped_ms: integer("From the request to stop until the unit ran again"),
    listening_ms: z.nullable(
      integer(
        "From the request to stop until it listened on its ports again; null if it has no known ports, or does not listen after 30 s",
      ),
    ),
  }),
  "How long the hub was down; null if it was not stopped",
);

export const checks = z
  .array(
    z.strictObject({
      name: text("What was checked"),
      ok: flag("False for a finding"),
      severity: choice(
        ["error", "warning", "note"],
        "`error`: data can be lost or is exposed now; `warning`: after a further failure; `note`: no finding",
      ),
      detail: text("What was found"),
      fix: z.nullable(text("The command or action that fixes it; null without a finding")),
    }),
  )
  .check(z.describe("The checks of doctor"));

export const schedule = documentOf<Schedule>()(
  z.strictObject({
    unit: text("The timer"),
    service: text("The timer's service"),
    on_calendar: z.nullable(text("The time, as in systemd.time(7)")),
    enabled: flag("Whether the timer starts with the user manager"),
    active: flag("Whether the timer runs"),
    next_run: z.nullable(time("The next run; null if it is not known")),
    last_run: orNull(
      z.strictObject({
        at: time("When the last run began"),
        result: z.nullable(
          text(
            "`running`, `success`, or systemd's term for the failure; null before this boot or login",
          ),
        ),
        exit_code: z.nullable(integer("The exit code; null if the run did not exit")),
      }),
      "The last run; null if there was none",
    ),
    lingers: flag("Whether the user manager starts at boot, without a login"),
    drop_ins: texts("The drop-ins of both units"),
  }),
);

export const scheduleOrNull = orNull(schedule, "The timer of backups; null if none is installed");

export const drillOrNull = orNull(schedule, "The timer of drills; null if none is installed");

export const errorSchema = z.strictObject({
  code: integer("The exit code of the error's kind"),
  message: text("What happened, and to which path or unit"),
  hint: z.optional(text("What to do; absent if there is nothing to advise")),
});
