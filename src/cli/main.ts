#!/usr/bin/env node
import { CommanderError } from "commander";
import { exitCodes, StoreError, systemError } from "../errors.js";
import { hardenProcess } from "../process/privacy.js";
import { buildProgram } from "./program.js";
import { asStoreError, Output } from "./ui/output.js";

/** What fails before the options are read is reported as the arguments ask, as far as that can be told. */
function outputForFailure(argv: string[]): Output {
  const ends = argv.indexOf("--");
  const options = ends === -1 ? argv : argv.slice(0, ends);
  return new Output({
    json: options.includes("--json"),
    quiet: false,
    verbose: options.includes("--verbose"),
    color: !options.includes("--no-color"),
  });
}

async function main(argv: string[]): Promise<void> {
  process.stdout.on("error", (error: NodeJS.ErrnoException) => {
    // A reader that has seen enough (`… | head`) is no error of ours.
    if (error.code === "EPIPE") process.exit();
    const { message, exitCode } = systemError(error, "cannot write to standard output");
    process.stderr.write(`error: ${message}\n`, () => process.exit(exitCode));
  });
  // What is under way does not end because nobody reads what it says.
  process.stderr.on("error", () => undefined);
  hardenProcess();
  const output = outputForFailure(argv);
  try {
    const program = await buildProgram(output, argv.slice(2));
    await program.parseAsync(argv);
  } catch (error) {
    if (error instanceof CommanderError && error.exitCode === 0) return; // --help, --version
    if (isHelp(error) && !output.json) {
      process.exitCode = exitCodes.usage;
      return;
    }
    const failure = error instanceof CommanderError ? usageError(error) : asStoreError(error);
    output.error(failure);
    if (failure.kind === "failed" && argv.includes("--verbose") && failure.cause) {
      output.detail(String((failure.cause as Error).stack));
    }
    process.exitCode = failure.exitCode;
  }
}

/** A command was left out, and commander has shown the help instead. */
function isHelp(error: unknown): boolean {
  return error instanceof CommanderError && error.code === "commander.help";
}

function usageError(error: CommanderError): StoreError {
  const [message = "", guess] = error.message.replace(/^error: /, "").split("\n");
  return new StoreError("usage", isHelp(error) ? "a command is missing" : message, {
    // "(Did you mean status?)"
    hint:
      guess?.replace(/^\((.*)\)$/, "$1") ??
      "hivemind-sqlcipher --help, or COMMAND --help, says what there is.",
  });
}

void main(process.argv);
