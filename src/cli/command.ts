/** Completes the definition of a command: its global options, its help and its action. */
import { type Command, Option } from "commander";
import { addGlobalOptions, type Context, contextOf } from "./context.js";

export interface HelpText {
  /** Paragraphs, wrapped to 80 columns. */
  readonly details?: readonly string[];
  readonly examples: readonly string[];
}

/**
 * Adds the global options, the help and the action to a command with its own options.
 *
 * @param run - gets the context, then the command's arguments, its options and the command
 */
export function finishCommand<Args extends unknown[]>(
  command: Command,
  run: (context: Context, ...args: Args) => Promise<void>,
  help: HelpText,
): void {
  addGlobalOptions(command);
  addHelp(command, help);
  command.action(async (...args: Args) => run(await contextOf(command), ...args));
}

/** Returns an option. Its choices are read from its flags: `--hub <auto|none>`. */
export function choiceOption(flags: string, description: string): Option {
  const choices = flags.slice(flags.indexOf("<") + 1, -1).split("|");
  return new Option(flags, description).choices(choices);
}

export function addHelp(command: Command, { details = [], examples }: HelpText): Command {
  for (const paragraph of details) addParagraph(command, paragraph);
  const heading = examples.length === 1 ? "Example:" : "Examples:";
  const lines = examples.map((line) => `  ${line}`);
  return command.addHelpText("after", ["", heading, ...lines].join("\n"));
}

export function addParagraph(command: Command, paragraph: string): Command {
  return command.addHelpText("after", `\n${command.createHelp().boxWrap(paragraph, 80)}`);
}

/** Adds a command with subcommands. Global options may also follow its name. */
export function addCommandGroup(program: Command, name: string, description: string): Command {
  const group = program.command(name).description(description).enablePositionalOptions();
  return addGlobalOptions(group);
}
