/** What `status`, `doctor` and the metrics look at: the store, its hub and its directories. */
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
    service: serviceChoice(context, options),
    hubPython: options.hubPython,
    fillGaps: options.fillGaps ?? false,
  };
}

/** Returns the metrics of the store, with the number of doctor's findings. */
export async function collectMetrics(context: Context): Promise<string> {
  const { storeStatus } = await import("../diagnostics/status.js");
  const { doctor } = await import("../diagnostics/doctor.js");
  const { formatMetrics } = await import("../diagnostics/metrics.js");
  const status = await storeStatus(statusOptions(context));
  const { checks } = await doctor(doctorOptions(context));
  return formatMetrics(status, checks);
}
