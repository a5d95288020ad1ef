/** What every command starts from: which store, which settings, whose passphrase, and where to print. */
import { fileURLToPath } from "node:url";
import type { Command } from "commander";
import { resolveStorePath } from "../config/paths.js";
import { isKeyCacheOff, resolveSettings, type Settings } from "../config/settings.js";
import { StoreError } from "../errors.js";
import {
  formatSource,
  type PassphraseSource,
  parseSource,
  withoutKeyCache,
} from "../keys/source.js";
import type { Reporter } from "../reporter.js";
import { storeLocation } from "./hub-store.js";
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
  /** Every symbolic link followed; the one name that locks, journals and keyring entries go by. */
  readonly storePath: string;
  readonly settings: Settings;
  readonly settingsPath: string;
  /** What the settings file says, without options and environment; undefined if there is none. */
  readonly settingsInFile: Settings | undefined;
  readonly source: PassphraseSource;
  readonly output: Output;
  /** Whether --yes answers every question. */
  readonly yes: boolean;
  /** How an operation speaks to the user. */
  readonly reporter: Reporter;
}

/** Options of a command that share a global option's name and mean something else: `add-client --name`. */
const ownMeaning = new WeakMap<Command, readonly string[]>();

/** The heading of the options that every command has. */
export const commonOptions = "Options of every command:";

/** Gives a command the options that belong to every command, but for those it has itself, by long name. */
export function addGlobalOptions(command: Command, own: readonly string[] = []): Command {
  ownMeaning.set(command, own);
  command.optionsGroup(commonOptions);
  const add = (flags: string, description: string) => {
    if (!own.some((name) => flags.includes(`--${name} `))) command.option(flags, description);
  };
  add("--db <path>", "the store (default: clients.db where HiveMind keeps it)");
  add("--name <name>", "the store's name, without .db, in place of --db");
  add("--subfolder <folder>", "its folder below $XDG_DATA_HOME, in place of --db");
  add("--config <path>", "the settings file");
  add("--passphrase-source <source>", "keyring, file:PATH, command:CMD or credential[:NAME]");
  add("--no-key-cache", "keep no derived key in the keyring, and forget the one that is there");
  add("--json", "one JSON document on stdout");
  add("-q, --quiet", "no notices");
  add("-v, --verbose", "say each step");
  add("--no-color", "no colours (NO_COLOR does the same)");
  add("-y, --yes", "answer every question with yes");
  return command;
}

/** A word that other commands follow; the options of every command may stand behind it as well. */
export function addCommandGroup(program: Command, name: string, description: string): Command {
  const group = program.command(name).description(description).enablePositionalOptions();
  return addGlobalOptions(group);
}

/** Collects the values of an option that can be given more than once. */
export function repeated(value: string, all: string[] = []): string[] {
  return [...all, value];
}

/**
 * Resolves a command's context.
 *
 * @throws StoreError `usage` for options, environment or settings that do not say what they should.
 */
export async function contextOf(command: Command): Promise<Context> {
  const options = globalOptionsOf(command);
  const { settings, path, inFile, missing } = await resolveSettings(
    {
      store: {
        ...(options.db !== undefined && { path: options.db }),
        ...(options.name !== undefined && { name: options.name }),
        ...(options.subfolder !== undefined && { subfolder: options.subfolder }),
      },
      ...(options.passphraseSource && { passphrase_source: options.passphraseSource }),
    },
    options.config,
  );
  if (missing && command.name() !== "init") {
    throw new StoreError("notFound", `there is no settings file ${path}`, {
      hint: "Leave --config out for the usual place, or let init write one there.",
    });
  }
  const source = parseSource(settings.passphrase_source ?? "keyring");
  const keyCache = options.keyCache ?? !isKeyCacheOff();
  const output = outputOf(command);
  const yes = options.yes ?? false;
  return {
    storePath: await resolveStorePath(await storeLocation(settings, command.name())),
    settings,
    settingsPath: path,
    settingsInFile: inFile,
    source: keyCache ? source : withoutKeyCache(source),
    output,
    yes,
    reporter: {
      notice: (text) => output.notice(text),
      detail: (text) => output.detail(text),
      confirm: (question) => confirm(question, yes),
    },
  };
}

/**
 * The words that start a command of this program with the store, settings and passphrase of this one, for whoever keeps them:
 * a service manager has nothing of this shell's options and environment.
 */
export function ownCommand(
  { storePath, settingsPath, settingsInFile, source }: Context,
  ...words: readonly string[]
): string[] {
  const from = formatSource(source);
  const usual = formatSource(parseSource(settingsInFile?.passphrase_source ?? "keyring"));
  return [
    ...[process.execPath, fileURLToPath(new URL("./main.js", import.meta.url)), ...words],
    ...["--db", storePath],
    ...(settingsInFile === undefined ? [] : ["--config", settingsPath]),
    ...(from === usual ? [] : ["--passphrase-source", from]),
    ...(source.kind === "keyring" && source.withoutKeyCache ? ["--no-key-cache"] : []),
  ];
}

export function outputOf(command: Command): Output {
  const { json, quiet, verbose, color } = globalOptionsOf(command);
  return new Output({
    json: json ?? false,
    quiet: quiet ?? false,
    verbose: verbose ?? false,
    color: color ?? true,
  });
}

/** Global options may stand before the command, between its words, or after it. */
function globalOptionsOf(command: Command): GlobalOptions {
  const before: GlobalOptions = command.parent ? globalOptionsOf(command.parent) : {};
  const here: Record<string, unknown> = { ...command.opts() };
  for (const name of ownMeaning.get(command) ?? []) delete here[name];
  for (const name of ["color", "keyCache"]) {
    if (command.getOptionValueSource(name) === "default") delete here[name];
  }
  return { ...before, ...here };
}
