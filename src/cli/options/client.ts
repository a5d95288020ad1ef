import { type Command, InvalidArgumentError } from "commander";

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
