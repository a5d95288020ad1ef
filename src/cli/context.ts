/** Resolves the store, the settings and the passphrase's source of a command. */
import { type Command, Option } from "commander";
import { hubAccount, workFor } from "../config/hub-account.js";
import {
  isKeyCacheOff,
  mergeServiceSettings,
  omitUndefined,
  type ResolvedSettings,
  resolveSettings,
  type ServiceSettings,
} from "../config/settings.js";
import type { OnProblem, Settings, SettingsSection } from "../config/settings-file.js";
import { StoreError } from "../errors.js";
import { isRoot } from "../fs/user.js";
import {
  formatSource,
  type PassphraseSource,
  parseSource,
  withoutKeyCache,
} from "../keys/source.js";
import type { Reporter } from "../reporter.js";
import { shellQuote } from "../text/escape.js";
import { findHubStore } from "./hub-store.js";
import { findOwnProgram } from "./own-program.js";
import { Output } from "./ui/output.js";
import { confirm } from "./ui/prompt.js";

export interface GlobalOptions {
  db?: string;
  name?: string;
  subfolder?: string;
  config?: string;
  passphraseSource?: string;
  keyCache?: boolean;
  json?: boolean;
  quiet?: boolean;
  verbose?: boolean;
  color?: boolean;
  yes?: boolean;
}

export interface Context {
  /**
   * The path with every symbolic link resolved. The lock, the journal and the keyring entries are
   * named after it.
   */
  readonly storePath: string;
  /** Options win over the environment, which wins over the settings file. */
  readonly settings: Settings;
  readonly settingsPath: string;
  readonly settingsSection: SettingsSection;
  /**
   * This store's settings in the file, without options and environment; undefined without a file.
   */
  readonly settingsInFile: Settings | undefined;
  /** Errors in the settings, for commands that continue despite them. */
  readonly settingsProblems: readonly StoreError[];
  /** The source in the settings. */
  readonly source: PassphraseSource;
  /** The options of this command that name the store, the settings and the source. */
  readonly given: readonly string[];
  /** Reads the settings again, which an operation or a recovery may have changed. */
  readonly refreshSettings: () => Promise<void>;
  readonly output: Output;
  readonly yes: boolean;
  readonly reporter: Reporter;
}

export const globalHeading = "Global options:";

const globalOptions = [
  ["--db <path>", "Use this store (default: clients.db of the hub)"],
  ["--name <name>", "Use the store of this name, without .db"],
  ["--subfolder <name>", "Use the store in this directory below $XDG_DATA_HOME"],
  ["--config <path>", "Use this settings file"],
  ["--passphrase-source <source>", "Use keyring, file:PATH, command:CMD, credential or sealed"],
  ["--no-key-cache", "Keep no derived key in the keyring"],
  ["--json", "Print one JSON document to standard output"],
  ["-q, --quiet", "Print no notices"],
  ["-v, --verbose", "Print each step"],
  ["--no-color", "Print no colors, as with NO_COLOR"],
  ["-y, --yes", "Assume yes for all prompts"],
] as const;

/** Adds the global options to a command, except names with another meaning: `add-client --name`. */
export function addGlobalOptions(command: Command): Command {
  const own = new Set(command.options.map(({ long }) => long));
  command.optionsGroup(globalHeading);
  for (const [flags, description] of globalOptions) {
    const option = new Option(flags, description);
    if (!own.has(option.long)) command.addOption(option);
  }
  return command;
}

export function collectValue(value: string, values: string[] = []): string[] {
  return [...values, value];
}

/**
 * Commands that ignore errors in the settings. A typo in the file must not prevent the hub from
 * starting, so `run` needs only the store and its passphrase. `status` and `doctor` report the
 * errors.
 */
const toleratingCommands: ReadonlySet<string> = new Set(["run", "status", "doctor"]);

/**
 * Values that a command has determined itself. They stand for missing options, so they win over the
 * environment and the settings file.
 */
interface Found {
  readonly store?: string;
  readonly passphraseSource?: string;
}

function canCreateStore(command: Command): boolean {
  return command.name() === "init" || command.name() === "setup";
}

/**
 * Resolves a command's context from its options, the environment and the settings file.
 *
 * @param found - values for options left out
 * @throws {@link StoreError} usage - for an invalid option, variable or settings file
 * @throws {@link StoreError} notFound - if the named settings file does not exist
 */
