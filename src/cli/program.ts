/** The command's grammar. Each action loads its work only when it is called, so that --help touches nothing. */
import { readFileSync } from "node:fs";
import { Command } from "commander";
import { addBackupCommands } from "./backup.js";
import { addBackupsCommands } from "./backups.js";
import { addBundleCommands } from "./bundle.js";
import { addClientCommands } from "./clients.js";
import { addCompletionCommand } from "./completion.js";
import { addGlobalOptions } from "./context.js";
import { addDatabaseCommands } from "./databases.js";
import { addDoctorCommand } from "./doctor.js";
import { addExchangeCommands } from "./exchange.js";
import { addInitCommand } from "./init.js";
import { addLifecycleCommands } from "./lifecycle.js";
import type { Output } from "./output.js";
import { addPermissionCommands } from "./permissions.js";
import { addRestoreCommand } from "./restore.js";
import { addRunCommand } from "./run.js";
import { addScheduleCommands } from "./schedule.js";
import { addSettleCommand } from "./settle.js";
import { addSqlCommand } from "./sql.js";
import { addStatusCommand } from "./status.js";

const exitCodesHelp = `
Exit codes:
  0 done, 1 failed or findings, 2 wrong usage, 10 no such store, backup, bundle or client, 11 store in use,
  12 wrong passphrase or not a database, 13 passphrase not available, 14 corrupted or tampered with,
  15 service could not be stopped or started, 16 written by a newer version, 17 refused for safety,
  18 no space, no permission or another I/O error, 130 interrupted`;

/**
 * Builds the whole command. Errors are thrown, never printed by commander itself.
 *
 * @param failures - where what is wrong with the arguments will be reported; with --json commander stays silent.
 */
export function buildProgram(failures: Output): Command {
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

  program.commandsGroup("The store:");
  addInitCommand(program);
  addStatusCommand(program);
  addDoctorCommand(program);
  addLifecycleCommands(program);
  addRunCommand(program);
  program.commandsGroup("Clients:");
  addClientCommands(program);
  addPermissionCommands(program);
  addExchangeCommands(program);
  addSqlCommand(program);
  program.commandsGroup("Databases:");
  addDatabaseCommands(program);
  program.commandsGroup("Backups:");
  addBackupCommands(program);
  addBackupsCommands(program);
  addRestoreCommand(program);
  addScheduleCommands(program);
  addBundleCommands(program);
  addSettleCommand(program);
  program.commandsGroup("The shell:");
  addCompletionCommand(program);

  forEachCommand(program, (command) => {
    command.exitOverride().configureOutput({
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
