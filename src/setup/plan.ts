/** Plans the steps of a setup from a survey. Pure. */
import { revokedKeyWarning } from "../client/permissions.js";
import { outageAdvice } from "../service/schedule.js";
import { isUnit } from "../service/systemctl.js";
import { counted } from "../text/count.js";
import type { DatabaseSurvey } from "./database-survey.js";
import { formerKind, isSealedUnit, isStored, needsKeys } from "./facts.js";
import type { HubSurvey } from "./hub-survey.js";
import { findObstacles, type Obstacle, type ObstacleOptions } from "./obstacles.js";
import { isHiveMind4 } from "./packages.js";
import type { Survey } from "./survey.js";

const stepIds = [
  "packages",
  "keys",
  "drop-in",
  "store",
  "server.json",
  "restart",
  "backup",
  "plain-copy",
  "schedule",
] as const;

export type StepId = (typeof stepIds)[number];

export interface PlanStep {
  readonly id: StepId;
  readonly state: "needed" | "done";
  /** What the step changes, as a sentence without a full stop. */
  readonly changes: string;
  /** What `setup --undo` does with the change: printed after "undo: ". */
  readonly undo: string;
}

export interface Plan {
  readonly steps: readonly PlanStep[];
  readonly obstacles: readonly Obstacle[];
  /** Notices for the user before the confirmation. */
  readonly notices: readonly string[];
}

export interface PlanOptions extends ObstacleOptions {
  /** Whether the timer's backups leave the hub running: see `keepsHubRunning`. */
  readonly onlineBackups: boolean;
  /** The timer's command line, as in its unit. */
  readonly scheduledCommand: string;
  /** Whether the user named a recipient, instead of a new recovery key. */
  readonly hasRecipient: boolean;
}

export function planSetup(survey: Survey, options: PlanOptions): Plan {
  const { hubs, database } = survey;
  const [hub, ...others] = hubs;
  const isKnown = hub !== undefined && others.length === 0 && database !== undefined;
  return {
    steps: isKnown ? planSteps(survey, database, hub, options) : [],
    obstacles: findObstacles(survey, options),
    notices: findNotices(survey, options),
  };
}

/** Returns whether every step is done, and no setup is in progress. */
export function isFinished({ steps }: Plan, { record }: Survey): boolean {
  return record?.phase !== "setting-up" && steps.every(({ state }) => state === "done");
}

function planSteps(
  survey: Survey,
  database: DatabaseSurvey,
  hub: HubSurvey,
  options: PlanOptions,
): PlanStep[] {
  const { isHandedOver, packages } = survey;
  const kind = formerKind(survey);
  const copy = (isHandedOver ? survey.record?.database.place : undefined) ?? database.place;
  const step = (id: StepId, isDone: boolean, changes: string, undo: string): PlanStep => ({
    id,
    state: isDone ? "done" : "needed",
    changes,
    undo,
  });
  return [
    step(
      "packages",
      packages?.canEncrypt === true,
      packagesChange(survey),
      "stays: the hub works with it on every database",
    ),
    step(
      "keys",
      !needsKeys(survey),
      `${recoveryKeyChange(survey, options)}, ${passphraseChange(survey)}, and remember the directories in ${survey.settingsPath}`,
      "stays: the backups need both",
    ),
    step(
      "drop-in",
      hub.startsByRun && !hub.isDropInOutdated,
      `write ${hub.dropIn}, which ${dropInEffect(survey, hub)}`,
      "removes it",
    ),
    step(
      "store",
      isHandedOver || (kind === "json" && isStored(survey)),
      storeChange(kind, survey, copy),
      storeUndo(kind),
    ),
    step("server.json", isHandedOver, serverChange(kind, survey), serverUndo(kind)),
    step(
      "restart",
      isHandedOver && hub.isServing && !hub.isDropInOutdated,
      `restart ${hub.name} and wait until it has the encrypted store open`,
      `restarts ${hub.name}`,
    ),
    step(
      "backup",
      !needsKeys(survey) &&
        survey.lastBackup !== undefined &&
        (survey.isRestoreTested || survey.record?.phase !== "setting-up"),
      `back up to ${survey.directories.backups}, with a passphrase bundle in ${survey.directories.bundles}, and verify both`,
      "stays",
    ),
    ...(kind === "json" && !isCopyKept(survey)
      ? [
          step(
            "plain-copy",
            isHandedOver && !survey.hasPlainCopy,
            `remove ${copy}, which has the clients' keys in plain text`,
            "writes it again, with the clients as they are then",
          ),
        ]
      : []),
    ...(survey.scheduleProblem === undefined
      ? [
          step(
            "schedule",
            survey.schedule?.active === true &&
              survey.installedCommand === options.scheduledCommand,
            scheduleChange(survey, options),
            "removes it",
          ),
        ]
      : []),
  ];
}

