/**
 * Settings of a store, from the command line, else the environment, else the settings file.
 *
 * The file is `$XDG_CONFIG_HOME/hivemind-sqlcipher/config.json`. It contains paths and choices, but
 * no secret. Its top level belongs to the default store. Any other store has a section below
 * `stores`, so a command for a store neither reads nor changes the backup directories, unit and
 * recipients of another.
 */
import { dirname, isAbsolute } from "node:path";
import { hasCode, isKind, StoreError, systemError } from "../errors.js";
import { makeDirectory, replaceFile } from "../fs/atomic.js";
import { decodeText } from "../fs/encoding.js";
import { explain, recogniseFile } from "../fs/file-kind.js";
import { assertNotWritableByOthers } from "../fs/private.js";
import { lstatIfExists, readSmallFile } from "../fs/read.js";
import * as z from "../schema.js";
import {
  defaultSettingsPath,
  type Environment,
  expandPath,
  expandTarget,
  isRemote,
  resolveStorePath,
  type StoreLocation,
  storePath as unresolvedStorePath,
} from "./paths.js";

/** Refuses a relative path, which would depend on the working directory. */
const path = z.string().check(
  z.minLength(1),
  z.refine((path) => isAbsolute(path) || path === "~" || path.startsWith("~/"), {
    message: "must be an absolute path, or begin with ~/",
  }),
);
const text = z.string().check(z.minLength(1));
/** A directory or remote for copies of backups or bundles. */
const target = z.string().check(
  z.refine((target) => isRemote(target) || path.safeParse(target).success, {
    message: "must be an absolute path, or begin with ~/ or rclone:",
  }),
);
const count = z.int().check(z.minimum(0));

/** A program and its arguments. The path is absolute, because a timer has another PATH. */
const program = z.tuple([path], text);
const webAddress = z.url({ protocol: /^https?$/, message: "must be an http or https URL" });

/** In bytes. */
const settingsLimit = 1024 * 1024;

export const serviceKinds = [
  "auto",
  "systemd-user",
  "systemd",
  "podman",
  "docker",
  "command",
  "none",
] as const;

const sections = {
  store: z.strictObject({
    path: z.optional(path),
    name: z.optional(text),
    subfolder: z.optional(text),
  }),
  backup: z.strictObject({
    to: z.optional(path),
    bundle_to: z.optional(path),
    copies: z.optional(z.array(target)),
    unit: z.optional(text),
    service: z.optional(z.enum(serviceKinds)),
    stop_command: z.optional(text),
    start_command: z.optional(text),
  }),
  bundle: z.strictObject({ copies: z.optional(z.array(target)) }),
  keep: z.strictObject({
    last: z.optional(count),
    daily: z.optional(count),
    weekly: z.optional(count),
    monthly: z.optional(count),
  }),
  hooks: z.strictObject({
    before: z.optional(program),
    success: z.optional(program),
    failure: z.optional(program),
    ping: z.optional(webAddress),
  }),
  metrics: z.strictObject({ file: z.optional(path) }),
};

const ofOneStore = {
  passphrase_source: z.optional(text),
  recipients: z.optional(z.array(text)),
  backup: z.optional(sections.backup),
  bundle: z.optional(sections.bundle),
  keep: z.optional(sections.keep),
  hooks: z.optional(sections.hooks),
  metrics: z.optional(sections.metrics),
};

export const settingsSchema = z.strictObject({
  store: z.optional(
    sections.store.check(
      z.refine((store) => store.path === undefined || (!store.name && !store.subfolder), {
        message: "has either a path, or a name and a subfolder",
      }),
    ),
  ),
  ...ofOneStore,
  stores: z.optional(z.record(path, z.strictObject(ofOneStore))),
});

/** The contents of a settings file. */
export type SettingsFile = z.infer<typeof settingsSchema>;

/**
 * The settings of a store. `store` exists only at the top level and names the store of the file.
 */
export type Settings = Omit<SettingsFile, "stores">;

/** The part of a settings file for a store. */
export interface SettingsSection {
  /** Path of the file. */
  readonly path: string;
  /** Key below `stores`; undefined for the top level. */
  readonly store: string | undefined;
}

