import type { Command } from "commander";
import { StoreError } from "../../errors.js";
import { abortOnSignal } from "../../process/signals.js";
import type { DrillResult } from "../../restore/drill.js";
import { finishCommand } from "../command.js";
import type { Context } from "../context.js";
import { type MonitoredResult, monitorTarget, orNotice } from "../monitored.js";
import { findRunTarget, resolveListing } from "../options/backup-directories.js";
import { addBundleOptions, type BundleKeyOptions, withBundle } from "../options/bundle.js";
import { fieldLines, formatCounts } from "../ui/lines.js";
import { toStoreError } from "../ui/output.js";
import { formatSize } from "../ui/units.js";

export function addCommand(program: Command): void {
  const command = program
    .command("drill [target]")
    .description("Restore the newest backup to a temporary copy and read it");
  addBundleOptions(command);
  finishCommand(command, monitorTarget("drill", runDrill), {
    details: [
      "Copies the newest backup to a temporary directory ($TMPDIR), makes the checks of restore, opens the copy as a hub does, reads every client, and removes the copy. The store, its service and the keyring stay unchanged. The copy is encrypted.",
      "With --identity, opens the backup's bundle with the recovery key; doctor warns if this was not tested for half a year. Without a bundle's key, takes the passphrase that is kept for the store, and can run unattended, but proves nothing about the bundle and the recovery key.",
    ],
    examples: [
      "hivemind-sqlcipher drill",
      "hivemind-sqlcipher drill /media/usb/backups --identity recovery-key.txt",
      "hivemind-sqlcipher drill rclone:nas:hivemind --identity recovery-key.txt",
    ],
  });
}

async function runDrill(
  context: Context,
  directory: string | undefined,
  options: BundleKeyOptions,
): Promise<MonitoredResult> {
  const { recordRestoreTest } = await import("../../backup/restore-test.js");
  const { output, storePath } = context;
  const { result, withBundle } = await runRecorded(context, directory, () =>
    drillNewest(context, directory, options),
  );
  const { backup, keyId: key_id } = result;
  await recordRestoreTest(storePath, { how: "drill", backup, key_id }, { withBundle });
  const opener = withBundle ? "its bundle" : "a kept passphrase";
  const drill = { ...result, withBundle };
  const print = () => output.result({ drill }, () => drillLines(result, opener));
  return { result: { drill }, size: result.size, print };
}

interface FinishedDrill {
  readonly result: DrillResult;
  readonly withBundle: boolean;
}

async function drillNewest(
  context: Context,
  directory: string | undefined,
  options: BundleKeyOptions,
): Promise<FinishedDrill> {
  const { findNewestBackup } = await import("../../backup/manifest.js");
  const { readBundle } = await import("../../bundle/bundle.js");
  const { drill } = await import("../../restore/drill.js");
  const { withView } = await import("../../copies/view.js");
  const { storePath } = context;
  const { folder: target } = resolveListing(context, directory, {});
  return await withView(
    target,
    { storePath, heads: "two of each key" },
    async ({ folder, files, translatePaths }) => {
      const newest = await findNewestBackup(folder, storePath);
      if (newest === undefined) {
        throw new StoreError("notFound", `there is no backup of ${storePath} in ${folder}`, {
          hint: "Make one with hivemind-sqlcipher backup, or name another directory.",
        });
      }
      await files.makeReadable(newest.path);
      return await withBundle(context, options, newest.path, async (given) => {
        const bundle = given && (await readBundle(given.path, given.opener));
        const result = await abortOnSignal((signal) =>
          drill({ backup: newest.path, secret: bundle ?? context, signal }),
        );
        return { result: translatePaths(result), withBundle: bundle !== undefined };
      });
    },
  );
}

async function runRecorded(
  context: Context,
  directory: string | undefined,
  run: () => Promise<FinishedDrill>,
): Promise<FinishedDrill> {
  const { recordDrill } = await import("../../backup/drill-record.js");
  const target = await findRunTarget(context, directory);
  if (target === undefined) return await run();
  const { name, isConfigured } = target;
  const at = new Date().toISOString();
  const start = performance.now();
  const record = (exit_code: number, size: number | null) => {
    const duration_ms = Math.round(performance.now() - start);
    const drill = { target: name, at, duration_ms, exit_code, size };
    return orNotice(context, "the drill was not recorded", () =>
      recordDrill(context.storePath, drill, { isConfigured }),
    );
  };
  try {
    const finished = await run();
    await record(0, finished.result.size);
    return finished;
  } catch (error) {
    await record(toStoreError(error).exitCode, null);
    throw error;
  }
}

function drillLines({ backup, createdAt, size, clients }: DrillResult, opener: string): string[] {
  return [
    `Restored and read: ${backup}`,
    ...fieldLines({
      made: `${createdAt}, ${formatSize(size)}`,
      clients: formatCounts(clients),
      "opened with": opener,
    }),
  ];
}
