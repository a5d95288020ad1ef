/** The command reference in Markdown, from the same definitions as `--help`. */
import { buildProgram } from "../program.js";
import { Output } from "../ui/output.js";
import { type CommandEntry, describeCommand, listCommands, type OptionEntry } from "./grammar.js";

export { jsonOutputReference, jsonOutputSchema } from "./json-reference.js";

const name = "hivemind-sqlcipher";

/** Returns the page `docs/reference/commands.md`. */
export async function commandReference(): Promise<string> {
  const program = describeCommand(await buildProgram(new Output({ color: false })));
  const leaves = listCommands(program).filter(({ commands }) => commands.length === 0);
  const groups = [...new Set(program.commands.map(({ group }) => group))];
  return [
    "# Commands",
    "",
    "Generated from the program by `npm run reference`; do not edit.",
    "",
    ...groups.flatMap((group) => renderContents(program, group, leaves)),
    "",
    "## Options of every command",
    "",
    ...renderTable(program.options.filter(({ isGlobal }) => isGlobal)),
    ...leaves.flatMap(renderSection),
    "",
  ].join("\n");
}

function renderContents(
  program: CommandEntry,
  group: string,
  leaves: readonly CommandEntry[],
): string[] {
  const heads = program.commands
    .filter((each) => each.group === group)
    .map(({ names }) => names[0]);
  const links = leaves
    .filter(({ names }) => heads.includes(names[0]))
    .map(({ names }) => `[${names.join(" ")}](#${names.join("-")})`);
  return [`- ${group.replace(/:$/, "")}: ${links.join(", ")}`];
}

function renderSection(entry: CommandEntry): string[] {
  const own = entry.options.filter(({ isGlobal }) => !isGlobal);
  return [
    "",
    `## ${entry.names.join(" ")}`,
    "",
    `${escapeCell(entry.description)}.`.replace(/\.\.$/, "."),
    "",
    "```",
    `${name} ${entry.usage}`,
    "```",
    ...(own.length === 0 ? [] : ["", ...renderTable(own)]),
    ...(entry.notes === "" ? [] : ["", "```", entry.notes, "```"]),
  ];
}

function renderTable(options: readonly OptionEntry[]): string[] {
  return [
    "| option | |",
    "| --- | --- |",
    ...options.map(
      ({ flags, description }) =>
        `| \`${flags.replaceAll("|", "\\|")}\` | ${escapeCell(description)} |`,
    ),
  ];
}

function escapeCell(text: string): string {
  return text.replaceAll("|", "\\|").replaceAll("<", "\\<");
}
