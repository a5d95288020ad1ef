/** Values that several documents share, and the comparison of a schema with a result type. */
import type { BundleReport } from "../../../bundle/bundle.js";
import type { ServiceReport } from "../../../operation/service.js";
import * as z from "../../../schema.js";
import type { Schedule } from "../../../service/schedule-state.js";
import type { Json } from "../../ui/json.js";

/** A document that a command prints, or one of several. */
export interface JsonDocument {
  /** When the command prints it; absent if it prints no other. */
  readonly when?: string;
  readonly schema: z.ZodMiniType;
}

/** The documents of commands, by the command's name. */
export type Documents = Readonly<Record<string, readonly JsonDocument[]>>;

/** Returns the documents of a command that prints the same form each time. */
export const only = (schema: z.ZodMiniType): readonly JsonDocument[] => [{ schema }];

type Mutable<Value> = Value extends readonly unknown[]
  ? Mutable<Value[number]>[]
  : Value extends object
    ? { -readonly [Key in keyof Value]: Mutable<Value[Key]> }
    : Value;

type Same<A, B> = [A, B] extends [B, A] ? unknown : never;

export const object = z.strictObject;

/** Returns an object, and makes the compiler compare it with the printed result. */
export function documentOf<Result>() {
  return <Fields extends z.core.$ZodLooseShape>(
    fields: Fields & Same<z.output<ReturnType<typeof object<Fields>>>, Mutable<Json<Result>>>,
  ) => object<Fields>(fields);
}

export const text = (description: string) => z.string().check(z.describe(description));
export const integer = (description: string) => z.int().check(z.describe(description));
export const flag = (description: string) => z.boolean().check(z.describe(description));
export const time = (description: string) => z.iso.datetime().check(z.describe(description));
export const choice = <const Choices extends readonly string[]>(
  choices: Choices,
  description: string,
) => z.enum(choices).check(z.describe(description));

export const texts = (description: string) => z.array(z.string()).check(z.describe(description));
export const integers = (description: string) => z.array(z.int()).check(z.describe(description));
export const list = <Fields extends z.core.$ZodLooseShape>(fields: Fields) =>
  z.array(object(fields));

// The descriptions say what null means.
export const textOrNull = (description: string) => z.nullable(text(description));
export const integerOrNull = (description: string) => z.nullable(integer(description));
export const flagOrNull = (description: string) => z.nullable(flag(description));
export const timeOrNull = (description: string) => z.nullable(time(description));
export const orNull = <Schema extends z.ZodMiniType>(description: string, schema: Schema) =>
  z.nullable(schema).check(z.describe(description));
export const objectOrNull = <Fields extends z.core.$ZodLooseShape>(
  description: string,
  fields: Fields,
) => orNull(description, object(fields));

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

export const counts = object({
  active: integer("Clients that can connect"),
  revoked: integer("Rows of revoked clients"),
});

export const service = documentOf<ServiceReport>()({
  unit: textOrNull("The unit or container; null without one"),
  was_active: flag("Whether it ran before"),
  active: flag("Whether it runs now"),
  stopped_ms: integerOrNull(
    "From the request to stop until it ran again; null if it was not stopped",
  ),
  listening_ms: integerOrNull(
    "From the request to stop until it listened on its ports again; null if it was not stopped, has no known ports, or does not listen after 30 s",
  ),
});

export const bundle = documentOf<BundleReport>()({
  path: text("The bundle's path"),
  key_id: keyId,
  recipients: texts("The age recipients whose keys open it; empty for a bundle with a passphrase"),
});

export const bundleOrNull = orNull(
  "The store's bundle; null if none was written or reused",
  bundle,
);

export const outage = objectOrNull("How long the hub was down; null if it was not stopped", {
  stopped_ms: integer("From the request to stop until the unit ran again"),
  listening_ms: integerOrNull(
    "From the request to stop until it listened on its ports again; null if it has no known ports, or does not listen after 30 s",
  ),
});

export const checks = list({
  name: text("What was checked"),
  ok: flag("False for a finding"),
  severity: choice(
    ["error", "warning", "note"],
    "`error`: data can be lost or is exposed now; `warning`: after a further failure; `note`: no finding",
  ),
  detail: text("What was found"),
  fix: textOrNull("The command or action that fixes it; null without a finding"),
}).check(z.describe("The checks of doctor"));

export const schedule = documentOf<Schedule>()({
  unit: text("The timer"),
  service: text("The timer's service"),
  on_calendar: textOrNull("The time, as in systemd.time(7)"),
  enabled: flag("Whether the timer starts with the user manager"),
  active: flag("Whether the timer runs"),
  next_run: timeOrNull("The next run; null if it is not known"),
  last_run: objectOrNull("The last run; null if there was none", {
    at: time("When the last run began"),
    result: textOrNull(
      "`running`, `success`, or systemd's term for the failure; null before this boot or login",
    ),
    exit_code: integerOrNull("The exit code; null if the run did not exit"),
  }),
  lingers: flag("Whether the user manager starts at boot, without a login"),
  drop_ins: texts("The drop-ins of both units"),
});

export const scheduleOrNull = orNull("The timer of backups; null if none is installed", schedule);

export const drillOrNull = orNull("The timer of drills; null if none is installed", schedule);

export const errorSchema = object({
  code: integer("The exit code of the error's kind"),
  message: text("What happened, and to which path or unit"),
  hint: z.optional(text("What to do; absent if there is nothing to advise")),
});
