import type { Command } from "commander";
import { escapeControlCharacters } from "../../text/escape.js";
import { addGlobalOptions, type Context, contextOf } from "../context.js";
import { addBundleOptions, type BundleKeyOptions, bundleIn } from "../options/bundle.js";

export function addCommand(program: Command): void {
  const verify = addGlobalOptions(
    addBundleOptions(
      program
        .command("verify <file>")
        .description("check a backup as a restore would: every page, every count, its manifest")
        .addHelpText(
          "after",
          "\nExamples:\n  hivemind-sqlcipher verify /srv/backup/hivemind/clients.2026-11-24T18-50-00Z.db\n  hivemind-sqlcipher verify FILE --bundle clients.….bundle.age -i recovery-key.txt",
        ),
    ),
  );
  verify.action(async (file: string, options: BundleKeyOptions) =>
    runVerify(await contextOf(verify), file, options),
  );
}

async function runVerify(context: Context, file: string, options: BundleKeyOptions): Promise<void> {
  const { verifyBackup } = await import("../../backup/verify.js");
  const { expandPath } = await import("../../config/paths.js");
  const { recordRestoreTest } = await import("../../backup/restore-test.js");
  const { isKept } = await import("../../keys/source.js");
  const bundle = await bundleIn(options);
  const { path, ok, checks } = await verifyBackup(expandPath(file), bundle ?? context);
  if (bundle && ok) {
    const { key_id, passphrase } = bundle;
    if (!(await isKept(context.source, context.storePath, passphrase))) {
      context.output.notice(
        "the backup and the bundle fit together, but nothing here vouches for them: the recipient is public, and whoever knows it can make such a pair",
      );
    }
    await recordRestoreTest(context.storePath, { how: "verify", backup: path, key_id });
  }
  context.output.result({ path, ok, checks }, () => [
    `${path}: ${ok ? context.output.style("green", "sound") : context.output.style("red", "NOT SOUND")}`,
    ...checks.map(
      ({ name, ok, detail }) =>
        `  ${ok ? "ok  " : "FAIL"}  ${name.padEnd(12)} ${escapeControlCharacters(detail)}`,
    ),
  ]);
  if (!ok) process.exitCode = 14;
}