/** The settings of a command, and where they are stored. */
export interface ResolvedSettings {
  /** Path of the settings file. */
  readonly path: string;
  /** Path of the store, with all symbolic links resolved. */
  readonly storePath: string;
  readonly settings: Settings;
  /** The settings in the file for this store; undefined without a file. */
  readonly inFile: Settings | undefined;
  readonly section: SettingsSection;
  /** Whether the named settings file does not exist. */
  readonly missing: boolean;
}

/**
 * The environment variables with their settings or options. None may contain a secret: `systemctl
 * show` prints variables, and every child process inherits them.
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

/** Receives a problem in the settings instead of an exception. */
export type OnProblem = (problem: StoreError) => void;

export interface SettingsSources {
  /** The option `--config`. */
  readonly config?: string | undefined;
  readonly environment?: Environment;
  /** Returns the default store, used if no option, variable or file names a store. */
  readonly defaultStore?: () => Promise<StoreLocation>;
  /** Whether the command creates the store. The first store of a file gets the top level. */
  readonly isNewStore?: boolean;
  /** Receives errors in the file and the environment, which are then ignored. */
  readonly onProblem?: OnProblem | undefined;
}

/**
 * Merges the settings of a command: options win over the environment, which wins over the file.
 * Makes paths absolute.
 *
 * @param options - settings from the command line
 * @throws {@link StoreError} usage - for an invalid file or variable
 * @throws {@link StoreError} io - for an unreadable file
 */
export async function resolveSettings(
  options: Settings = {},
  sources: SettingsSources = {},
): Promise<ResolvedSettings> {
  const { environment = process.env, onProblem } = sources;
  const named = sources.config ?? nonEmpty(environment.HIVEMIND_SQLCIPHER_CONFIG);
  const path = expandPath(named ?? defaultSettingsPath(environment), environment);
  const file = await loadSettings(path, onProblem);
  const given = over(options, fromEnvironment(environment, onProblem));
  const location = over(given, { store: file?.store }).store ?? {};
  const resolve = async (store: StoreLocation) =>
    resolveStorePath(
      isStoreNamed(store) ? store : ((await sources.defaultStore?.()) ?? {}),
      environment,
    );
  const storePath = await resolve(location);
  const key = await sectionKey(file, storePath, {
    newKey: unresolvedStorePath(location, environment),
    // A command that names its store does not depend on the hub's server.json.
    defaultPath: () =>
      resolve(file?.store ?? {}).catch((error: unknown) => {
        if (!isKind(error, "refused")) throw error;
        return resolveStorePath({}, environment);
      }),
    isNewStore: sources.isNewStore ?? false,
  });
  const inFile = file && settingsIn(file, key);
  const merged = over(given, { ...inFile, store: file?.store });
  return {
    path,
    storePath,
    settings: withAbsolutePaths(merged, environment),
    inFile,
    section: { path, store: key },
    missing: file === undefined && named !== undefined,
  };
}

export function isStoreNamed(store: StoreLocation | undefined): boolean {
  return Object.values(store ?? {}).some((value) => value !== undefined);
}

/**
 * Returns the key of a store's section below `stores`, or undefined for the top level.
 *
 * The top level belongs to the store in `store`, or else to the default store. A file of version
 * 0.1.0 may have no `store`, without a default store on the disk. Such a file was written for
 * stores named by each command, and belongs to any of them.
 */
async function sectionKey(
  file: SettingsFile | undefined,
  storePath: string,
  context: {
    newKey: string;
    defaultPath: () => Promise<string>;
    isNewStore: boolean;
  },
): Promise<string | undefined> {
  const own = file && (await findSectionKey(file, storePath));
  if (own !== undefined) return own;
  const { stores: _, ...topLevel } = file ?? {};
  const isUnused = Object.keys(topLevel).length === 0;
  if (isUnused && context.isNewStore) return undefined;
  const defaultPath = await context.defaultPath();
  if (storePath === defaultPath) return undefined;
  if (!isUnused && !file?.store && !(await lstatIfExists(defaultPath))) return undefined;
  return context.newKey;
}

