/** Renders the manual page, in the macros of man(7), from the texts of `--help`. */
import { environmentKeys } from "../../config/settings.js";
import { buildProgram } from "../program.js";
import { Output } from "../ui/output.js";
import { type CommandEntry, describeCommand, listCommands, type OptionEntry } from "./grammar.js";

const name = "hivemind-sqlcipher";

export async function ownManPage(version: string): Promise<string> {
  return manPage(describeCommand(await buildProgram(new Output({ color: false }))), version);
}

export function manPage(program: CommandEntry, version: string): string {
  const leaves = listCommands(program).filter(({ commands }) => commands.length === 0);
  const [, ...exitCodes] = program.notes.split("\n").map((line) => line.trim());
  return [
    `.TH ${name.toUpperCase()} 1 "" "${name} ${version}"`,
    ".nh", // no hyphens in commands
    ".ad l",
    ".SH NAME",
    `${name} \\- ${escapeRoff(program.description)}`,
    ".SH SYNOPSIS",
    `.B ${name}`,
    ".RI [ OPTION... ]",
    ".I COMMAND",
    ".RI [ ARGUMENT... ]",
    ".SH DESCRIPTION",
    escapeRoff(
      "Keeps HiveMind's client credentials encrypted at rest, with the passphrase in the OS keyring, and makes encrypted backups that open years later with only age and SQLCipher.",
    ),
    ".SH COMMANDS",
    ...leaves.flatMap(renderCommand),
    ".SH GLOBAL OPTIONS",
    ...program.options.filter(({ isGlobal }) => isGlobal).flatMap(renderOption),
    ".SH EXIT STATUS",
    ...exitCodes
      .join(" ")
      .split(/, (?=\d)/)
      .flatMap(renderExitCode),
    ".SH ENVIRONMENT",
    "An option wins over the environment, which wins over the settings file.",
    ...Object.entries(environmentKeys).flatMap(([variable, what]) => [
      ".TP",
      `.B ${escapeRoff(variable)}`,
      escapeRoff(what),
    ]),
    ".TP",
    ".B NO_COLOR",
    "Print no colors.",
    ".SH FILES",
    ...[
      ["$XDG_DATA_HOME/hivemind-core/clients.db", "the store"],
      ["$XDG_CONFIG_HOME/hivemind-sqlcipher/config.json", "the settings, which contain no secret"],
    ].flatMap(([path = "", what = ""]) => [".TP", `.I ${escapeRoff(path)}`, escapeRoff(what)]),
    ".SH SEE ALSO",
    ".BR age (1),",
    ".BR secret-tool (1),",
    ".BR systemctl (1)",
    "",
  ].join("\n");
}

function renderCommand(entry: CommandEntry): string[] {
  const own = entry.options.filter(({ isGlobal }) => !isGlobal);
  return [
    `.SS "${escapeRoff(`${name} ${entry.usage}`)}"`,
    escapeRoff(`${entry.description}.`),
    ...entry.arguments
      .filter(({ description }) => description !== "")
      .flatMap(({ term, description }) => [
        ".TP",
        `.I ${escapeRoff(term)}`,
        escapeRoff(description),
      ]),
    ...own.flatMap(renderOption),
    ...(entry.notes === ""
      ? []
      : [".PP", ".nf", ...entry.notes.split("\n").map(escapeRoff), ".fi"]),
  ];
}

function renderOption({ flags, description }: OptionEntry): string[] {
  return [".TP", `.B "${escapeRoff(flags)}"`, escapeRoff(description)];
}

/** Formats "10 no such store, …". */
function renderExitCode(text: string): string[] {
  const [, code = "", meaning = ""] = /^(\d+) (.*)$/s.exec(text.trim()) ?? [];
  return [".TP", `.B ${code}`, escapeRoff(meaning)];
}

/**
 * Escapes text for roff: backslashes, hyphens in options, and a dot or quote at the start of a
 * line.
 */
function escapeRoff(text: string): string {
  return text
    .replaceAll("\\", "\\e")
    .replaceAll("-", "\\-")
    .replaceAll('"', "\\(dq")
    .replaceAll("…", "...")
    .replace(/^([.'])/, "\\&$1");
}
