/**
 * Converts commander's definitions to plain data for the man page, the reference and completion.
 */
import type { Argument, Command, Option } from "commander";
import { globalHeading } from "../context.js";

/** How a shell completes a value. */
export type ValueKind =
  | { readonly kind: "choices"; readonly choices: readonly string[] }
  | { readonly kind: "file" | "directory" | "other" };

export interface OptionEntry {
  /** As in the help: `-i, --identity <file>`. */
  readonly flags: string;
  readonly names: readonly string[];
  readonly description: string;
  /** Absent for an option without a value. */
  readonly value?: ValueKind;
  readonly isGlobal: boolean;
}

export interface ArgumentEntry {
  readonly term: string;
  readonly description: string;
  readonly value: ValueKind;
}

export interface CommandEntry {
  /** The command's names below the program: `["bundle", "export"]`; empty for the program. */
  readonly names: readonly string[];
  readonly usage: string;
  readonly description: string;
  readonly group: string;
  readonly options: readonly OptionEntry[];
  readonly arguments: readonly ArgumentEntry[];
  readonly commands: readonly CommandEntry[];
  /** Details and examples after the options in the help. */
  readonly notes: string;
}

/** Describes a command and its subcommands, except hidden ones. */
export function describeCommand(command: Command, names: readonly string[] = []): CommandEntry {
  const help = command.createHelp();
  return {
    names,
    usage: [...names, command.usage()].join(" "),
    description: command.description(),
    group: command.helpGroup(),
    options: help
      .visibleOptions(command)
      .filter((option) => option.long !== "--help")
      .map((option) => describeOption(option, help.optionDescription(option))),
    arguments: command.registeredArguments.map(describeArgument),
    commands: help
      .visibleCommands(command)
      .filter((child) => child.name() !== "help")
      .map((child) => describeCommand(child, [...names, child.name()])),
    notes: readNotes(command),
  };
}

export function listCommands(entry: CommandEntry): CommandEntry[] {
  return [entry, ...entry.commands.flatMap(listCommands)];
}

function describeOption(option: Option, description: string): OptionEntry {
  const names = [option.short, option.long].filter((name) => name !== undefined);
  const takesValue = option.required || option.optional;
  return {
    flags: option.flags,
    names,
    description,
    ...(takesValue && {
      value: classifyValue(/[<[]([^<>[\]]*)[>\]]/.exec(option.flags)?.[1] ?? "", option.argChoices),
    }),
    isGlobal: option.helpGroupHeading === globalHeading,
  };
}

/** Returns an argument as the usage shows it: `<file>`, `[names...]`. */
export function formatArgument(argument: Argument): string {
  const name = argument.name() + (argument.variadic ? "..." : "");
  return argument.required ? `<${name}>` : `[${name}]`;
}

function describeArgument(argument: Argument): ArgumentEntry {
  return {
    term: formatArgument(argument),
    description: argument.description,
    value: classifyValue(argument.name(), argument.argChoices),
  };
}

/** Derives the kind from the value's name in the help: `<path>`, `<directory>`, `<auto|none>`. */
function classifyValue(name: string, choices: readonly string[] | undefined): ValueKind {
  if (choices !== undefined) return { kind: "choices", choices };
  if (name.includes("|")) return { kind: "choices", choices: name.split("|") };
  if (name === "directory") return { kind: "directory" };
  return { kind: name === "path" || name === "file" ? "file" : "other" };
}

/** Returns the text added with `addHelpText`, which commander prints after its own help. */
function readNotes(command: Command): string {
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
