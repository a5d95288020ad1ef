/**
 * The command's grammar as plain data, read from commander's own definitions: what the man page and the shells'
 * completions are made of, so that they say what `--help` says.
 */
import type { Argument, Command, Option } from "commander";
import { commonOptions } from "../context.js";

/** What may stand for a value, as far as a shell can help with it. */
export type ValueKind =
  | { readonly kind: "choices"; readonly choices: readonly string[] }
  | { readonly kind: "file" | "folder" | "other" };

export interface OptionEntry {
  /** As in the help: `-i, --identity <path>`. */
  readonly flags: string;
  /** `-i` and `--identity`. */
  readonly names: readonly string[];
  readonly description: string;
  /** Absent for an option that takes none. */
  readonly value?: ValueKind;
  /** Whether every command has it. */
  readonly common: boolean;
}

export interface ArgumentEntry {
  /** As in the usage: `<file>`. */
  readonly term: string;
  readonly description: string;
  readonly value: ValueKind;
}

export interface CommandEntry {
  /** From below the program on: `["bundle", "export"]`; empty for the program itself. */
  readonly words: readonly string[];
  readonly usage: string;
  readonly description: string;
  readonly group: string;
  readonly options: readonly OptionEntry[];
  readonly arguments: readonly ArgumentEntry[];
  readonly commands: readonly CommandEntry[];
  /** What follows in the help: examples, remarks. */
  readonly notes: string;
}

/** Describes a command and those below it, but for what is hidden. */
export function grammarOf(command: Command, words: readonly string[] = []): CommandEntry {
  const help = command.createHelp();
  return {
    words,
    usage: [...words, command.usage()].join(" "),
    description: command.description(),
    group: command.helpGroup(),
    options: help
      .visibleOptions(command)
      .filter((option) => option.long !== "--help")
      .map(optionEntry),
    arguments: command.registeredArguments.map(argumentEntry),
    commands: help
      .visibleCommands(command)
      .filter((child) => child.name() !== "help")
      .map((child) => grammarOf(child, [...words, child.name()])),
    notes: notesOf(command),
  };
}

/** A command and every one below it. */
export function everyCommand(entry: CommandEntry): CommandEntry[] {
  return [entry, ...entry.commands.flatMap(everyCommand)];
}

function optionEntry(option: Option): OptionEntry {
  const names = [option.short, option.long].filter((name) => name !== undefined);
  const takesValue = option.required || option.optional;
  return {
    flags: option.flags,
    names,
    description: withDefault(option.description, option.defaultValue),
    ...(takesValue && {
      value: valueKind(/[<[]([^<>[\]]*)[>\]]/.exec(option.flags)?.[1] ?? "", option.argChoices),
    }),
    common: option.helpGroupHeading === commonOptions,
  };
}

function withDefault(description: string, value: unknown): string {
  return typeof value === "string" ? `${description} (default: ${value})` : description;
}

/** As it stands in a usage: `<file>`, `[names...]`. */
export function argumentTerm(argument: Argument): string {
  const name = argument.name() + (argument.variadic ? "..." : "");
  return argument.required ? `<${name}>` : `[${name}]`;
}

function argumentEntry(argument: Argument): ArgumentEntry {
  return {
    term: argumentTerm(argument),
    description: argument.description,
    value: valueKind(argument.name(), argument.argChoices),
  };
}

/** The help names a value by what it is: `<path>`, `<folder>`, `<auto|none>`. */
function valueKind(name: string, choices: readonly string[] | undefined): ValueKind {
  if (choices !== undefined) return { kind: "choices", choices };
  if (name.includes("|")) return { kind: "choices", choices: name.split("|") };
  if (name === "folder") return { kind: "folder" };
  return { kind: name === "path" || name === "file" ? "file" : "other" };
}

/** What `addHelpText` added: what commander prints beyond its own part. */
function notesOf(command: Command): string {
  let printed = "";
  const before = command.configureOutput();
  command.configureOutput({
    writeOut: (text) => {
      printed += text;
    },
  });
  command.outputHelp();
  command.configureOutput(before);
  return printed.slice(command.helpInformation().length).trim();
}
