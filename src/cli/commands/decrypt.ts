import type { Command } from "commander";
import { addGlobalOptions, type Context, contextOf } from "../context.js";
import {
  addSwapOptions,
  downtimeLines,
  operate,
  operationOptions,
  type SwapOptions,
} from "../options/operation.js";

export function addCommand(program: Command): void {
  const decrypt = addGlobalOptions(
    addSwapOptions(
      program
        .command("decrypt")
        .description("the way back: an encrypted store becomes a plaintext one; asks twice")
        .addHelpText("after", "\nExample:\n  hivemind-sqlcipher decrypt"),
    ),
  );
  decrypt.action(async (options: SwapOptions) => runDecrypt(await contextOf(decrypt), options));
}

async function runDecrypt(context: Context, options: SwapOptions): Promise<void> {
  const { decrypt } = await import("../../swap/decrypt.js");
  const result = await operate(context, (lock, signal) =>
    decrypt(operationOptions(context, options, lock, signal)),
  );
  context.output.result(result, () => [
    `Decrypted: ${result.decrypted.path} can be read by anybody who gets at the file.`,
    ...downtimeLines(result.service),
  ]);
}
