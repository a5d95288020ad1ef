/** The request, the result and the scope of a setup. */
import type { RecoveryKeyDelivery } from "../bundle/recipients.js";
import type { Reporter } from "../reporter.js";
import type { ServiceChoice } from "../service/select.js";
import { type ServiceName, shortUnitName } from "../service/systemctl.js";
import type { DatabaseSurvey } from "./database-survey.js";
import { formerKind } from "./facts.js";
import type { HubSurvey } from "./hub-survey.js";
import type { Plan } from "./plan.js";
import type { RecoveryKeyFile } from "./recovery-key-file.js";
import type { Outage } from "./serving.js";
import type { SetupChoice, Survey } from "./survey.js";

export interface SetupRequest extends SetupChoice {
  /** The command of the timer. */
  readonly backupCommand: readonly string[];
  /** age recipients that the user named. */
  readonly recipients: readonly string[];
  readonly recoveryKey: RecoveryKeyDelivery;
  readonly recoveryKeyFile: RecoveryKeyFile;
  /** Returns the command line of this program for the store, with the settings file. */
  readonly ownCommand: (...args: string[]) => string[];
  /** The command line of `run` with a credential, for a system unit. */
  readonly preparation: readonly string[];
  readonly recoveryCommand: readonly string[];
  readonly reporter: Reporter;
  readonly signal: AbortSignal;
}

export interface FirstBackup {
  readonly path: string;
  readonly bundle: string;
  /** Whether its bundle was opened with the recovery key. */
  readonly tested: boolean;
}

export interface SetupResult {
  readonly changed: boolean;
  readonly unit: string;
  readonly store: string;
  readonly formerDatabase: string;
  readonly settings: string;
  /** Whether this setup delivered a new recovery key. */
  readonly recoveryKey: "new" | "kept";
  readonly backup: FirstBackup | null;
  /** Null if the hub was not restarted. */
  readonly outage: Outage | null;
  readonly schedule: string | null;
  /** The path of the plaintext database if it was kept, because it has changed since its copy. */
  readonly plainCopy: string | null;
}

/** The request, with the findings of the survey. */
export interface SetupScope {
  readonly request: SetupRequest;
  readonly found: Survey;
  readonly hub: HubSurvey;
  readonly database: DatabaseSurvey;
  /** The kind of the hub's database; for a hub on the encrypted store, the kind before setup. */
  readonly former: DatabaseSurvey["kind"];
  readonly recoveryKey: RememberedKey;
}

/** A delivery that keeps the recovery key in memory, to verify the first backup with it. */
export interface RememberedKey {
  readonly delivery: RecoveryKeyDelivery;
  /** The key that was delivered in this process. It is never stored. */
  readonly identity: () => string | undefined;
}

/** Combines the request with the hub and the database, which a plan without obstacles has. */
export function createScope(request: SetupRequest, found: Survey, plan: Plan): SetupScope {
  const [hub] = found.hubs;
  const { database } = found;
  if (hub === undefined || database === undefined) throw new Error("the plan has obstacles");
  return {
    found,
    hub,
    database,
    former: formerKind(found),
    request: { ...request, reporter: deduplicateNotices(request.reporter, plan.notices) },
    recoveryKey: rememberKey(request.recoveryKey),
  };
}

/** Returns the service choice for a unit or a container. */
export function choiceOfUnit(storePath: string, { manager, name }: ServiceName): ServiceChoice {
  return { service: manager, unit: shortUnitName(name), storePath };
}

/** Suppresses repeated notices: each operation of a setup reports the directories and the unit. */
function deduplicateNotices(reporter: Reporter, known: readonly string[]): Reporter {
  const seen = new Set(known);
  return {
    ...reporter,
    notice: (text) => {
      if (!seen.has(text)) reporter.notice(text);
      seen.add(text);
    },
  };
}

function rememberKey(recoveryKey: RecoveryKeyDelivery): RememberedKey {
  let delivered: string | undefined;
  return {
    identity: () => delivered,
    delivery: {
      ...recoveryKey,
      deliver: async (identity, recipient) => {
        await recoveryKey.deliver(identity, recipient);
        delivered = identity;
      },
    },
  };
}
