import type { Command } from "commander";
import { expandPath } from "../../config/paths.js";
import { StoreError } from "../../errors.js";
import { addCommandGroup, finishCommand } from "../command.js";
import type { Context } from "../context.js";
import { collectMetrics } from "../inspect.js";

export function addCommand(program: Command): void {
  const group = addCommandGroup(program, "metrics", "Write metrics for Prometheus's node_exporter");
  addInstall(group);
  addRemove(group);
}

function addInstall(group: Command): void {
  const command = group
    .command("install <file>")
    .description("Write the metrics to this file now and after each operation");
  finishCommand(command, runInstall, {
    details: [
      "The file must be in the directory of node_exporter's textfile collector, its name must end in .prom, and this user must be able to write the directory. backup, prune, rotate and drill then replace the file when they end, also when they fail. The metrics contain no secret; status --format prometheus prints them.",
    ],
    examples: [
      "hivemind-sqlcipher metrics install /var/lib/prometheus/node-exporter/hivemind.prom",
    ],
  });
}

async function runInstall(context: Context, path: string): Promise<void> {
  const { updateSection } = await import("../../operation/settings.js");
  const { writeMetrics } = await import("../../diagnostics/metrics.js");
  const file = expandPath(path);
  if (!file.endsWith(".prom")) {
    throw new StoreError("usage", `the name of ${file} does not end in .prom`, {
      hint: "Name a file that ends in .prom: node_exporter's textfile collector reads no other file.",
    });
  }
  await writeMetrics(file, await collectMetrics(context));
  await updateSection(context.settingsSection, (settings) => ({ ...settings, metrics: { file } }));
  context.output.result({ metrics: { file } }, () => [`Metrics are written to ${file}`]);
}

function addRemove(group: Command): void {
  const command = group
    .command("remove")
    .description("Remove the file of the metrics and stop writing it");
  finishCommand(command, runRemove, { examples: ["hivemind-sqlcipher metrics remove"] });
}

async function runRemove(context: Context): Promise<void> {
  const { updateSection } = await import("../../operation/settings.js");
  const { removeFile } = await import("../../fs/atomic.js");
  const { file } = context.settings.metrics ?? {};
  if (file === undefined) {
    throw new StoreError(
      "notFound",
      `the settings of ${context.storePath} name no file of metrics`,
      {
        hint: "Run hivemind-sqlcipher metrics install FILE.",
      },
    );
  }
  await updateSection(context.settingsSection, ({ metrics: _, ...others }) => others);
  await removeFile(file);
  context.output.result({ removed: { file } }, () => [`Removed ${file}`]);
}
