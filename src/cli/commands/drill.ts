import type { Command } from "commander";
import { StoreError } from "../../errors.js";
import { abortOnSignal } from "../../process/signals.js";
import type { DrillResult } from "../../restore/drill.js";
import { addGlobalOptions, type Context, contextOf } from "../context.js";
import { addHelp } from "../help.js";
import { type MonitoredResult, monitored } from "../monitored.js";
import { listingOptions } from "../options/backup-directories.js";
import { addBundleOptions, type BundleKeyOptions, withBundle } from "../options/bundle.js";
import { toJson } from "../ui/json.js";
import { formatSize } from "../ui/units.js";

export function addCommand(program: Command): void {
  const command = program
    .command("drill [target]")
    .description("Restore the newest backup to a temporary copy and read it");
  addBundleOptions(command);
  addGlobalOptions(command);
  addHelp(command, {
    details: [
      "Copies the newest backup to a temporary directory ($TMPDIR), makes the checks of restore, opens the copy as a hub does, reads every client, and removes the copy. The store, its service and the keyring stay unchanged. The copy is encrypted.",
      "With --identity, the backup's bundle is opened with the recovery key: this is the restore test that doctor asks for twice a year. Without it, the drill takes the passphrase from the keyring, and can run unattended.",
    ],
    examples: [
      "hivemind-sqlcipher drill",
      "hivemind-sqlcipher drill /media/usb/backups --identity recovery-key.txt",
      "hivemind-sqlcipher drill rclone:nas:hivemind --identity recovery-key.txt",
    ],
  });
  command.action(async (directory: string | undefined, options: BundleKeyOptions) => {
    const context = await contextOf(command);
    await monitored(context, "drill", () => runDrill(context, directory, options));
  });
}

async function runDrill(
  context: Context,
  directory: string | undefined,
  options: BundleKeyOptions,
): Promise<MonitoredResult> {
  const { newestBackup } = await import("../../backup/manifest.js");
  const { recordRestoreTest } = await import("../../backup/restore-test.js");
  const { readBundle } = await import("../../bundle/bundle.js");
  const { drill } = await import("../../restore/drill.js");
  const { withView } = await import("../../copies/view.js");
  const { output, storePath } = context;
  const { folder: target, bundleFolder } = listingOptions(context, directory, {});
  const { result, isWithBundle } = await withView(
    target,
    { storePath, heads: "of each key" },
    async ({ folder, files, named }) => {
      const newest = await newestBackup(folder, storePath);
      if (newest === undefined) {
        throw new StoreError("notFound", `there is no backup of ${storePath} in ${folder}`, {
          hint: "Make one with hivemind-sqlcipher backup, or name another directory.",
        });
      }
      await files.complete(newest.path);
      const search = { backup: newest.path, directory: bundleFolder };
      return await withBundle(options, { search, kept: context }, async (given) => {
        const bundle = given && (await readBundle(given.path, given.opener));
        const result = await abortOnSignal((signal) =>
          drill({ backup: newest.path, secret: bundle ?? context, signal }),
        );
        return { result: named(result), isWithBundle: bundle !== undefined };
      });
    },
  );
  if (isWithBundle) {
    const { backup, keyId: key_id } = result;
    await recordRestoreTest(storePath, { how: "drill", backup, key_id });
  }
  const opener = isWithBundle ? "its bundle" : "a kept passphrase";
  const document = toJson({ drill: { ...result, withBundle: isWithBundle } });
  output.result(document, () => drillLines(result, opener));
  return { document };
}

function drillLines({ backup, createdAt, size, clients }: DrillResult, opener: string): string[] {
  return [
    `Restored and read: ${backup}`,
    `  made        ${createdAt}, ${formatSize(size)}`,
    `  clients     ${clients.active} active, ${clients.revoked} revoked`,
    `  opened with ${opener}`,
  ];
}
