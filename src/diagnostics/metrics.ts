/**
 * The state of a store as metrics in Prometheus's text format, for node_exporter's textfile
 * collector.
 *
 * Times are absolute, not ages: a file that is no longer updated must not look recent. See
 * https://prometheus.io/docs/instrumenting/exposition_formats/.
 */
import type { Drill } from "../backup/drill-record.js";
import type { CopyState } from "../copies/copy-record.js";
import { createFile, replaceFile } from "../fs/atomic.js";
import { lstatIfExists } from "../fs/read.js";
import { parseRunName, type Run } from "../operation/run-record.js";
import type { Check, Severity } from "./check.js";
import type { StoreStatus } from "./status.js";

/** node_exporter runs as another user. The file contains paths and numbers only. */
const metricsMode = 0o644;

type Labels = Readonly<Record<string, string>>;

/** The samples of a metric. Null stands for an unknown value, which has no sample. */
interface Metric {
  readonly name: string;
  readonly help: string;
  readonly samples: readonly (readonly [Labels, number | null])[];
}

/** Returns the metrics of a store. Counts the findings in the checks of `doctor`. */
export function formatMetrics(status: StoreStatus, checks: readonly Check[]): string {
  const metrics = [
    ...storeMetrics(status),
    ...runMetrics(status),
    ...copyMetrics(status),
    ...drillMetrics(status),
    ...findingMetrics(checks),
  ];
  return metrics
    .map((metric) => formatMetric(metric, { store: status.path }))
    .filter((text) => text !== "")
    .join("");
}

/**
 * Replaces the file for the textfile collector atomically. A new file is readable for all users; an
 * existing file keeps its mode.
 *
 * @throws {@link StoreError} refused or io - as `replaceFile`
 */
export async function writeMetrics(path: string, text: string): Promise<void> {
  if (await lstatIfExists(path)) await replaceFile(path, text);
  else await createFile(path, text, metricsMode);
}

function storeMetrics(status: StoreStatus): Metric[] {
  const { clients, service, schedule, pending } = status;
  return [
    {
      name: "encrypted",
      help: "Whether the hub's database is encrypted.",
      samples: [[{}, Number(status.format === "sqlcipher")]],
    },
    {
      name: "clients",
      help: "Number of clients in the store.",
      samples: [
        [{ state: "active" }, clients?.active ?? null],
        [{ state: "revoked" }, clients?.revoked ?? null],
      ],
    },
    {
      name: "service_active",
      help: "Whether the hub's service is running.",
      samples: service?.unit ? [[{ unit: service.unit }, Number(service.active)]] : [],
    },
    {
      name: "operation_interrupted",
      help: "Whether an operation is running or was interrupted.",
      samples: [[{}, Number(pending !== null)]],
    },
    {
      name: "backup_newest_timestamp_seconds",
      help: "Time of the newest backup by its manifest.",
      samples: [[{}, toSeconds(status.lastBackup?.createdAt)]],
    },
    {
      name: "restore_test_timestamp_seconds",
      help: "Time of the last restore test of a backup.",
      samples: [[{}, toSeconds(status.lastRestoreTest?.at)]],
    },
    {
      name: "bundle_test_timestamp_seconds",
      help: "Time of the last restore test with a bundle and its key.",
      samples: [[{}, toSeconds(status.lastBundleTest?.at)]],
    },
    {
      name: "schedule_next_timestamp_seconds",
      help: "Time of the next scheduled backup.",
      samples: [[{}, toSeconds(schedule?.nextRun)]],
    },
  ];
}

function runMetrics({ runs }: StoreStatus): Metric[] {
  const of = (value: (run: Run) => number | null) =>
    [...runs].map(([name, run]) => [parseRunName(name), value(run)] as const);
  return [
    ...attemptMetrics("run", "run", of),
    {
      name: "run_service_stopped_seconds",
      help: "How long the last run stopped the service.",
      samples: of(({ stopped_ms: stopped }) => (stopped === null ? null : stopped / 1000)),
    },
    {
      name: "run_bytes",
      help: "Size of the backup that the last run wrote or restored.",
      samples: of(({ size }) => size),
    },
  ];
}

