/**
 * The settings file: its schema, reading and writing.
 *
 * The file is `$XDG_CONFIG_HOME/hivemind-sqlcipher/config.json`. It contains paths and choices, but
 * no secret. Its top level belongs to the store in `store`, or else to the default store. Any other
 * store has a section below `stores`, so a command for a store neither reads nor changes the backup
 * directories, unit and recipients of another.
 */
import { dirname, isAbsolute } from "node:path";
import { hasCode, isKind, messageOf, StoreError, systemError } from "../errors.js";
import { makeDirectory, replaceFile } from "../fs/atomic.js";
import { detectEncoding } from "../fs/encoding.js";
import { recogniseFile, withFileKind } from "../fs/file-kind.js";
import { assertNotWritableByOthers } from "../fs/private.js";
import { readSmallFile } from "../fs/read.js";
import * as z from "../schema.js";
import { shellQuote } from "../text/escape.js";
import { expandPath, isRemote, resolveStorePath } from "./paths.js";

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

const maxSettingsBytes = 1024 * 1024;

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

const storeSettings = {
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
  ...storeSettings,
  stores: z.optional(z.record(path, z.strictObject(storeSettings))),
});

export type SettingsFile = z.infer<typeof settingsSchema>;

/**
 * The settings of a store. `store` exists only at the top level and names the store of that level.
 */
export type Settings = Omit<SettingsFile, "stores">;

export interface SettingsSection {
  /** Path of the file. */
  readonly path: string;
  /** Key below `stores`; undefined for the top level. */
  readonly store: string | undefined;
}

/** Receives each error in the settings. Such an error is not thrown. */
export type OnProblem = (problem: StoreError) => void;

/**
 * Reads a settings file. Returns undefined if it does not exist.
 *
 * @throws {@link StoreError} usage - for broken JSON, an unknown key or an invalid value: a
 *   misspelt `bundle_to` would otherwise be noticed when the bundle is needed
 * @throws {@link StoreError} refused - if other users can change it, because it contains commands
 * @throws {@link StoreError} corrupted - if it is not a regular file, or longer than 1 MiB
 * @throws {@link StoreError} io - if it cannot be read
 */
export async function loadSettings(
  path: string,
  onProblem?: OnProblem,
): Promise<SettingsFile | undefined> {
  try {
    const { bytes, stats } = await readSmallFile(path, maxSettingsBytes);
    assertNotWritableByOthers(path, stats);
    // Bytes that are not text are reported as invalid JSON.
    const text = new TextDecoder(detectEncoding(bytes)).decode(bytes);
    return parseSettings(text, path, onProblem);
  } catch (error) {
    if (hasCode(error, "ENOENT", "ENOTDIR")) return undefined;
    const problem = systemError(error, `cannot read the settings file ${path}`);
    if (!onProblem) {
      throw withFileKind(problem, await recogniseFile(path), ["settings", "passphrase", "empty"]);
    }
    onProblem(problem);
    return {};
  }
}

function parseSettings(text: string, path: string, onProblem?: OnProblem): SettingsFile {
  let json: unknown;
  try {
    json = JSON.parse(text);
  } catch (error) {
    throw new StoreError("usage", `${path} is not JSON: ${locateSyntaxError(text, error)}`, {
      hint: `Correct it there, or write new settings: mv ${shellQuote(path)} ${shellQuote(`${path}.broken`)} && hivemind-sqlcipher backup --to DIRECTORY --bundle-to DIRECTORY --recipient RECIPIENT`,
    });
  }
  return selectValid(json, path, onProblem);
}

/** Returns the valid part of the settings. Throws the first error if there is no `onProblem`. */
function selectValid(json: unknown, path: string, onProblem?: OnProblem): SettingsFile {
  const parsed = settingsSchema.safeParse(json);
  if (parsed.success) return parsed.data;
  const { issues } = parsed.error;
  if (!onProblem) throw invalidSettings(path, issues[0]);
  for (const issue of issues) onProblem(invalidSettings(path, issue));
  // Some checks of a section, such as that of `store`, run only if the rest of it is valid.
  return removeInvalid(json, issues) ? selectValid(json, path, onProblem) : {};
}

/**
 * Removes invalid keys and values; of a list with an invalid element, the whole list.
 *
 * @returns whether there was anything to remove
 */
function removeInvalid(json: unknown, issues: readonly z.core.$ZodIssue[]): boolean {
  let isRemoved = false;
  for (const issue of issues) {
    const index = issue.path.findIndex((key) => typeof key === "number");
    const path = index === -1 ? issue.path : issue.path.slice(0, index);
    const isUnknown = issue.code === "unrecognized_keys";
    let parent = json as Record<PropertyKey, unknown> | undefined;
    for (const key of isUnknown ? path : path.slice(0, -1)) parent = parent?.[key] as typeof parent;
    for (const key of isUnknown ? issue.keys : path.slice(-1)) {
      if (parent === undefined || !Object.hasOwn(parent, key)) continue;
      delete parent[key];
      isRemoved = true;
    }
  }
  return isRemoved;
}

