/** Asks for confirmation of a restore, and checks later whether the answer still applies. */
import { revokedKeyWarning } from "../client/permissions.js";
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

/** The maximum number of clients in a list of the question or of the error. */
const namedClients = 20;
/** The maximum number of admins in the question. */
const namedAdmins = 10;

interface ConfirmOptions {
  /** The path of the present store, which names the account in the keyring, also with `to`. */
  readonly lock: Pick<OperationLock, "storePath">;
  readonly source: PassphraseSource;
  readonly bundle?: BackupToVerify["bundle"];
  readonly readmitRevoked?: boolean | undefined;
  readonly reporter: Reporter;
}

interface ConfirmedRestore {
  /** The path or URL of the store or database to write. */
  readonly location: string;
  readonly backup: VerifiedBackup;
  readonly present: Pick<PresentStore, "replaced" | "differences">;
  /** The hub's objection to the schema of the backup. */
  readonly objection?: string | undefined;
  /** Whether the restore writes the first revoked clients into a database of HiveMind 4. */
  readonly isFirstRevoked: boolean;
}

/**
 * Asks one question about all doubts about the restore, or none without a doubt. Reports clients
 * missing from the backup as a notice.
 *
 * @throws {@link StoreError} refused - if the user declines
 */
export async function confirmRestore(
  { lock, source, bundle, readmitRevoked, reporter }: ConfirmOptions,
  { location, backup, present, objection, isFirstRevoked }: ConfirmedRestore,
): Promise<void> {
  const { replaced, differences } = present;
  const isKnown = !bundle || (await isKept(source, lock.storePath, backup.passphrase));
  const doubts = [
    ...describeOrigin(backup, isKnown),
    ...(objection === undefined
      ? []
      : [`The backup has schema ${backup.schemaVersion}, and ${objection}.`]),
    ...(replaced.state === "unopenable"
      ? [
          `The clients of ${location} cannot be compared with the backup, so clients revoked there could be admitted again.`,
        ]
      : []),
    ...describeWidened(differences?.widened ?? []),
  ];
  if (readmitRevoked && differences && differences.readmitted.length > 0) {
    doubts.push(
      `These revoked clients would be admitted again: ${listFirst(differences.readmitted, namedClients)}.`,
    );
  }
  if (differences && differences.missing > 0) {
    reporter.notice(
      `the hub will no longer admit ${counted(differences.missing, "client")} missing from the backup`,
    );
  }
  if (doubts.length === 0) return;
  if (isFirstRevoked) doubts.push(`${revokedKeyWarning}.`);
  await reporter.confirm([...doubts, "Restore it?"].join("\n"));
}

/** @param isKnown - whether the passphrase is kept on this machine */
function describeOrigin(backup: VerifiedBackup, isKnown: boolean): string[] {
  const { path, doubt, clients, admins, createdAt } = backup;
  if (isKnown && doubt === undefined) return [];
  const origin = isKnown
    ? []
    : [`No passphrase on this machine confirms where ${path} comes from.`];
  // Each page is authenticated separately: only the manifest's checksum detects an older version of
  // a single page.
  const integrity =
    doubt === undefined
      ? []
      : [`No manifest confirms the contents of ${path} (${doubt}): some pages may be outdated.`];
  const names = admins.length === 0 ? "no admins" : `the admins ${listFirst(admins, namedAdmins)}`;
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

/** Joins at most `limit` items, and appends the number of the omitted items. */
function listFirst(items: readonly (string | number)[], limit: number): string {
  const more = items.length - limit;
  return items.slice(0, limit).join(", ") + (more > 0 ? ` and ${more} more` : "");
}

/**
 * Compares the differences with those found before the confirmation: since then, a running hub may
 * have changed clients, or another user of the backup's directory may have replaced the file.
 *
 * @throws {@link StoreError} refused - if a client would gain more than was known then
 */
export function assertConfirmed(
  found: Differences,
  confirmed: Differences | undefined,
  readmitRevoked: boolean,
): void {
  const known = new Set(confirmed?.widened.map((change) => JSON.stringify(change)));
  const admitted = readmitRevoked
    ? found.readmitted.filter((id) => !confirmed?.readmitted.includes(id))
    : [];
  const widened = found.widened.filter((change) => !known.has(JSON.stringify(change)));
  const ids = [...admitted, ...widened.map(({ clientId }) => clientId)];
  if (ids.length === 0) return;
  throw new StoreError(
    "refused",
    `clients changed during the restore, and these would gain access or permissions without a confirmation: ${listFirst(ids, namedClients)}`,
    { hint: "Nothing was changed. Run the restore again, which asks about these clients, too." },
  );
}
