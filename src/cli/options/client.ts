/** Options of the commands for clients. */
import { type Command, InvalidArgumentError } from "commander";
import { StoreError } from "../../errors.js";

export interface SecretOption {
  showSecrets?: boolean;
}

export function addSecretOption(command: Command): Command {
  return command.option("--show-secrets", "Include access keys, passwords and crypto keys");
}

export function parseBoolean(text: string): boolean {
  if (/^(true|yes|1)$/i.test(text)) return true;
  if (/^(false|no|0)$/i.test(text)) return false;
  throw new InvalidArgumentError("It must be true or false.");
}

/** The file of exports and imports of clients: an argument, or `--path` as in hivemind-core. */
export interface FileOption {
  path?: string;
}

export function addFileOption(command: Command, description: string): Command {
  return command.option("--path <file>", description);
}

export function resolveFile(
  argument: string | undefined,
  { path }: FileOption,
): string | undefined {
  if (argument !== undefined && path !== undefined && argument !== path) {
    throw new StoreError("usage", `two files are named: ${argument} and ${path}`, {
      hint: "Give the file as an argument or with --path, not both.",
    });
  }
  return argument ?? path;
}
