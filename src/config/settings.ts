/**
 * The settings file, the environment and the command line's options, as one set of settings.
 *
 * The file is `$XDG_CONFIG_HOME/hivemind-sqlcipher/config.json`. It holds places and choices, never a secret, so it
 * may be read by anyone who may list the folder. An unknown key is refused: a misspelt `bundle_to` that is ignored
 * would be found out on the day the bundle is needed.
 */
import { dirname, isAbsolute } from "node:path";
import { hasCode, StoreError, systemError } from "../errors.js";
import { makeDirectory, replaceFile } from "../fs/atomic.js";
import { assertNotWritableByOthers } from "../fs/private.js";
import { readSmallFile } from "../fs/read.js";
import * as z from "../schema.js";
import { defaultSettingsPath, type Environment, expandPath } from "./paths.js";

/** A relative path in a file would mean another place for every folder the command is started from. */
const place = z.string().check(
  z.minLength(1),
  z.refine((path) => isAbsolute(path) || path === "~" || path.startsWith("~/"), {
    message: "must be an absolute path, or begin with ~/",
  }),
);
const words = z.string().check(z.minLength(1));
const count = z.int().check(z.minimum(0));
/** The settings have a few hundred bytes. */
const longestSettings = 1024 * 1024;

export const serviceKinds = ["auto", "systemd-user", "systemd", "command", "none"] as const;

const sections = {
  store: z.strictObject({
    path: z.optional(place),
    name: z.optional(words),
    subfolder: z.optional(words),
  }),
  backup: z.strictObject({
    to: z.optional(place),
    bundle_to: z.optional(place),
    unit: z.optional(words),
    service: z.optional(z.enum(serviceKinds)),
    stop_command: z.optional(words),
    start_command: z.optional(words),
  }),
  keep: z.strictObject({
    last: z.optional(count),
    daily: z.optional(count),
    weekly: z.optional(count),
    monthly: z.optional(count),
  }),
};

export const settingsSchema = z.strictObject({
  store: z.optional(
    sections.store.check(
      z.refine((store) => store.path === undefined || (!store.name && !store.subfolder), {
        message: "has either a path, or a name and a subfolder",
      }),
    ),
  ),
  passphrase_source: z.optional(words),
  recipients: z.optional(z.array(words)),
  backup: z.optional(sections.backup),
  keep: z.optional(sections.keep),
});

export type Settings = z.infer<typeof settingsSchema>;

/** Settings, and the file they come from. */
export interface SettingsFile {
  readonly path: string;
  readonly settings: Settings;
  /** What the file alone says; undefined if there is none. */
  readonly inFile: Settings | undefined;
  /** Whether the file was named, by `--config` or the environment, and does not exist. */
  readonly missing: boolean;
}

/**
 * The environment's names, each for one setting or option. Only places and sources: a variable is shown by `systemctl show` and
 * inherited by every child, so a secret has no business there and none of these can hold one.
 */
export const environmentKeys = {
  HIVEMIND_SQLCIPHER_CONFIG: "the settings file",
  HIVEMIND_SQLCIPHER_DB: "store.path",
  HIVEMIND_SQLCIPHER_NAME: "store.name",
  HIVEMIND_SQLCIPHER_SUBFOLDER: "store.subfolder",
  HIVEMIND_SQLCIPHER_PASSPHRASE_SOURCE: "passphrase_source",
  HIVEMIND_SQLCIPHER_BACKUP_TO: "backup.to",
  HIVEMIND_SQLCIPHER_BUNDLE_TO: "backup.bundle_to",
  HIVEMIND_SQLCIPHER_UNIT: "backup.unit",
  HIVEMIND_SQLCIPHER_SERVICE: "backup.service",
  HIVEMIND_SQLCIPHER_KEY_CACHE: "off does what --no-key-cache does",
} as const;

/**
 * What holds for one run: an option, else the environment, else the file. `options` are settings too, given on the
 * command line; `config` is `--config`. Paths come back absolute. The file need not exist, for `init` makes it; but
 * where one was named and is not there, `missing` says so, for a misspelt name must not mean "no settings".
 *
 * @throws StoreError `usage` for a file or a variable that does not say what it should, `io` for a file that cannot
 *   be read.
 */
export async function resolveSettings(
  options: Settings = {},
  config?: string,
  environment: Environment = process.env,
): Promise<SettingsFile> {
  const named = config ?? nonEmpty(environment.HIVEMIND_SQLCIPHER_CONFIG);
  const path = expandPath(named ?? defaultSettingsPath(environment), environment);
  const file = await loadSettings(path);
  const merged = over(options, over(fromEnvironment(environment), file ?? {}));
  return {
    path,
    settings: withAbsolutePaths(merged, environment),
    inFile: file,
    missing: file === undefined && named !== undefined,
  };
}

/**
 * A settings file's contents; nothing if it does not exist.
 *
 * @throws StoreError `usage` for broken JSON (with line and column) or a key or value that does not belong there;
 *   `refused` if others can change it, as it names commands to run; `io` if it cannot be read.
 */
export async function loadSettings(path: string): Promise<Settings | undefined> {
  let text: string;
  try {
    const { bytes, stats } = await readSmallFile(path, longestSettings);
    assertNotWritableByOthers(path, stats);
    text = bytes.toString("utf8");
  } catch (error) {
    if (hasCode(error, "ENOENT", "ENOTDIR")) return undefined;
    throw systemError(error, `cannot read the settings file ${path}`);
  }
  let json: unknown;
  try {
    json = JSON.parse(text.replace(/^\uFEFF/, ""));
  } catch (error) {
    throw new StoreError("usage", `${path} is not JSON: ${whereJsonBreaks(text, error)}`, {
      hint: "mend it there, or move the file away and run: hivemind-sqlcipher init",
    });
  }
  const parsed = settingsSchema.safeParse(json);
  if (!parsed.success) throw badSettings(path, parsed.error);
  return parsed.data;
}

