/** The details and examples of `--help`. */
import type { Command } from "commander";

const columns = 80;

export interface HelpText {
  /** Paragraphs, wrapped to 80 columns. */
  readonly details?: readonly string[];
  /** Complete command lines. */
  readonly examples: readonly string[];
}

/** Adds details and examples to the end of a command's help. */
export function addHelp(command: Command, { details = [], examples }: HelpText): Command {
  for (const paragraph of details) addParagraph(command, paragraph);
  const heading = examples.length === 1 ? "Example:" : "Examples:";
  return command.addHelpText("after", ["", heading, ...examples.map(indent)].join("\n"));
}

/** Adds a paragraph to the end of a command's help. */
export function addParagraph(command: Command, paragraph: string): Command {
  return command.addHelpText("after", `\n${wrap(paragraph)}`);
}

function indent(line: string): string {
  return `  ${line}`;
}

function wrap(text: string): string {
  const lines = [""];
  for (const word of text.split(" ")) {
    const line = lines.at(-1) ?? "";
    if (line === "") lines[lines.length - 1] = word;
    else if (line.length + 1 + word.length <= columns) lines[lines.length - 1] = `${line} ${word}`;
    else lines.push(word);
  }
  return lines.join("\n");
}
