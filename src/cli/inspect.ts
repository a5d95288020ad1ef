/** Builds the options of `status`, `doctor` and the metrics, and collects the metrics. */
import type { Settings } from "../config/settings-file.js";
import type { ConfiguredTarget } from "../copies/copy-record.js";
import type { DoctorOptions } from "../diagnostics/doctor.js";
import type { StatusOptions } from "../diagnostics/status.js";
import { formatSource } from "../keys/source.js";
import type { Context } from "./context.js";
import { findHubDatabase } from "./open.js";
import { resolveServiceChoice, type ServiceOptions } from "./options/service.js";
import { ownScript } from "./own-program.js";

/**
 * Reads the state of a store. Reads it again if the passphrase's source has changed: the first
 * reading may have waited for a rotation, and then used the former source.
 */
export async function readWithNewestSource<Result>(
  context: Context,
  read: () => Promise<Result>,
): Promise<Result> {
  const source = formatSource(context.source);
  const [first] = await Promise.allSettled([read()]);
  await context.refreshSettings();
  if (formatSource(context.source) !== source) return await read();
  if (first.status === "rejected") throw first.reason;
  return first.value;
}

export function buildStatusOptions(context: Context): StatusOptions {
  const { storePath, source, settings, settingsProblems } = context;
  return {
    storePath,
    source,
    settingsProblems,
    service: resolveServiceChoice(context, {}),
    backupFolder: settings.backup?.to,
    copyTargets: listCopyTargets(settings),
    findHubDatabase: () => findHubDatabase(context),
  };
}

export function buildDoctorOptions(
  context: Context,
  options: ServiceOptions & { hubPython?: string; fillGaps?: boolean } = {},
): DoctorOptions {
  const { storePath, settingsPath, settingsProblems, settings, source } = context;
  return {
    storePath,
    settingsPath,
    settingsProblems,
    source,
    backupFolder: settings.backup?.to,
    bundleFolder: settings.backup?.bundle_to,
    copyTargets: listCopyTargets(settings),
    service: resolveServiceChoice(context, options),
    hubPython: options.hubPython,
    script: ownScript,
    fillGaps: options.fillGaps ?? false,
  };
}

function listCopyTargets({ backup, bundle }: Settings): ConfiguredTarget[] {
  return [
    ...(backup?.copies ?? []).map((target) => ({ target, contents: "backups" as const })),
    ...(bundle?.copies ?? []).map((target) => ({ target, contents: "bundle" as const })),
  ];
}

export async function collectMetrics(context: Context): Promise<string> {
  const { readStoreStatus } = await import("../diagnostics/status.js");
  const { doctor } = await import("../diagnostics/doctor.js");
  const { formatMetrics } = await import("../diagnostics/metrics.js");
  const status = await readStoreStatus(buildStatusOptions(context));
  const { checks } = await doctor(buildDoctorOptions(context));
  return formatMetrics(status, checks);
}
