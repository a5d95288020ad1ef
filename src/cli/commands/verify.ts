import type { Command } from "commander";
import { expandTarget } from "../../config/paths.js";
import type { View } from "../../copies/view.js";
import { exitCodes } from "../../errors.js";
import { orAbort } from "../../process/abort.js";
import { currentInteraction } from "../../process/interaction.js";
import { escapeControlCharacters } from "../../text/escape.js";
import { addGlobalOptions, type Context, contextOf } from "../context.js";
import { addHelp } from "../help.js";
import { addBundleOptions, type BundleKeyOptions, withBundle } from "../options/bundle.js";

export function addCommand(program: Command): void {
  const command = program
    .command("verify <file>")
    .description("Verify a backup: its pages, its clients and its manifest");
  addBundleOptions(command);
  addGlobalOptions(command);
  addHelp(command, {
    details: ["Makes the same checks as restore. Exits with 14 if one fails."],
    examples: [
      "hivemind-sqlcipher verify /srv/backup/hivemind/clients.2026-11-24T18-50-00Z.db",
      "hivemind-sqlcipher verify rclone:nas:hivemind/clients.2026-11-24T18-50-00Z.db",
      "hivemind-sqlcipher verify FILE --bundle clients.….bundle.age -i recovery-key.txt",
    ],
  });
  command.action(async (file: string, options: BundleKeyOptions) =>
    runVerify(await contextOf(command), file, options),
  );
}

async function runVerify(context: Context, file: string, options: BundleKeyOptions): Promise<void> {
  const { verifyBackup } = await import("../../backup/verify.js");
  const { recordRestoreTest } = await import("../../backup/restore-test.js");
  const { withLocalFile } = await import("../../copies/view.js");
  const { isKept } = await import("../../keys/source.js");
  const { readBundle } = await import("../../bundle/bundle.js");
  const { output, settings, source, storePath } = context;
  const verify = async (backup: string, named: View["named"]) => {
    const search = { backup, directory: settings.backup?.bundle_to };
    return await withBundle(options, { search, kept: context }, async (given) => {
      const bundle = given && (await readBundle(given.path, given.opener));
      const verifying = verifyBackup(backup, bundle ?? context);
      return { bundle, ...named(await orAbort(verifying, currentInteraction().signal)) };
    });
  };
  const { bundle, path, ok, checks } = await withLocalFile(expandTarget(file), verify);
  if (bundle && ok) {
    const { key_id, passphrase } = bundle;
    if (!(await isKept(source, storePath, passphrase))) {
      output.notice(
        "backup and bundle match, but no passphrase kept here confirms that they are yours: everyone who knows the recipient can create such a pair",
      );
    }
    await recordRestoreTest(storePath, { how: "verify", backup: path, key_id });
  }
  output.result({ path, ok, checks }, () => [
    `${path}: ${ok ? output.style("green", "intact") : output.style("red", "NOT INTACT")}`,
    ...checks.map(
      ({ name, ok, detail }) =>
        `  ${ok ? "ok  " : "FAIL"}  ${name.padEnd(12)} ${escapeControlCharacters(detail)}`,
    ),
  ]);
  if (!ok) process.exitCode = exitCodes.corrupted;
}