/**
 * Finds a store's section by resolved paths, so that a section stays a store's when its directory
 * moves behind a link.
 */
async function findSectionKey(file: SettingsFile, storePath: string): Promise<string | undefined> {
  for (const key of Object.keys(file.stores ?? {})) {
    if ((await resolveStorePath({ path: key })) === storePath) return key;
  }
  return undefined;
}

function settingsIn({ stores, ...topLevel }: SettingsFile, key: string | undefined): Settings {
  return key === undefined ? topLevel : (stores?.[key] ?? {});
}

/**
 * Reads a settings file. Returns undefined if it does not exist.
 *
 * @throws {@link StoreError} usage - for broken JSON, an unknown key or an invalid value: a
 *   misspelt `bundle_to` would otherwise be noticed when the bundle is needed
 * @throws {@link StoreError} refused - if other users can change it, because it contains commands
 * @throws {@link StoreError} io - if it cannot be read
 */
export async function loadSettings(
  path: string,
  onProblem?: OnProblem,
): Promise<SettingsFile | undefined> {
  try {
    const { bytes, stats } = await readSmallFile(path, settingsLimit);
    assertNotWritableByOthers(path, stats);
    return parseSettings(textOf(bytes), path, onProblem);
  } catch (error) {
    if (hasCode(error, "ENOENT", "ENOTDIR")) return undefined;
    const problem = systemError(error, `cannot read the settings file ${path}`);
    if (!onProblem) {
      throw explain(problem, await recogniseFile(path), ["settings", "passphrase", "empty"]);
    }
    onProblem(problem);
    return {};
  }
}

/** Bytes that are not text do not parse as JSON, which is the error to report. */
function textOf(bytes: Buffer): string {
  try {
    return decodeText(bytes);
  } catch {
    return bytes.toString("utf8");
  }
}

function parseSettings(text: string, path: string, onProblem?: OnProblem): SettingsFile {
  let json: unknown;
  try {
    json = JSON.parse(text.replace(/^\uFEFF/, ""));
  } catch (error) {
    throw new StoreError("usage", `${path} is not JSON: ${whereJsonBreaks(text, error)}`, {
      hint: `Correct it there, or write new settings: mv '${path}' '${path}.broken' && hivemind-sqlcipher backup --to DIRECTORY --bundle-to DIRECTORY --recipient RECIPIENT`,
    });
  }
  const parsed = settingsSchema.safeParse(json);
  if (parsed.success) return parsed.data;
  if (!onProblem) throw invalidSettings(path, parsed.error.issues[0]);
  for (const issue of parsed.error.issues) onProblem(invalidSettings(path, issue));
  const valid = settingsSchema.safeParse(withoutInvalid(json, parsed.error.issues));
  return valid.success ? valid.data : {};
}

/** Removes invalid keys and values. */
function withoutInvalid(json: unknown, issues: readonly z.core.$ZodIssue[]): unknown {
  const copy = structuredClone(json);
  for (const issue of issues) {
    const paths =
      issue.code === "unrecognized_keys"
        ? issue.keys.map((key) => [...issue.path, key])
        : [issue.path];
    for (const path of paths) removeAt(copy, path);
  }
  return copy;
}

function removeAt(json: unknown, path: readonly PropertyKey[]): void {
  const parent = path
    .slice(0, -1)
    .reduce<unknown>((value, key) => (value as Record<PropertyKey, unknown>)?.[key], json);
  const key = path.at(-1);
  if (typeof parent === "object" && parent !== null && key !== undefined) {
    delete (parent as Record<PropertyKey, unknown>)[key];
  }
}

/** Writes a settings file atomically. Creates its directory if necessary. */
export async function saveSettings(path: string, settings: SettingsFile): Promise<void> {
  const checked = settingsSchema.parse(settings);
  await makeDirectory(dirname(path));
  await replaceFile(path, `${JSON.stringify(checked, null, 2)}\n`);
}

/** Reads the settings of a store. Returns undefined if the file does not exist. */
export async function loadSection({ path, store }: SettingsSection): Promise<Settings | undefined> {
  const file = await loadSettings(path);
  return file && settingsIn(file, store);
}

