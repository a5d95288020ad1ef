/** Renders the manual page, in the macros of man(7), from the texts of `--help`. */
import { environmentKeys } from "../../config/settings.js";
import { buildProgram } from "../program.js";
import { Output } from "../ui/output.js";
import { type CommandEntry, everyCommand, grammarOf, type OptionEntry } from "./grammar.js";

const name = "hivemind-sqlcipher";

export async function ownManPage(version: string): Promise<string> {
  const output = new Output({ json: false, quiet: false, verbose: false, color: false });
  return manPage(grammarOf(await buildProgram(output)), version);
}

/** Returns the manual page's text. */
export function manPage(program: CommandEntry, version: string): string {
  const leaves = everyCommand(program).filter(({ commands }) => commands.length === 0);
  const [, ...exitCodes] = program.notes.split("\n").map((line) => line.trim());
  return [
    `.TH ${name.toUpperCase()} 1 "" "${name} ${version}"`,
    ".nh", // no hyphens in commands
    ".ad l",
    ".SH NAME",
    `${name} \\- ${roff(program.description)}`,
    ".SH SYNOPSIS",
    `.B ${name}`,
    ".RI [ OPTION... ]",
    ".I COMMAND",
    ".RI [ ARGUMENT... ]",
    ".SH DESCRIPTION",
    roff(
      "Keeps HiveMind's client credentials encrypted at rest, with the passphrase in the OS keyring, and makes encrypted backups that open years later with only age and SQLCipher.",
    ),
    ".SH COMMANDS",
    ...leaves.flatMap(command),
    ".SH GLOBAL OPTIONS",
    ...program.options.filter(({ isGlobal }) => isGlobal).flatMap(option),
    ".SH EXIT STATUS",
    ...exitCodes
      .join(" ")
      .split(/, (?=\d)/)
      .flatMap(exitCode),
    ".SH ENVIRONMENT",
    "An option wins over the environment, which wins over the settings file.",
    ...Object.entries(environmentKeys).flatMap(([variable, what]) => [
      ".TP",
      `.B ${roff(variable)}`,
      roff(what),
    ]),
    ".TP",
    ".B NO_COLOR",
    "Print no colors.",
    ".SH FILES",
    ...[
      ["$XDG_DATA_HOME/hivemind-core/clients.db", "the store"],
      ["$XDG_CONFIG_HOME/hivemind-sqlcipher/config.json", "the settings, which contain no secret"],
    ].flatMap(([path = "", what = ""]) => [".TP", `.I ${roff(path)}`, roff(what)]),
    ".SH SEE ALSO",
    ".BR age (1),",
    ".BR secret-tool (1),",
    ".BR systemctl (1)",
    "",
  ].join("\n");
}

function command(entry: CommandEntry): string[] {
  const own = entry.options.filter(({ isGlobal }) => !isGlobal);
  return [
    `.SS "${roff(`${name} ${entry.usage}`)}"`,
    roff(`${entry.description}.`),
    ...entry.arguments
      .filter(({ description }) => description !== "")
      .flatMap(({ term, description }) => [".TP", `.I ${roff(term)}`, roff(description)]),
    ...own.flatMap(option),
    ...(entry.notes === "" ? [] : [".PP", ".nf", ...entry.notes.split("\n").map(roff), ".fi"]),
  ];
}

function option({ flags, description }: OptionEntry): string[] {
  return [".TP", `.B "${roff(flags)}"`, roff(description)];
}

/** Formats "10 no such store, …". */
function exitCode(text: string): string[] {
  const [, code = "", meaning = ""] = /^(\d+) (.*)$/s.exec(text.trim()) ?? [];
  return [".TP", `.B ${code}`, roff(meaning)];
}

/**
 * Escapes text for roff: backslashes, hyphens in options, and a dot or quote at the start of a
 * line.
 */
function roff(text: string): string {
  return text
    .replaceAll("\\", "\\e")
    .replaceAll("-", "\\-")
    .replaceAll('"', "\\(dq")
    .replaceAll("…", "...")
    .replace(/^([.'])/, "\\&$1");
}