function packagesChange({ packages, hubContainer }: Survey): string {
  return hubContainer === undefined
    ? `install with pip a SQLite plugin that encrypts into the hub's Python (${packages?.python ?? "?"})`
    : `use a SQLite plugin that encrypts in the container ${hubContainer.name}`;
}

function dropInEffect(survey: Survey, hub: HubSurvey): string {
  if (survey.hubContainer !== undefined) {
    const again = isUnit(hub) ? "" : "; create the container again with it";
    return `lets the container mount a copy of server.json with the passphrase, in memory${again}`;
  }
  return isSealedUnit(survey, hub)
    ? "lets systemd unseal the passphrase for the hub"
    : "starts the hub through run";
}

function storeChange(
  former: DatabaseSurvey["kind"],
  { storePath, database }: Survey,
  copy: string,
): string {
  if (former === "sqlite") return `encrypt ${storePath} in place`;
  if (former !== "json") return `take over ${storePath} with its password`;
  const count = database?.clientCount;
  const clients = count === undefined ? "every client" : counted(count, "client");
  return `create ${storePath}, encrypted, and copy ${clients} from ${copy}`;
}

function scheduleChange({ schedule }: Survey, { onlineBackups }: PlanOptions): string {
  const how = onlineBackups ? " without stopping the hub" : "";
  if (schedule === undefined) return `install a timer that backs up daily${how}`;
  return `let ${schedule.unit}, at its times, run this program's backup${how}`;
}

function recoveryKeyChange(
  { recipients }: Survey,
  { recoveryKeyFile, hasRecipient }: PlanOptions,
): string {
  if (recoveryKeyFile !== undefined) return `make a recovery key (${recoveryKeyFile})`;
  if (hasRecipient || recipients.length > 0) return "encrypt bundles to the recovery key in use";
  return "make a recovery key (shown on the terminal, to be written down)";
}

function passphraseChange({ source }: Survey): string {
  if (source.kind === "sealed") return `seal a passphrase to this machine in ${source.path}`;
  return `keep a passphrase in ${source.kind === "keyring" ? "the keyring" : "its source"}`;
}

function storeUndo(kind: DatabaseSurvey["kind"]): string {
  if (kind === "json") return "moves it aside, after a last backup";
  if (kind === "sqlite") return "converts it back to plain SQLite, after a last backup";
  return "leaves it encrypted, with the same passphrase";
}

function serverChange(kind: DatabaseSurvey["kind"], { server }: Survey): string {
  if (kind === "json") return `let ${server.path} name the encrypted store`;
  if (kind === "sqlite") return `leave ${server.path} as it is`;
  return `remove the password in plain text from ${server.path}`;
}

function serverUndo(kind: DatabaseSurvey["kind"]): string {
  if (kind === "json") return "names the former database again";
  return kind === "sqlite" ? "leaves it as it is" : "writes the password into it again";
}

/** Returns whether setup has kept the JSON database, because it has changed since its copy. */
function isCopyKept({ record, hasPlainCopy, isHandedOver }: Survey): boolean {
  return isHandedOver && hasPlainCopy && record?.plain_copy_kept === true;
}

function findNotices(survey: Survey, options: PlanOptions): string[] {
  const { record, database, packages, directories, boot, scheduleProblem, isHandedOver } = survey;
  const { recoveryKeyFile, isHeadless, onlineBackups } = options;
  const notices = [
    isCopyKept(survey) &&
      `${record?.database.place} was changed after it was copied; it has clients' keys in plain text, so remove it if it is not needed`,
    ...directories.notices,
    database?.isFirstRevoked &&
      !isHandedOver &&
      packages !== undefined &&
      isHiveMind4(packages) &&
      `unused ids get revoked clients, and ${revokedKeyWarning}`,
    boot !== undefined &&
      !isHeadless &&
      `after a reboot without a login the hub waits for its passphrase (setup --headless): ${boot.problem}`,
    scheduleProblem !== undefined && `no timer is installed: ${scheduleProblem}`,
    recoveryKeyFile !== undefined &&
      !needsKeys(survey) &&
      `no recovery key is made in ${recoveryKeyFile}: bundles are encrypted to the recovery key in use`,
    onlineBackups ? "backups do not stop the hub" : outageAdvice,
  ];
  return notices.filter((notice) => typeof notice === "string");
}