/** Writes the settings file in one step; its folder is made if need be. */
export async function saveSettings(path: string, settings: Settings): Promise<void> {
  const checked = settingsSchema.parse(settings);
  await makeDirectory(dirname(path));
  await replaceFile(path, `${JSON.stringify(checked, null, 2)}\n`);
}

function fromEnvironment(environment: Environment): Settings {
  const get = (name: keyof typeof environmentKeys) => nonEmpty(environment[name]);
  const service = get("HIVEMIND_SQLCIPHER_SERVICE");
  const kind = serviceKinds.find((known) => known === service);
  if (service !== undefined && kind === undefined) {
    throw new StoreError("usage", `HIVEMIND_SQLCIPHER_SERVICE is "${service}"`, {
      hint: `it is one of: ${serviceKinds.join(", ")}`,
    });
  }
  return {
    store: defined({
      path: get("HIVEMIND_SQLCIPHER_DB"),
      name: get("HIVEMIND_SQLCIPHER_NAME"),
      subfolder: get("HIVEMIND_SQLCIPHER_SUBFOLDER"),
    }),
    ...defined({ passphrase_source: get("HIVEMIND_SQLCIPHER_PASSPHRASE_SOURCE") }),
    backup: defined({
      to: get("HIVEMIND_SQLCIPHER_BACKUP_TO"),
      bundle_to: get("HIVEMIND_SQLCIPHER_BUNDLE_TO"),
      unit: get("HIVEMIND_SQLCIPHER_UNIT"),
      service: kind,
    }),
  };
}

/**
 * Whether the environment says that no derived key is to be kept in the keyring.
 *
 * @throws StoreError `usage` if it says anything but `on` or `off`.
 */
export function isKeyCacheOff(environment: Environment = process.env): boolean {
  const value = nonEmpty(environment.HIVEMIND_SQLCIPHER_KEY_CACHE) ?? "on";
  if (value === "on" || value === "off") return value === "off";
  throw new StoreError("usage", `HIVEMIND_SQLCIPHER_KEY_CACHE is "${value}"`, {
    hint: "it is on or off",
  });
}

/** An unset variable and an empty one mean the same, as for the XDG variables. */
function nonEmpty(value: string | undefined): string | undefined {
  return value === "" ? undefined : value;
}

type Defined<T> = { [Key in keyof T]?: Exclude<T[Key], undefined> };

function defined<T extends object>(fields: T): Defined<T> {
  return Object.fromEntries(
    Object.entries(fields).filter(([, value]) => value !== undefined),
  ) as Defined<T>;
}

/** `upper` over `lower`. A store named by path and one named by name are two ways to say one thing, so one way wins. */
function over(upper: Settings, lower: Settings): Settings {
  const store = defined(upper.store ?? {});
  const lowerStore = lower.store ?? {};
  const belowStore =
    store.path !== undefined
      ? {}
      : store.name !== undefined || store.subfolder !== undefined
        ? defined({ name: lowerStore.name, subfolder: lowerStore.subfolder })
        : lowerStore;
  return {
    ...lower,
    ...defined({ passphrase_source: upper.passphrase_source, recipients: upper.recipients }),
    store: { ...belowStore, ...store },
    backup: { ...lower.backup, ...defined(upper.backup ?? {}) },
    keep: { ...lower.keep, ...defined(upper.keep ?? {}) },
  };
}

function withAbsolutePaths(settings: Settings, environment: Environment): Settings {
  const absolute = (path: string | undefined) =>
    path === undefined ? undefined : expandPath(path, environment);
  return {
    ...settings,
    store: { ...settings.store, ...defined({ path: absolute(settings.store?.path) }) },
    backup: {
      ...settings.backup,
      ...defined({
        to: absolute(settings.backup?.to),
        bundle_to: absolute(settings.backup?.bundle_to),
      }),
    },
  };
}

function badSettings(path: string, error: z.core.$ZodError): StoreError {
  const issue = error.issues[0];
  const key = issue?.path.join(".") ?? "";
  if (issue?.code === "unrecognized_keys") {
    const unknown = issue.keys.map((name) => (key === "" ? name : `${key}.${name}`)).join(", ");
    return new StoreError("usage", `${path}: unknown key ${unknown}`, {
      hint: `${key === "" ? "the settings know" : `"${key}" knows`}: ${knownKeys(issue.path).join(", ")}`,
    });
  }
  const message = issue?.message ?? "not understood";
  return new StoreError("usage", `${path}: ${key === "" ? "the settings" : key}: ${message}`, {
    hint: "correct it there; README.md lists the settings",
  });
}

/** What the settings, or a section of them, may hold. */
function knownKeys([section]: readonly PropertyKey[]): string[] {
  const schema =
    section === undefined ? settingsSchema : sections[section as keyof typeof sections];
  return Object.keys(schema.shape);
}

/** V8 says where by an offset, by line and column, or (at the end of the text) not at all, depending on its version. */
function whereJsonBreaks(text: string, error: unknown): string {
  const message = error instanceof Error ? error.message : String(error);
  const offset = /at position (\d+)/.exec(message)?.[1];
  const before = text.slice(0, offset === undefined ? text.length : Number(offset));
  const line = before.split("\n").length;
  const column = before.length - before.lastIndexOf("\n");
  const beforeExcerpt = message.endsWith("is not valid JSON")
    ? message.slice(0, message.search(/,? ?(?:"|\.\.\.)/))
    : message;
  const what = beforeExcerpt.replace(/ (in JSON )?at position.*/s, "");
  return `line ${line}, column ${column}: ${what}`;
}
