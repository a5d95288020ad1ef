import type { Command } from "commander";
import { finishCommand } from "../command.js";
import type { Context } from "../context.js";
import { addSwapOptions, operateWithService, type SwapOptions } from "../operate.js";
import { describeDowntime, fieldLines } from "../ui/lines.js";

export function addCommand(program: Command): void {
  const command = program
    .command("decrypt")
    .description("Convert an encrypted store back to plain SQLite");
  addSwapOptions(command);
  finishCommand(command, runDecrypt, {
    details: ["Asks for confirmation twice, unless --yes is given."],
    examples: ["hivemind-sqlcipher decrypt"],
  });
}

async function runDecrypt(context: Context, options: SwapOptions): Promise<void> {
  const { decrypt } = await import("../../swap/decrypt.js");
  const result = await operateWithService(context, options, decrypt);
  context.output.result(result, () => [
    `Decrypted: ${result.decrypted.path}, readable without a passphrase`,
    ...fieldLines({ service: describeDowntime(result.service) }),
  ]);
}