export async function contextOf(command: Command, found: Found = {}): Promise<Context> {
  const options = globalOptionsOf(command);
  const output = outputOf(command);
  const isTolerant = toleratingCommands.has(command.name());
  const settingsProblems: StoreError[] = [];
  const onProblem = (problem: StoreError) => {
    if (!isTolerant) throw problem;
    settingsProblems.push(problem);
  };
  let resolved = await resolveCommandSettings(command, found, isTolerant ? onProblem : undefined);
  const { storePath, path, section } = resolved;
  if (resolved.missing && !canCreateStore(command)) {
    onProblem(await missingSettingsError(path, storePath, options.config !== undefined));
  }
  const isRun = command.name() === "run";
  if (isRun) for (const { message } of settingsProblems) output.warning(message);
  const keyCache = options.keyCache ?? !isKeyCacheOff();
  const sourceOf = ({ passphrase_source: text = "keyring" }: Settings) =>
    keyCache ? parseSource(text) : withoutKeyCache(parseSource(text));
  if (!isRun) {
    const hub = findHubService(command, resolved.settings);
    const source = sourceOf(resolved.settings);
    await workForHub(hub, storePath, source).catch((error: unknown) => {
      if (!(error instanceof StoreError)) throw error;
      if (isTolerant || hub.isUsed) onProblem(error);
      else output.notice(error.message);
    });
  }
  const yes = options.yes ?? false;
  return {
    storePath,
    settingsPath: path,
    settingsSection: section,
    settingsProblems,
    get given() {
      return givenOptions(options, storePath, path);
    },
    get settings() {
      return resolved.settings;
    },
    get settingsInFile() {
      return resolved.inFile;
    },
    get source() {
      return sourceOf(resolved.settings);
    },
    refreshSettings: async () => {
      // The problems have been collected already.
      const ignore = isTolerant ? () => undefined : undefined;
      resolved = await resolveCommandSettings(command, found, ignore);
    },
    output,
    yes,
    reporter: buildReporter(output, yes),
  };
}

function givenOptions(
  { db, name, subfolder, config, passphraseSource, keyCache }: GlobalOptions,
  storePath: string,
  settingsPath: string,
): string[] {
  const isStoreNamed = [db, name, subfolder].some((option) => option !== undefined);
  return [
    ...(isStoreNamed ? ["--db", storePath] : []),
    ...(config === undefined ? [] : ["--config", settingsPath]),
    ...(passphraseSource === undefined
      ? []
      : ["--passphrase-source", formatSource(parseSource(passphraseSource))]),
    ...(keyCache === false ? ["--no-key-cache"] : []),
  ];
}

/** @param onProblem - receives each error; undefined for a command that fails at the first */
function resolveCommandSettings(
  command: Command,
  found: Found,
  onProblem: OnProblem | undefined,
): Promise<ResolvedSettings> {
  const { db, name, subfolder, config, passphraseSource } = globalOptionsOf(command);
  return resolveSettings(
    {
      store: omitUndefined({ path: db ?? found.store, name, subfolder }),
      ...omitUndefined({ passphrase_source: passphraseSource ?? found.passphraseSource }),
    },
    {
      config,
      defaultStore: () => findHubStore(command.name()),
      isNewStore: canCreateStore(command),
      onProblem,
    },
  );
}

function buildReporter(output: Output, yes: boolean): Reporter {
  return {
    notice: (text) => output.notice(text),
    detail: (text) => output.detail(text),
    confirm: (question) => confirm(question, yes),
    confirmOnTerminal: (question) => confirm(question, false),
  };
}

/** Returns a copy of a context with other values. Its getters stay getters. */
export function withValues(context: Context, values: Partial<Context>): Context {
  const descriptors = Object.getOwnPropertyDescriptors(context);
  return Object.defineProperties(
    {},
    { ...descriptors, ...Object.getOwnPropertyDescriptors(values) },
  ) as Context;
}

interface HubService {
  readonly service: ServiceSettings["service"];
  readonly unit: string | undefined;
  /** Whether the command stops and starts it. */
  readonly isUsed: boolean;
}

/**
 * Returns the service of the hub, from the command's options and the settings. With
 * `--service none` and the like, returns the service in the settings.
 */
