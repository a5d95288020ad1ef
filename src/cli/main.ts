#!/usr/bin/env node
import { isUtf8 } from "node:buffer";
import { readFileSync } from "node:fs";
import { type Command, CommanderError } from "commander";
import { exitCodes, StoreError, systemError } from "../errors.js";
import { withInteraction } from "../process/interaction.js";
import { hardenProcess } from "../process/privacy.js";
import { globalOptionsOf } from "./context.js";
import { loadWholeProgram } from "./own-program.js";
import { buildProgram } from "./program.js";
import { Output, toStoreError } from "./ui/output.js";

/**
 * Commands that can run for long: they stop the hub, run as long as it does, read whole backups, or
 * ask for an answer.
 * They load every file of this program first, because an upgrade of the package removes the files.
 */
const longRunning = new Set([
  ...["backup", "restore", "rotate", "encrypt", "decrypt", "init", "upgrade-schema", "migrate"],
  ...["bundle", "settle", "run", "setup", "verify", "prune", "drill", "export"],
]);

/** Returns the output for errors, which can occur before the options are parsed. */
function outputForFailure(argv: string[]): Output {
  const end = argv.indexOf("--");
  const options = end === -1 ? argv : argv.slice(0, end);
  return new Output({
    json: options.includes("--json"),
    quiet: options.includes("--quiet") || options.includes("-q"),
    verbose: options.includes("--verbose") || options.includes("-v"),
    color: !options.includes("--no-color"),
  });
}

async function main(argv: string[]): Promise<void> {
  process.stdout.on("error", (error: NodeJS.ErrnoException) => {
    // `… | head` closes the pipe after reading enough.
    if (error.code === "EPIPE") process.exit();
    const { message, exitCode } = systemError(error, "cannot write to standard output");
    process.stderr.write(`error: ${message}\n`, () => process.exit(exitCode));
  });
  // An operation continues after its terminal is closed.
  process.stderr.on("error", () => undefined);
  hardenProcess();
  const output = outputForFailure(argv);
  try {
    assertUtf8(argv);
    const program = await buildProgram(output, argv.slice(2));
    let yes = false;
    program.hook("preAction", (_, command) => {
      yes = globalOptionsOf(command).yes ?? false;
      if (listNames(command).some((name) => longRunning.has(name))) loadWholeProgram();
    });
    const interaction = {
      notice: (text: string) => output.notice(text),
      confirm: async (question: string) => (await import("./ui/prompt.js")).confirm(question, yes),
    };
    await withInteraction(interaction, () => program.parseAsync(argv));
  } catch (error) {
    if (error instanceof CommanderError && error.exitCode === 0) return; // --help, --version
    if (isMissingCommand(error) && !output.json) {
      process.exitCode = exitCodes.usage;
      return;
    }
    const failure = await toPrintedError(error);
    output.error(failure);
    if (failure.kind === "failed" && failure.cause) {
      output.detail(String((failure.cause as Error).stack));
    }
    process.exitCode = failure.exitCode;
  }
}

async function toPrintedError(error: unknown): Promise<StoreError> {
  if (error instanceof CommanderError) return usageError(error);
  const failure = toStoreError(error);
  if (failure.kind !== "passphraseUnavailable") return failure;
  return (await import("../diagnostics/keyring.js")).withUnlockCommand(failure);
}

/**
 * Throws if an argument is not UTF-8. Node.js replaces invalid bytes with U+FFFD, so a path in the
 * argument would name another file.
 */
function assertUtf8(argv: string[]): void {
  if (!argv.some((arg) => arg.includes("\ufffd"))) return;
  let bytes: Buffer;
  try {
    bytes = readFileSync("/proc/self/cmdline");
  } catch {
    return; // no /proc: not Linux
  }
  if (isUtf8(bytes)) return;
  const arg = argv.find((each) => each.includes("\ufffd"));
  throw new StoreError("usage", `the argument "${arg}" is not UTF-8 text`, {
    hint: "Rename the file or directory so that its name is UTF-8.",
  });
}

/** Returns the names of a command and of its parents. */
function listNames(command: Command): string[] {
  return [command.name(), ...(command.parent ? listNames(command.parent) : [])];
}

/** Returns whether the command or subcommand is missing. Commander has printed the help then. */
function isMissingCommand(error: unknown): boolean {
  return error instanceof CommanderError && error.code === "commander.help";
}

function usageError(error: CommanderError): StoreError {
  const [message = "", suggestion] = error.message.replace(/^error: /, "").split("\n");
  return new StoreError("usage", isMissingCommand(error) ? "no command given" : message, {
    // Commander's suggestion has the form "(Did you mean status?)".
    hint:
      suggestion?.replace(/^\((.*)\)$/, "$1") ??
      "Run hivemind-sqlcipher --help, or hivemind-sqlcipher COMMAND --help.",
  });
}

void main(process.argv);
