/** Asks for confirmation of a restore, and checks later whether the answer still applies. */
import { StoreError } from "../errors.js";
import { isKept, type PassphraseSource } from "../keys/source.js";
import type { OperationLock } from "../operation/lock.js";
import type { Reporter } from "../reporter.js";
import { keyIdOf } from "../store/cipher.js";
import { counted } from "../text/count.js";
import { describeClient, escapeControlCharacters } from "../text/escape.js";
import type { Differences, Widened } from "./differences.js";
import type { PresentStore } from "./present-store.js";
import type { BackupToVerify, VerifiedBackup } from "./verified-backup.js";

/** The maximum number of clients in the question. */
const namedClients = 20;
/** The maximum number of admins in the question. */
const namedAdmins = 10;

interface ConfirmOptions {
  /** The lock of the store, which has the passphrase in the keyring. */
  readonly lock: Pick<OperationLock, "storePath">;
  readonly source: PassphraseSource;
  readonly bundle?: BackupToVerify["bundle"];
  readonly readmitRevoked?: boolean | undefined;
  readonly reporter: Reporter;
}

/**
 * Asks a single question about all objections to the restore.
 *
 * @param location - the path or URL that is restored to
 */
export async function confirmRestore(
  { lock, source, bundle, readmitRevoked, reporter }: ConfirmOptions,
  location: string,
  backup: VerifiedBackup,
  { replaced, differences }: PresentStore,
  objection: string | undefined,
): Promise<void> {
  const isKnown = !bundle || (await isKept(source, lock.storePath, backup.passphrase));
  const doubts = [
    ...describeOrigin(backup, isKnown),
    ...(objection === undefined
      ? []
      : [`The backup has schema ${backup.schemaVersion}, and ${objection}.`]),
    ...(replaced.state === "unopenable"
      ? [
          `No kept passphrase opens ${location}, so clients that were revoked there could be admitted again.`,
        ]
      : []),
    ...describeWidened(differences?.widened ?? []),
  ];
  if (readmitRevoked && differences && differences.revoked.length > 0) {
    doubts.push(
      `These revoked clients would be admitted again: ${differences.revoked.join(", ")}.`,
    );
  }
  if (differences && differences.missing > 0) {
    reporter.notice(
      `${counted(differences.missing, "client")} of the present store not in the backup will not be admitted`,
    );
  }
  if (doubts.length > 0) await reporter.confirm([...doubts, "Restore it?"].join("\n"));
}

/** @param isKnown - whether the passphrase is kept on this machine */
function describeOrigin(backup: VerifiedBackup, isKnown: boolean): string[] {
  const { path, doubt, clients, admins, createdAt } = backup;
  if (isKnown && doubt === undefined) return [];
  const origin = isKnown
    ? []
    : [`No passphrase on this machine confirms where ${path} comes from.`];
  // Each page is authenticated separately: an older version of a single page is not detected.
  const integrity =
    doubt === undefined
      ? []
      : [`No manifest confirms the contents of ${path} (${doubt}): some pages may be outdated.`];
  const more = admins.length > namedAdmins ? ` and ${admins.length - namedAdmins} more` : "";
  const names =
    admins.length === 0
      ? "no admins"
      : `the admins ${admins.slice(0, namedAdmins).join(", ")}${more}`;
  return [
    ...origin,
    ...integrity,
    `It was made ${createdAt === null ? "at an unknown time" : `at ${createdAt}`}, and has key_id ${keyIdOf(backup.key.salt)}, ${counted(clients.active, "active client")} and ${clients.revoked} revoked, and ${names}.`,
  ];
}

function describeWidened(widened: readonly Widened[]): string[] {
  if (widened.length === 0) return [];
  const more = widened.length - namedClients;
  return [
    `${widened.length === 1 ? "One client" : `${widened.length} clients`} could do more than now:`,
    ...widened
      .slice(0, namedClients)
      .map(
        ({ clientId: id, name, what }) =>
          `  ${describeClient(id, name)} ${escapeControlCharacters(what.join("; "))}`,
      ),
    ...(more > 0 ? [`  and ${more} more`] : []),
  ];
}

/**
 * Compares the differences with the confirmed differences. The hub was running when the user
 * confirmed them, and another user may be able to replace the backup.
 *
 * @throws {@link StoreError} refused - if more clients or permissions would be admitted
 */
export function assertConfirmed(
  found: Differences,
  confirmed: Differences | undefined,
  readmitRevoked: boolean,
): void {
  const known = new Set(confirmed?.widened.map((change) => JSON.stringify(change)));
  const admitted = readmitRevoked
    ? found.revoked.filter((id) => !confirmed?.revoked.includes(id))
    : [];
  const widened = found.widened.filter((change) => !known.has(JSON.stringify(change)));
  const ids = [...admitted, ...widened.map(({ clientId }) => clientId)];
  if (ids.length === 0) return;
  throw new StoreError(
    "refused",
    `the store has changed since the question, which did not cover these clients: ${ids.slice(0, namedClients).join(", ")}`,
    { hint: "Run the restore again, and read the question again. Nothing was changed." },
  );
}
