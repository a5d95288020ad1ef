/**
 * Builds the command line's grammar.
 *
 * Only the modules of the commands in the arguments are loaded, or all if no command is named, and
 * each action loads its code when it runs. So `--help` loads no operation, and a short command
 * starts fast.
 */
import { readFileSync } from "node:fs";
import { type Argument, Command, type Option } from "commander";
import { addGlobalOptions } from "./context.js";
import { formatArgument } from "./docs/grammar.js";
import type { Output } from "./ui/output.js";

const exitCodesHelp = `
Exit codes:
  0 done, 1 failed or findings, 2 wrong usage, 10 no such store, backup, bundle
  or client, 11 store in use, 12 wrong passphrase or not a database,
  13 passphrase not available, 14 corrupted or tampered with, 15 service could
  not be stopped or started, 16 written by a newer version, 17 refused for
  safety, 18 no space, no permission or another I/O error, 130 interrupted`;

const helpLayout = {
  minWidthToWrap: 20,
  // Commander's default prints [options] in every line of the command list.
  subcommandTerm: (command: Command) =>
    [command.name(), ...command.registeredArguments.map(formatArgument)].join(" "),
  // Choices are in the flags already: --hub <auto|none>.
  optionDescription: ({ description, defaultValue }: Option) =>
    typeof defaultValue === "string" ? `${description} (default: ${defaultValue})` : description,
  argumentDescription: ({ description }: Argument) => description,
};

interface CommandModule {
  addCommand(program: Command): void;
}
type Load = () => Promise<CommandModule>;

const editClient: Load = () => import("./commands/edit-client.js");
const actions = ["escalate", "propagate", "broadcast", "msg", "skill", "intent"];

/** The modules of the commands by name, under their headings in the help. */
const commandGroups: Record<string, Record<string, Load>> = {
  "The store:": {
    setup: () => import("./commands/setup.js"),
    init: () => import("./commands/init.js"),
    status: () => import("./commands/status.js"),
    doctor: () => import("./commands/doctor.js"),
    encrypt: () => import("./commands/encrypt.js"),
    decrypt: () => import("./commands/decrypt.js"),
    rotate: () => import("./commands/rotate.js"),
    "upgrade-schema": () => import("./commands/upgrade-schema.js"),
    run: () => import("./commands/run.js"),
  },
  "Clients:": {
    "add-client": () => import("./commands/add-client.js"),
    "list-clients": () => import("./commands/list-clients.js"),
    "show-client": () => import("./commands/show-client.js"),
    "find-client": () => import("./commands/find-client.js"),
    "delete-client": () => import("./commands/delete-client.js"),
    "rename-client": editClient,
    "make-admin": editClient,
    "revoke-admin": editClient,
    ...Object.fromEntries(actions.map((action) => [`allow-${action}`, editClient])),
    ...Object.fromEntries(actions.map((action) => [`blacklist-${action}`, editClient])),
    "export-clients": () => import("./commands/export-clients.js"),
    "import-clients": () => import("./commands/import-clients.js"),
    sql: () => import("./commands/sql.js"),
  },
  "Databases:": {
    migrate: () => import("./commands/migrate.js"),
    plugins: () => import("./commands/plugins.js"),
  },
  "Backups:": {
    backup: () => import("./commands/backup.js"),
    verify: () => import("./commands/verify.js"),
    backups: () => import("./commands/backups.js"),
    prune: () => import("./commands/prune.js"),
    drill: () => import("./commands/drill.js"),
    restore: () => import("./commands/restore.js"),
    export: () => import("./commands/export.js"),
    schedule: () => import("./commands/schedule.js"),
    metrics: () => import("./commands/metrics.js"),
    bundle: () => import("./commands/bundle.js"),
    settle: () => import("./commands/settle.js"),
  },
  "Help:": {
    completion: () => import("./docs/completion.js"),
  },
};

/**
 * Builds the program. It throws errors instead of printing them.
 *
 * @param output - decides whether the help has colors; with --json, a group without its subcommand
 *   prints no help
 * @param argv - the arguments; only commands named in them are defined, or all if they name none
 */
export async function buildProgram(output: Output, argv: readonly string[] = []): Promise<Command> {
  const { version } = JSON.parse(
    readFileSync(new URL("../../package.json", import.meta.url), "utf8"),
  ) as { version: string };
  const program = new Command("hivemind-sqlcipher")
    .description("Encrypt, back up and restore a HiveMind hub's client store")
    .version(version, "--version", "Print the version")
    .helpOption("-h, --help", "Show this help")
    .helpCommand("help [command]", "Show the help of a command")
    .enablePositionalOptions()
    .addHelpText("after", exitCodesHelp);
  addGlobalOptions(program);

  const isNeeded = buildCommandFilter(argv);
  for (const [heading, commands] of Object.entries(commandGroups)) {
    program.commandsGroup(heading);
    const needed = Object.entries(commands).filter(([name]) => isNeeded(name));
    for (const load of new Set(needed.map(([, load]) => load))) (await load()).addCommand(program);
  }

  forEachCommand(program, (command) => {
    command
      .exitOverride()
      .configureHelp(helpLayout)
      .configureOutput({
        outputError: () => {},
        // Commander still writes the help of a group if its subcommand is missing.
        writeErr: (text) => {
          if (!output.json) process.stderr.write(text);
        },
        writeOut: (text) => process.stdout.write(text),
        getOutHasColors: () => output.style("bold", "x") !== "x",
      });
  });
  return program;
}

/**
 * Returns a filter for the commands to define. Every argument counts, not only the first, because
 * an argument before the command can be an option's value.
 */
function buildCommandFilter(argv: readonly string[]): (name: string) => boolean {
  const args = argv.filter((arg) => !arg.startsWith("-"));
  if (args.length === 0) return () => !argv.includes("--version");
  const names = Object.values(commandGroups).flatMap(Object.keys);
  // The completion script describes every command.
  if (args.includes("completion") || !names.some((name) => args.includes(name))) return () => true;
  return (name) => args.includes(name);
}

function forEachCommand(command: Command, visit: (command: Command) => void): void {
  visit(command);
  for (const child of command.commands) forEachCommand(child, visit);
}