function findHubService(command: Command, { backup = {} }: Settings): HubService {
  const { unit, service, stopCommand, startCommand } = command.opts();
  const options = { unit, service, stop_command: stopCommand, start_command: startCommand };
  const chosen = mergeServiceSettings(options, backup);
  const hasOptions = command.options.some(({ long }) => long === "--service");
  // init only saves the options for later commands.
  const isUsed = hasOptions && command.name() !== "init" && chosen.unit !== undefined;
  const hub = isUsed ? chosen : backup;
  return { service: hub.service, unit: hub.unit, isUsed };
}

/**
 * Lets root work in the account of the hub of a system unit or of a container, if root reads the
 * passphrase without a keyring. The timers are system units then.
 *
 * @throws {@link StoreError} service - if the manager does not respond
 * @throws {@link StoreError} refused - if the unit's user does not exist
 */
async function workForHub(
  { service = "auto", unit }: HubService,
  storePath: string,
  { kind }: PassphraseSource,
): Promise<void> {
  if (!isRoot() || unit === undefined || kind === "keyring" || hubAccount()) return;
  if (service === "podman" || service === "docker") {
    return workFor({ uid: 0, gid: 0, environment: process.env });
  }
  const { findNamedUnit } = await import("../service/select.js");
  const found = service === "auto" ? await findNamedUnit(unit, storePath) : undefined;
  if ((found?.kind ?? service) !== "systemd") return;
  const { findSystemUnitAccount } = await import("../hub/account.js");
  workFor(await findSystemUnitAccount(unit));
}

/** @param isOption - whether --config names the file; otherwise the environment does */
async function missingSettingsError(
  path: string,
  storePath: string,
  isOption: boolean,
): Promise<StoreError> {
  const { isStoreKnown } = await import("../keys/moved-store.js");
  const useDefault = `${isOption ? "Leave --config out" : "Unset HIVEMIND_SQLCIPHER_CONFIG"} to use the default path`;
  const hint = (await isStoreKnown(storePath))
    ? `${useDefault}, or name the settings file of this store.`
    : `${useDefault}, or create the file and the store with hivemind-sqlcipher init.`;
  return new StoreError(
    "notFound",
    `cannot read the settings file ${path}: no such file or directory`,
    { hint },
  );
}

/**
 * Returns the command line that starts this program for the same store, for units and timers.
 *
 * A service manager has neither the options of this command nor its environment, so the command
 * line names the store, the settings file and the passphrase source that they determine.
 */
export function ownCommand(
  { storePath, settingsPath, settingsInFile, source }: Context,
  ...args: readonly string[]
): string[] {
  const wanted = formatSource(source);
  const inFile = formatSource(parseSource(settingsInFile?.passphrase_source ?? "keyring"));
  return [
    ...findOwnProgram(),
    ...args,
    "--db",
    storePath,
    ...(settingsInFile === undefined ? [] : ["--config", settingsPath]),
    ...(wanted === inFile ? [] : ["--passphrase-source", wanted]),
    ...(source.kind === "keyring" && source.withoutKeyCache ? ["--no-key-cache"] : []),
  ];
}

/** Returns this program's command line for the same store, as a user types it. */
export function programLine({ given }: Pick<Context, "given">): string {
  const args = given.map((arg) => (arg.startsWith("--") ? arg : shellQuote(arg)));
  return ["hivemind-sqlcipher", ...args].join(" ");
}

/** Returns the restart timer's command line for recovering this store. */
export function recoveryCommand(context: Context): string[] {
  return ownCommand(context, "settle", "--quiet");
}

export function outputOf(command: Command): Output {
  return new Output(globalOptionsOf(command));
}

/**
 * Merges the global options given before the command, between a group and its command, and after
 * the command. A later option wins.
 */
export function globalOptionsOf(command: Command): GlobalOptions {
  const ofParent: GlobalOptions = command.parent ? globalOptionsOf(command.parent) : {};
  const given = command.options
    .filter(({ helpGroupHeading }) => helpGroupHeading === globalHeading)
    .map((option) => option.attributeName())
    .filter((name) => command.getOptionValueSource(name) === "cli");
  const own = given.map((name) => [name, command.getOptionValue(name)]);
  return { ...ofParent, ...Object.fromEntries(own) };
}
