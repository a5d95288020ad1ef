/** What `status`, `doctor` and the metrics look at: the store, its hub and its directories. */
import type { Settings } from "../config/settings-file.js";
import type { ConfiguredTarget } from "../copies/copy-record.js";
import type { DoctorOptions } from "../diagnostics/doctor.js";
import type { StatusOptions } from "../diagnostics/status.js";
import type { Context } from "./context.js";
import { hubDatabase } from "./open.js";
import { type ServiceOptions, serviceChoice } from "./options/operation.js";

export function statusOptions(context: Context): StatusOptions {
  const { storePath, source, settings, settingsProblems } = context;
  return {
    ...{ storePath, source, settingsProblems },
    service: serviceChoice(context, {}),
    backupFolder: settings.backup?.to,
    copyTargets: copyTargets(settings),
    findHubDatabase: () => hubDatabase(context),
  };
}

export function doctorOptions(
  context: Context,
  options: ServiceOptions & { hubPython?: string; fillGaps?: boolean } = {},
): DoctorOptions {
  const { storePath, settingsPath, settingsProblems, settings, source } = context;
  return {
    ...{ storePath, settingsPath, settingsProblems, source },
    backupFolder: settings.backup?.to,
    bundleFolder: settings.backup?.bundle_to,
    copyTargets: copyTargets(settings),
    service: serviceChoice(context, options),
    hubPython: options.hubPython,
    fillGaps: options.fillGaps ?? false,
  };
}

function copyTargets({ backup, bundle }: Settings): ConfiguredTarget[] {
  return [
    ...(backup?.copies ?? []).map((target) => ({ target, contents: "backups" as const })),
    ...(bundle?.copies ?? []).map((target) => ({ target, contents: "bundle" as const })),
  ];
}

/** Returns the metrics of the store, with the number of doctor's findings. */
export async function collectMetrics(context: Context): Promise<string> {
  const { readStoreStatus } = await import("../diagnostics/status.js");
  const { doctor } = await import("../diagnostics/doctor.js");
  const { formatMetrics } = await import("../diagnostics/metrics.js");
  const status = await readStoreStatus(statusOptions(context));
  const { checks } = await doctor(doctorOptions(context));
  return formatMetrics(status, checks);
}