/** Writes the settings of a store. Does not change the settings of other stores in the file. */
export async function saveSection(
  { path, store: key }: SettingsSection,
  settings: Settings,
): Promise<void> {
  const file = await loadSettings(path);
  if (key === undefined) {
    const stores = file?.stores;
    return saveSettings(path, { ...settings, ...(stores && { stores }) });
  }
  const { store: _, ...section } = settings;
  await saveSettings(path, { ...file, stores: { ...file?.stores, [key]: section } });
}

/** Returns whether a store has a section of its own in the file. */
export async function hasSection({ path, store: key }: SettingsSection): Promise<boolean> {
  const stores = (await loadSettings(path))?.stores ?? {};
  return key !== undefined && Object.hasOwn(stores, key);
}

/** Removes a store's own section from the file. */
export async function removeSection({ path, store: key }: SettingsSection): Promise<void> {
  const { stores = {}, ...file } = (await loadSettings(path)) ?? {};
  const others = Object.entries(stores).filter(([name]) => name !== key);
  const isLast = others.length === 0;
  await saveSettings(path, { ...file, ...(!isLast && { stores: Object.fromEntries(others) }) });
}

/** Returns the section of a store in an existing file: its own section, or else the top level. */
export async function findSection(path: string, storePath: string): Promise<SettingsSection> {
  const file = await loadSettings(path);
  return { path, store: file && (await findSectionKey(file, storePath)) };
}

