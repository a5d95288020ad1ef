/** Merges a store's settings from the command line, the environment and the settings file. */
import { isKind, StoreError } from "../errors.js";
import { lstatIfExists } from "../fs/read.js";
import {
  defaultSettingsPath,
  type Environment,
  expandPath,
  expandTarget,
  resolveStorePath,
  type StoreLocation,
  unresolvedStorePath,
} from "./paths.js";
import {
  findSectionKey,
  loadSettings,
  type OnProblem,
  type Settings,
  type SettingsFile,
  type SettingsSection,
  selectSection,
  serviceKinds,
} from "./settings-file.js";

export interface ResolvedSettings {
  /** Path of the settings file. */
  readonly path: string;
  /** Path of the store, with all symbolic links resolved. */
  readonly storePath: string;
  readonly settings: Settings;
  readonly inFile: Settings | undefined;
  readonly section: SettingsSection;
  /** Whether an option or variable names a settings file that does not exist. */
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

export interface SettingsSources {
  readonly config?: string | undefined;
  readonly environment?: Environment;
  /** Returns the default store, used if no option, variable or file names a store. */
  readonly defaultStore?: () => Promise<StoreLocation>;
  /** Whether the command creates the store. A created store gets an unused top level. */
  readonly isNewStore?: boolean;
  /** Receives each error in the file and the environment. Invalid settings are then ignored. */
  readonly onProblem?: OnProblem | undefined;
}

/**
 * Merges the settings of a command: options win over the environment, which wins over the file.
 * Makes paths absolute.
 *
 * @param options - settings from the command line
 * @throws {@link StoreError} usage - for an invalid file, variable or path of the store
 */
export async function resolveSettings(
  options: Settings = {},
  sources: SettingsSources = {},
): Promise<ResolvedSettings> {
  const { environment = process.env, onProblem } = sources;
  const named = sources.config ?? nonEmpty(environment.HIVEMIND_SQLCIPHER_CONFIG);
  const path = expandPath(named ?? defaultSettingsPath(environment), environment);
  const file = await loadSettings(path, onProblem);
  const given = mergeSettings(options, readEnvironment(environment, onProblem));
  const location = mergeSettings(given, { store: file?.store }).store ?? {};
  const resolve = async (store: StoreLocation) =>
    resolveStorePath(
      isStoreNamed(store) ? store : ((await sources.defaultStore?.()) ?? {}),
      environment,
    );
  const storePath = await resolve(location);
  const key = await resolveSectionKey(file, storePath, {
    newKey: unresolvedStorePath(location, environment),
    defaultPath: () =>
      resolve(file?.store ?? {}).catch((error: unknown) => {
        if (file?.store && isStoreNamed(file.store) && isKind(error, "io", "refused")) {
          return unresolvedStorePath(file.store, environment);
        }
        // A command that names its store does not depend on the hub's server.json.
        if (!isKind(error, "refused")) throw error;
        return resolveStorePath({}, environment);
      }),
    isNewStore: sources.isNewStore ?? false,
  });
  const inFile = file && selectSection(file, key);
  const merged = mergeSettings(given, { ...inFile, store: file?.store });
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
 * The top level belongs to the store in `store`, or else to the default store. If the file has no
 * `store` and the default store does not exist, version 0.1.0 wrote the file for stores that each
 * command names. Its top level then belongs to every store without a section.
 */
async function resolveSectionKey(
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

function readEnvironment(environment: Environment, onProblem?: OnProblem): Settings {
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
    store: omitUndefined({
      path: get("HIVEMIND_SQLCIPHER_DB"),
      name: get("HIVEMIND_SQLCIPHER_NAME"),
      subfolder: get("HIVEMIND_SQLCIPHER_SUBFOLDER"),
    }),
    ...omitUndefined({ passphrase_source: get("HIVEMIND_SQLCIPHER_PASSPHRASE_SOURCE") }),
    backup: omitUndefined({
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
export function isKeyCacheOff(): boolean {
  const value = process.env.HIVEMIND_SQLCIPHER_KEY_CACHE || "on";
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

/** Returns the fields that are not undefined. */
export function omitUndefined<T extends object>(fields: T): Defined<T> {
  return Object.fromEntries(
    Object.entries(fields).filter(([, value]) => value !== undefined),
  ) as Defined<T>;
}

/**
 * Merges `upper` over `lower`. A store's path in `upper` replaces a name in `lower`, and vice
 * versa.
 */
function mergeSettings(upper: Settings, lower: Settings): Settings {
  const store = omitUndefined(upper.store ?? {});
  const lowerStore = omitUndefined(lower.store ?? {});
  const { path: _, ...lowerNames } = lowerStore;
  const keptStore = store.path !== undefined ? {} : isStoreNamed(store) ? lowerNames : lowerStore;
  return {
    ...lower,
    ...omitUndefined({
      passphrase_source: upper.passphrase_source,
      recipients: upper.recipients,
      bundle: upper.bundle,
    }),
    store: { ...keptStore, ...store },
    backup: omitUndefined({
      ...lower.backup,
      ...omitUndefined(upper.backup ?? {}),
      ...mergeServiceSettings(upper.backup ?? {}, lower.backup ?? {}),
    }),
    keep: { ...lower.keep, ...omitUndefined(upper.keep ?? {}) },
  };
}

export type ServiceSettings = Pick<
  NonNullable<Settings["backup"]>,
  "unit" | "service" | "stop_command" | "start_command"
>;

/**
 * Merges the settings of the service. A setting in `upper` replaces contradicting settings in
 * `lower`: a unit or a command in an option has an effect even if the file has `none`, and `auto`
 * searches for the service even if the file names a unit.
 */
export function mergeServiceSettings(
  upper: ServiceSettings,
  lower: ServiceSettings,
): ServiceSettings {
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

/** Returns whether the setting `unit` is the name of a container. */
function isContainerKind(kind: ServiceSettings["service"]): boolean {
  return kind === "podman" || kind === "docker";
}

function withAbsolutePaths(settings: Settings, environment: Environment): Settings {
  const absolute = (path: string | undefined) =>
    path === undefined ? undefined : expandPath(path, environment);
  const absoluteTargets = (targets: readonly string[] | undefined) =>
    targets?.map((target) => expandTarget(target, environment));
  const absoluteProgram = (hook: Program | undefined): Program | undefined =>
    hook && [expandPath(hook[0], environment), ...hook.slice(1)];
  const { store, backup, bundle, hooks, metrics } = settings;
  const { before, success, failure } = hooks ?? {};
  return {
    ...settings,
    store: { ...store, ...omitUndefined({ path: absolute(store?.path) }) },
    backup: {
      ...backup,
      ...omitUndefined({
        to: absolute(backup?.to),
        bundle_to: absolute(backup?.bundle_to),
        copies: absoluteTargets(backup?.copies),
      }),
    },
    ...omitUndefined({
      bundle: bundle && omitUndefined({ copies: absoluteTargets(bundle.copies) }),
      metrics: metrics && omitUndefined({ file: absolute(metrics.file) }),
    }),
    ...(hooks && {
      hooks: omitUndefined({
        before: absoluteProgram(before),
        success: absoluteProgram(success),
        failure: absoluteProgram(failure),
        ping: hooks.ping,
      }),
    }),
  };
}

type Program = NonNullable<NonNullable<Settings["hooks"]>["before"]>;
