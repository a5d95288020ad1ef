import { InvalidArgumentError } from "commander";

export interface SecretOption {
  showSecrets?: boolean;
}

export function parseBoolean(text: string): boolean {
  if (/^(true|yes|1)$/i.test(text)) return true;
  if (/^(false|no|0)$/i.test(text)) return false;
  throw new InvalidArgumentError("true or false, please.");
}