function fromEnvironment(environment: Environment, onProblem?: OnProblem): Settings {
  const get = (name: keyof typeof environmentKeys) => nonEmpty(environment[name]);
  const service = get("HIVEMIND_SQLCIPHER_SERVICE");
  const kind = serviceKinds.find((known) => known === service);
  if (service !== undefined && kind === undefined) {
    const problem = new StoreError("usage", `HIVEMIND_SQLCIPHER_SERVICE is "${service}"`, {
      hint: `Set it to one of: ${serviceKinds.join(", ")}.`,
    });
    if (!onProblem) throw problem;
    onProblem(problem);
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
 * Returns whether the environment switches off the derived key in the keyring.
 *
 * @throws {@link StoreError} usage - for any value but `on` and `off`
 */
export function isKeyCacheOff(environment: Environment = process.env): boolean {
  const value = nonEmpty(environment.HIVEMIND_SQLCIPHER_KEY_CACHE) ?? "on";
  if (value === "on" || value === "off") return value === "off";
  throw new StoreError("usage", `HIVEMIND_SQLCIPHER_KEY_CACHE is "${value}"`, {
    hint: "Set it to on or off.",
  });
}

/** Returns undefined for an empty variable, which counts as unset, as for the XDG variables. */
function nonEmpty(value: string | undefined): string | undefined {
  return value === "" ? undefined : value;
}

type Defined<T> = { [Key in keyof T]?: Exclude<T[Key], undefined> };

function defined<T extends object>(fields: T): Defined<T> {
  return Object.fromEntries(
    Object.entries(fields).filter(([, value]) => value !== undefined),
  ) as Defined<T>;
}

/** Merges `upper` over `lower`. A store's path and its name exclude each other; `upper` decides. */
function over(upper: Settings, lower: Settings): Settings {
  const store = defined(upper.store ?? {});
  const lowerStore = defined(lower.store ?? {});
  const { path: _, ...lowerNames } = lowerStore;
  const keptStore = store.path !== undefined ? {} : isStoreNamed(store) ? lowerNames : lowerStore;
  return {
    ...lower,
    ...defined({
      passphrase_source: upper.passphrase_source,
      recipients: upper.recipients,
      bundle: upper.bundle,
    }),
    store: { ...keptStore, ...store },
    backup: defined({
      ...lower.backup,
      ...defined(upper.backup ?? {}),
      ...serviceOver(upper.backup ?? {}, lower.backup ?? {}),
    }),
    keep: { ...lower.keep, ...defined(upper.keep ?? {}) },
  };
}

export type ServiceSettings = Pick<
  NonNullable<Settings["backup"]>,
  "unit" | "service" | "stop_command" | "start_command"
>;

/**
 * Merges the settings of the service. Any of them in `upper` replaces contradicting settings in
 * `lower`: a unit or commands in an option have an effect although the file names `none`, and
 * `auto` searches for the service although the file names a unit.
 */
export function serviceOver(upper: ServiceSettings, lower: ServiceSettings): ServiceSettings {
  const { unit, service, stop_command: stop, start_command: start } = upper;
  const none = { unit: undefined, service, stop_command: undefined, start_command: undefined };
  const commands = {
    stop_command: stop ?? lower.stop_command,
    start_command: start ?? lower.start_command,
  };
  if (stop !== undefined || start !== undefined) {
    return { ...none, unit, service: service ?? "command", ...commands };
  }
  if (unit !== undefined) return { ...none, unit, service: service ?? "auto" };
  switch (service) {
    case undefined:
      return { ...none, unit: lower.unit, service: lower.service, ...commands };
    case "command":
      return { ...none, ...commands };
    case "systemd":
    case "systemd-user":
      return { ...none, unit: isContainerKind(lower.service) ? undefined : lower.unit };
    case "podman":
    case "docker":
      return { ...none, unit: isContainerKind(lower.service) ? lower.unit : undefined };
    default:
      return none;
  }
}

/** The setting `unit` is then the name of a container. */
function isContainerKind(kind: ServiceSettings["service"]): boolean {
  return kind === "podman" || kind === "docker";
}

function withAbsolutePaths(settings: Settings, environment: Environment): Settings {
  const absolute = (path: string | undefined) =>
    path === undefined ? undefined : expandPath(path, environment);
  const absoluteTargets = (targets: readonly string[] | undefined) =>
    targets?.map((target) => expandTarget(target, environment));
  return {
    ...settings,
    store: { ...settings.store, ...defined({ path: absolute(settings.store?.path) }) },
    backup: {
      ...settings.backup,
      ...defined({
        to: absolute(settings.backup?.to),
        bundle_to: absolute(settings.backup?.bundle_to),
        copies: absoluteTargets(settings.backup?.copies),
      }),
    },
    ...(settings.bundle?.copies && {
      bundle: { copies: absoluteTargets(settings.bundle.copies) },
    }),
    ...(settings.hooks && { hooks: withAbsolutePrograms(settings.hooks, environment) }),
    ...(settings.metrics?.file !== undefined && {
      metrics: { file: absolute(settings.metrics.file) },
    }),
  };
}

function withAbsolutePrograms(
  hooks: NonNullable<Settings["hooks"]>,
  environment: Environment,
): NonNullable<Settings["hooks"]> {
  const absolute = (hook: z.infer<typeof program> | undefined): typeof hook =>
    hook && [expandPath(hook[0], environment), ...hook.slice(1)];
  const { before, success, failure, ping } = hooks;
  return defined({
    ...{ before: absolute(before), success: absolute(success), failure: absolute(failure) },
    ping,
  });
}

function invalidSettings(path: string, issue: z.core.$ZodIssue | undefined): StoreError {
  const key = issue?.path.join(".") ?? "";
  if (issue?.code === "unrecognized_keys") {
    const unknown = issue.keys.map((name) => (key === "" ? name : `${key}.${name}`)).join(", ");
    return new StoreError("usage", `${path}: unknown key ${unknown}`, {
      hint: `Use one of: ${knownKeys(issue.path).join(", ")}.`,
    });
  }
  const message = issue?.message ?? "not understood";
  return new StoreError("usage", `${path}: ${key === "" ? "the settings" : key}: ${message}`, {
    hint: "Correct it there; docs/reference/settings.md describes each setting.",
  });
}

/** Returns the known keys of the settings, or of a section. */
function knownKeys(path: readonly PropertyKey[]): string[] {
  const [section] = path[0] === "stores" ? path.slice(2) : path;
  if (section !== undefined) return Object.keys(sections[section as keyof typeof sections].shape);
  return Object.keys(path[0] === "stores" ? ofOneStore : settingsSchema.shape);
}

/**
 * Locates a syntax error. By its version, V8 reports an offset, or nothing for the end of the text.
 */
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