/** Returns the metrics that runs and drills have in common. */
function attemptMetrics(
  prefix: string,
  subject: string,
  of: (value: (attempt: Run | Drill) => number | null) => Metric["samples"],
): Metric[] {
  return [
    {
      name: `${prefix}_timestamp_seconds`,
      help: `Time of the last ${subject}.`,
      samples: of(({ at }) => toSeconds(at)),
    },
    {
      name: `${prefix}_success_timestamp_seconds`,
      help: `Time of the last ${subject} that succeeded.`,
      samples: of(({ succeeded_at: at }) => toSeconds(at)),
    },
    {
      name: `${prefix}_exit_code`,
      help: `Exit code of the last ${subject}.`,
      samples: of(({ exit_code: code }) => code),
    },
    {
      name: `${prefix}_duration_seconds`,
      help: `Duration of the last ${subject}.`,
      samples: of(({ duration_ms: duration }) => duration / 1000),
    },
  ];
}

function copyMetrics({ copies }: StoreStatus): Metric[] {
  const of = (value: (copy: CopyState) => number | null) =>
    copies.map((copy) => [{ target: copy.target, contents: copy.contents }, value(copy)] as const);
  return [
    {
      name: "copy_timestamp_seconds",
      help: "Time of the last run with a target, also if its disk was missing.",
      samples: of(({ at }) => toSeconds(at)),
    },
    {
      name: "copy_success_timestamp_seconds",
      help: "Time of the last run that left a target complete.",
      samples: of(({ succeeded_at: at }) => toSeconds(at)),
    },
    {
      name: "copy_failed",
      help: "Whether the last run failed to copy to a target. A missing disk is no failure.",
      samples: of(({ at, error }) => (at === null ? null : Number(error !== null))),
    },
    {
      name: "copy_duration_seconds",
      help: "How long the last run took to copy to a target.",
      samples: of(({ duration_ms: duration }) => (duration === null ? null : duration / 1000)),
    },
    {
      name: "copy_bytes",
      help: "Size of the newest backup or bundle that was copied to a target.",
      samples: of(({ size }) => size),
    },
  ];
}

function drillMetrics({ drills }: StoreStatus): Metric[] {
  const of = (value: (drill: Drill) => number | null) =>
    drills.map((drill) => [{ target: drill.target }, value(drill)] as const);
  return [
    ...attemptMetrics("drill", "drill of a target", of),
    {
      name: "drill_bytes",
      help: "Size of the backup that a drill of a target last restored.",
      samples: of(({ size }) => size),
    },
  ];
}

function findingMetrics(checks: readonly Check[]): Metric[] {
  const count = (severity: Severity) =>
    checks.filter((check) => !check.ok && check.severity === severity).length;
  return [
    {
      name: "findings",
      help: "Number of findings of doctor.",
      samples: (["error", "warning"] as const).map((severity) => [{ severity }, count(severity)]),
    },
  ];
}

function toSeconds(time: string | null | undefined): number | null {
  return time ? Date.parse(time) / 1000 : null;
}

function formatMetric({ name, help, samples }: Metric, common: Labels): string {
  const full = `hivemind_sqlcipher_${name}`;
  const lines = samples.flatMap(([labels, value]) =>
    value === null ? [] : [`${full}${formatLabels({ ...common, ...labels })} ${value}\n`],
  );
  if (lines.length === 0) return "";
  return `# HELP ${full} ${help}\n# TYPE ${full} gauge\n${lines.join("")}`;
}

function formatLabels(labels: Labels): string {
  const pairs = Object.entries(labels).map(([name, value]) => `${name}="${escapeLabel(value)}"`);
  return `{${pairs.join(",")}}`;
}

const labelEscapes: Readonly<Record<string, string>> = { "\\": "\\\\", '"': '\\"', "\n": "\\n" };

function escapeLabel(value: string): string {
  return value.replace(/[\\"\n]/g, (character) => labelEscapes[character] ?? character);
}