/**
 * Writes a settings file atomically. Creates its directory if necessary. Takes no lock, unlike
 * `changeSettings`.
 */
export async function saveSettings(path: string, settings: SettingsFile): Promise<void> {
  const checked = settingsSchema.parse(settings);
  await makeDirectory(dirname(path));
  await replaceFile(path, `${JSON.stringify(checked, null, 2)}\n`);
}

/** Reads the settings of a store. Returns undefined if the file does not exist. */
export async function loadSection({ path, store }: SettingsSection): Promise<Settings | undefined> {
  const file = await loadSettings(path);
  return file && selectSection(file, store);
}

export async function hasSection({ path, store: key }: SettingsSection): Promise<boolean> {
  const stores = (await loadSettings(path))?.stores ?? {};
  return key !== undefined && Object.hasOwn(stores, key);
}

/** Returns the section of a store in an existing file: its own section, or else the top level. */
export async function findSection(path: string, storePath: string): Promise<SettingsSection> {
  const file = await loadSettings(path);
  return { path, store: file && (await findSectionKey(file, storePath)) };
}

/**
 * Returns the key of a store's section below `stores`; undefined if the store has none. Compares
 * resolved paths, so that a store keeps its section when a link replaces its directory. Does not
 * resolve a path that is unreachable, for example on a network share.
 */
export async function findSectionKey(
  file: SettingsFile,
  storePath: string,
): Promise<string | undefined> {
  for (const key of Object.keys(file.stores ?? {})) {
    const resolved = await resolveStorePath({ path: key }).catch((error: unknown) => {
      if (!isKind(error, "io", "refused")) throw error;
      return expandPath(key);
    });
    if (resolved === storePath) return key;
  }
  return undefined;
}

export function selectSection(
  { stores, ...topLevel }: SettingsFile,
  key: string | undefined,
): Settings {
  return key === undefined ? topLevel : (stores?.[key] ?? {});
}

/**
 * Returns the path of every store in a settings file, and its settings. Their `store` is undefined
 * only for the default store.
 */
export async function loadStoreSections(
  path: string,
): Promise<(readonly [storePath: string, settings: Settings])[]> {
  const { stores = {}, ...topLevel } = (await loadSettings(path)) ?? {};
  const sections: [string, Settings][] = [[await resolveStorePath(topLevel.store), topLevel]];
  for (const [key, section] of Object.entries(stores)) {
    sections.push([await resolveStorePath({ path: key }), { ...section, store: { path: key } }]);
  }
  return sections;
}

/** Returns a file with other settings of a store, and the same settings of other stores. */
export function withSection(
  { stores, ...topLevel }: SettingsFile,
  key: string | undefined,
  settings: Settings,
): SettingsFile {
  if (key === undefined) return { ...settings, ...(stores && { stores }) };
  const { store: _, ...section } = settings;
  return { ...topLevel, stores: { ...stores, [key]: section } };
}

/** Returns a file without the section of a store. */
export function withoutSection(
  { stores = {}, ...topLevel }: SettingsFile,
  key: string | undefined,
): SettingsFile {
  const others = Object.entries(stores).filter(([name]) => name !== key);
  return { ...topLevel, ...(others.length > 0 && { stores: Object.fromEntries(others) }) };
}

function invalidSettings(path: string, issue: z.core.$ZodIssue | undefined): StoreError {
  const key = issue?.path.join(".") ?? "";
  if (issue?.code === "unrecognized_keys") {
    const unknown = issue.keys.map((name) => (key === "" ? name : `${key}.${name}`)).join(", ");
    return new StoreError("usage", `${path}: unknown key ${unknown}`, {
      hint: `Use one of: ${listKnownKeys(issue.path).join(", ")}.`,
    });
  }
  const message = issue?.message ?? "not understood";
  return new StoreError("usage", `${path}: ${key === "" ? "the settings" : key}: ${message}`, {
    hint: "Correct it there; docs/reference/settings.md describes each setting.",
  });
}

/** Returns the valid keys at the top level of the settings, or in a section. */
function listKnownKeys(path: readonly PropertyKey[]): string[] {
  const [section] = path[0] === "stores" ? path.slice(2) : path;
  if (section !== undefined) return Object.keys(sections[section as keyof typeof sections].shape);
  return Object.keys(path[0] === "stores" ? storeSettings : settingsSchema.shape);
}

/**
 * Returns the position and the cause of a syntax error. Some versions of V8 report no offset for an
 * unexpected end of the text.
 */
function locateSyntaxError(text: string, error: unknown): string {
  const message = messageOf(error);
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
