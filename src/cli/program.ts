/**
 * The command's grammar. Of its parts only those are loaded that hold the command that was named, and each action loads its
 * work only when it is called: --help touches nothing, and a short command is a short one.
 */
import { readFileSync } from "node:fs";
import { Command } from "commander";
import { addGlobalOptions } from "./context.js";
import { argumentTerm } from "./docs/grammar.js";
import type { Output } from "./ui/output.js";

const exitCodesHelp = `
Exit codes:
  0 done, 1 failed or findings, 2 wrong usage, 10 no such store, backup, bundle
  or client, 11 store in use, 12 wrong passphrase or not a database,
  13 passphrase not available, 14 corrupted or tampered with, 15 service could
  not be stopped or started, 16 written by a newer version, 17 refused for
  safety, 18 no space, no permission or another I/O error, 130 interrupted`;

/** Descriptions are wrapped on a terminal of 80 columns, and on narrower ones. */
const helpLayout = {
  minWidthToWrap: 20,
  // That a command has options goes without saying in the list of all.
  subcommandTerm: (command: Command) =>
    [command.name(), ...command.registeredArguments.map(argumentTerm)].join(" "),
};

/** Commands that are defined in one file. */
interface Part {
  readonly names: readonly string[];
  readonly load: () => Promise<(program: Command) => void>;
}

/** Every part, below its heading in the help. */
const parts: readonly (readonly [heading: string, parts: readonly Part[]])[] = [
  [
    "The store:",
    [
      { names: ["init"], load: async () => (await import("./commands/init.js")).addInitCommand },
      {
        names: ["status"],
        load: async () => (await import("./commands/status.js")).addStatusCommand,
      },
      {
        names: ["doctor"],
        load: async () => (await import("./commands/doctor.js")).addDoctorCommand,
      },
      {
        names: ["encrypt", "decrypt", "rotate", "upgrade-schema"],
        load: async () => (await import("./commands/lifecycle.js")).addLifecycleCommands,
      },
      { names: ["run"], load: async () => (await import("./commands/run.js")).addRunCommand },
    ],
  ],
  [
    "Clients:",
    [
      {
        names: ["add-client", "list-clients", "show-client", "find-client", "delete-client"],
        load: async () => (await import("./commands/clients.js")).addClientCommands,
      },
      {
        names: [
          "rename-client",
          ...["make-admin", "revoke-admin"],
          ...["escalate", "propagate", "broadcast", "msg", "skill", "intent"].flatMap((what) => [
            `allow-${what}`,
            `blacklist-${what}`,
          ]),
        ],
        load: async () => (await import("./commands/permissions.js")).addPermissionCommands,
      },
      {
        names: ["export-clients", "import-clients"],
        load: async () => (await import("./commands/exchange.js")).addExchangeCommands,
      },
      { names: ["sql"], load: async () => (await import("./commands/sql.js")).addSqlCommand },
    ],
  ],
  [
    "Databases:",
    [
      {
        names: ["migrate", "plugins"],
        load: async () => (await import("./commands/databases.js")).addDatabaseCommands,
      },
    ],
  ],
  [
    "Backups:",
    [
      {
        names: ["backup", "verify"],
        load: async () => (await import("./commands/backup.js")).addBackupCommands,
      },
      {
        names: ["backups", "prune"],
        load: async () => (await import("./commands/backups.js")).addBackupsCommands,
      },
      {
        names: ["restore"],
        load: async () => (await import("./commands/restore.js")).addRestoreCommand,
      },
      {
        names: ["schedule"],
        load: async () => (await import("./commands/schedule.js")).addScheduleCommands,
      },
      {
        names: ["bundle"],
        load: async () => (await import("./commands/bundle.js")).addBundleCommands,
      },
      {
        names: ["settle"],
        load: async () => (await import("./commands/settle.js")).addSettleCommand,
      },
    ],
  ],
  [
    "Help:",
    // It describes every command, so it is loaded with all of them.
    [{ names: [], load: async () => (await import("./docs/completion.js")).addCompletionCommand }],
  ],
];

/**
 * Builds the command. Errors are thrown, never printed by commander itself.
 *
 * @param failures - where what is wrong with the arguments will be reported; with --json commander stays silent.
 * @param argv - the words after the program's name: only the parts that they name are built; everything if they name none.
 */
export async function buildProgram(
  failures: Output,
  argv: readonly string[] = [],
): Promise<Command> {
  const { version } = JSON.parse(
    readFileSync(new URL("../../package.json", import.meta.url), "utf8"),
  ) as { version: string };
  const program = new Command("hivemind-sqlcipher")
    .description(
      "The encrypted client store of a HiveMind hub: backup, restore, passphrase rotation.",
    )
    .version(version, "--version", "print the version")
    .enablePositionalOptions()
    .addHelpText("after", exitCodesHelp);
  addGlobalOptions(program);

  // Not the first alone: what stands before a command may be an option's value.
  const words = argv.filter((each) => !each.startsWith("-"));
  const isNamed = ({ names }: Part) => names.some((name) => words.includes(name));
  const all =
    words.length === 0
      ? !argv.includes("--version")
      : words.includes("completion") || !parts.some(([, each]) => each.some(isNamed));
  for (const [heading, each] of parts) {
    program.commandsGroup(heading);
    for (const part of each) if (all || isNamed(part)) (await part.load())(program);
  }
  program.helpCommand("help [command]", "show a command's help");

  forEachCommand(program, (command) => {
    command
      .exitOverride()
      .configureHelp(helpLayout)
      .configureOutput({
        outputError: () => {},
        // What is left of it: the help of a command that needs another word.
        writeErr: (text) => {
          if (!failures.json) process.stderr.write(text);
        },
        writeOut: (text) => process.stdout.write(text),
        getOutHasColors: () => failures.style("bold", "x") !== "x",
      });
  });
  return program;
}

function forEachCommand(command: Command, visit: (command: Command) => void): void {
  visit(command);
  for (const child of command.commands) forEachCommand(child, visit);
}
