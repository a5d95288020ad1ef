import type { Command } from "commander";
import type { FleetVerdicts } from "../../backup/fleet-verify.js";
import { expandTarget } from "../../config/paths.js";
import { exitCodes, StoreError } from "../../errors.js";
import { orAbort } from "../../process/abort.js";
import { currentInteraction } from "../../process/interaction.js";
import { escapeControlCharacters } from "../../text/escape.js";
import { finishCommand } from "../command.js";
import type { Context } from "../context.js";
import {
  addBundleDirectoryOption,
  type BundleDirectoryOption,
  resolveListing,
} from "../options/backup-directories.js";
import {
  addBundleOptions,
  type BundleKeyOptions,
  readOpener,
  withBundle,
} from "../options/bundle.js";

export function addCommand(program: Command): void {
  const command = program
    .command("verify <file>")
    .description("Verify a backup: its pages, its clients and its manifest")
    .option("--all", "Verify the backups of every store in the target FILE");
  addBundleOptions(command);
  addBundleDirectoryOption(command);
  finishCommand(command, runVerify, {
    details: [
      "Makes the same checks as restore. Exits with 14 if a check fails.",
      "With --all, FILE is a directory or rclone:REMOTE:PATH, which several hubs may share. A backup is opened with the passphrases kept here, or, with --identity, with its bundle in the directory of bundles. Exits with 18 if a backup cannot be read, else with 14 if a backup is not intact, else with 12 if none could be opened. Backups that could not be opened are counted by store. A backup without a manifest is not complete and is left out.",
    ],
    examples: [
      "hivemind-sqlcipher verify /srv/backup/hivemind/clients.2026-11-24T18-50-00Z.db",
      "hivemind-sqlcipher verify rclone:nas:hivemind/clients.2026-11-24T18-50-00Z.db",
      "hivemind-sqlcipher verify FILE --bundle clients.….bundle.age -i recovery-key.txt",
      "hivemind-sqlcipher verify --all rclone:nas:hivemind -i recovery-key.txt",
    ],
  });
}

async function runVerify(context: Context, file: string, options: VerifyOptions): Promise<void> {
  await (options.all ? verifyAll : verifyOne)(context, file, options);
}

interface VerifyOptions extends BundleKeyOptions, BundleDirectoryOption {
  all?: boolean;
}

async function verifyOne(context: Context, file: string, options: VerifyOptions): Promise<void> {
  const { verifyBackup } = await import("../../backup/verify.js");
  const { recordRestoreTest } = await import("../../backup/restore-test.js");
  const { withLocalFile } = await import("../../copies/view.js");
  const { isKept } = await import("../../keys/source.js");
  const { readBundle } = await import("../../bundle/bundle.js");
  const { output, source, storePath } = context;
  const { bundle, path, ok, checks } = await withLocalFile(
    expandTarget(file),
    (backup, translatePaths) =>
      withBundle(context, options, backup, async (given) => {
        const bundle = given && (await readBundle(given.path, given.opener));
        const verifying = verifyBackup(backup, bundle ?? context);
        return { bundle, ...translatePaths(await orAbort(verifying, currentInteraction().signal)) };
      }),
  );
  if (bundle && ok) {
    const { key_id, passphrase } = bundle;
    if (!(await isKept(source, storePath, passphrase))) {
      output.notice(
        "the bundle opens the backup, but its passphrase is unknown on this machine: anyone who knows the recipient can create such a backup and bundle",
      );
    }
    await recordRestoreTest(
      storePath,
      { how: "verify", backup: path, key_id },
      { withBundle: true },
    );
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

async function verifyAll(context: Context, target: string, options: VerifyOptions): Promise<void> {
  if (options.bundle !== undefined) {
    throw new StoreError("usage", "--all and --bundle exclude each other", {
      hint: "Name the directory of the bundles: --bundle-to DIRECTORY",
    });
  }
  const { verifyStores } = await import("../../backup/fleet-verify.js");
  const { withFleet } = await import("../../copies/view.js");
  const { printVerifications } = await import("../ui/verifications.js");
  const { folder, ...secrets } = resolveListing(context, target, options);
  const opener = await readOpener(options);
  const verdicts = await withFleet(folder, (files, translatePaths) => {
    const { signal } = currentInteraction();
    return printVerifications(context, {
      folder: translatePaths(files.folder),
      verifications: verifyStores(files, { ...secrets, opener }, signal),
      translatePaths,
    });
  });
  // With --json, an error that the document contains has set the exit code already.
  process.exitCode ??= exitCodeFor(verdicts);
}

function exitCodeFor(verdicts: FleetVerdicts): number | undefined {
  if (verdicts.sum("damaged") > 0) return exitCodes.corrupted;
  const noneOpened = verdicts.sum("intact") === 0 && verdicts.sum("notOpened") > 0;
  return noneOpened ? exitCodes.wrongPassphrase : undefined;
}
