/** Pure functions of a survey. */
import { hubContainer } from "../config/hub-account.js";
import type { PassphraseSource } from "../keys/source.js";
import { isOnlineBackup } from "../service/schedule-state.js";
import type { ServiceName } from "../service/systemctl.js";
import type { DatabaseSurvey } from "./database-survey.js";
import type { Survey } from "./survey.js";

/** Returns whether setup has to generate keys, and a bundle with them. */
export function needsKeys(survey: Survey): boolean {
  return !isStored(survey) || survey.recipients.length === 0;
}

/**
 * Returns whether there is an encrypted store with its bundle, and the hub can open the store.
 * Packages that are not installed yet may read another format than the store of an earlier setup.
 */
export function isStored({ store, hasBundle, ownStoreFormat, packages }: Survey): boolean {
  const format = packages?.canEncrypt ? packages.format : undefined;
  const isReadable = ownStoreFormat === undefined || ownStoreFormat === format;
  return store === "sqlcipher" && hasBundle && isReadable;
}

/**
 * Returns whether the timer's backups leave the hub running: the user wants it, or the installed
 * timer does so.
 */
export function keepsHubRunning({ installedCommand }: Survey, isWanted: boolean): boolean {
  return isWanted || isOnlineBackup(installedCommand);
}

/**
 * Returns the kind of the hub's database; for a hub on the encrypted store, the kind before setup.
 *
 * The record counts only for a hub on the encrypted store: after a setup the user may have
 * decrypted the store, or written a password into `server.json`.
 */
export function formerKind({
  record,
  database,
  isHandedOver,
}: Pick<Survey, "record" | "database" | "isHandedOver">): DatabaseSurvey["kind"] {
  const former = isHandedOver ? record?.database.kind : undefined;
  return former ?? database?.kind ?? "absent";
}

/** Returns whether systemd unseals the passphrase for the unit. For a container, `run` does it. */
export function isSealedUnit(
  { source }: { readonly source: PassphraseSource },
  { manager }: Pick<ServiceName, "manager">,
): boolean {
  return source.kind === "sealed" && manager === "systemd" && hubContainer() === undefined;
}
