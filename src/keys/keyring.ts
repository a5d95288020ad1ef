/**
 * The OS keyring, through keytar. One entry a slot: service `hivemind-sqlcipher`, account the store's resolved path,
 * followed for all but the current passphrase by `#` and the slot. So that its owner can read it with none of this
 * software: `secret-tool lookup service hivemind-sqlcipher account PATH`.
 */
import { createRequire } from "node:module";
import { answerTimeoutMs } from "../dbus/client.js";
import { StoreError } from "../errors.js";
import { accountsOf, type KeyringState, promptTimeoutMs, reachKeyring } from "./secret-service.js";

export const keyringService = "hivemind-sqlcipher";

/** What is kept for a store. `previous` and `derived` name the file they belong to by its key_id. */
export type Slot = "current" | "pending" | `previous:${string}` | `derived:${string}`;

export interface KeyringEntry {
  readonly slot: Slot;
  readonly secret: string;
}

type Keytar = typeof import("keytar");

/**
 * What to type where a machine has no desktop that unlocks the keyring at login. `--replace`, because a daemon that runs
 * already is left as it is, and locked, by `--unlock` alone.
 */
const unlockLine =
  'read -rsp "Keyring password: " P && printf %s "$P" | gnome-keyring-daemon --replace --unlock --components=secrets; unset P';
const withoutKeyring =
  "or do without a keyring: --passphrase-source credential (systemd), file:PATH or command:CMD";

/** Every slot but the current one, as it stands behind the `#`. */
const slotName = /^(?:pending|(?:previous|derived):[0-9a-f]+)$/;

/** What libsecret, which keeps to its first session as long as the process lives, says when that is gone. */
const daemonWasReplaced =
  /The name :\d+\.\d+ was not provided|session wrapping the secret does not exist/;

/** @throws StoreError `refused` for a store whose own name ends like a slot of another one's. */
function accountOf(storePath: string, slot: Slot): string {
  if (storePath.includes("#") && slotName.test(storePath.slice(storePath.lastIndexOf("#") + 1))) {
    throw new StoreError(
      "refused",
      `the keyring would take the passphrase of ${storePath} for another store's`,
      { hint: "give it a name without # in it" },
    );
  }
  return slot === "current" ? storePath : `${storePath}#${slot}`;
}

/**
 * The secret kept in a slot; nothing if there is none.
 *
 * @throws StoreError `passphraseUnavailable` if the keyring cannot be asked or stays locked.
 */
export async function getEntry(storePath: string, slot: Slot): Promise<string | undefined> {
  const account = accountOf(storePath, slot);
  const secret = await atKeyring((keytar) => keytar.getPassword(keyringService, account));
  return secret ?? undefined;
}

/**
 * The same for two slots of a keyring that is open already; nothing from one that is locked, which its owner is not asked
 * to unlock for this.
 *
 * @param second may be known only later; the keyring is asked for the first meanwhile.
 */
export async function getTwoEntries(
  storePath: string,
  first: Slot,
  second: Promise<Slot>,
): Promise<{ first?: string; second?: string }> {
  const read = async (keytar: Keytar) => {
    const one = await keytar.getPassword(keyringService, accountOf(storePath, first));
    const other = await keytar.getPassword(keyringService, accountOf(storePath, await second));
    return { ...(one !== null && { first: one }), ...(other !== null && { second: other }) };
  };
  return await atKeyring(read, { ifLocked: {} });
}

/**
 * Keeps a secret, and reads it back: it is there when this returns.
 *
 * @throws StoreError `passphraseUnavailable` if the keyring cannot be asked, stays locked, or answers wrong.
 */
export async function setEntry(storePath: string, slot: Slot, secret: string): Promise<void> {
  const account = accountOf(storePath, slot);
  await atKeyring((keytar) => keytar.setPassword(keyringService, account, secret));
  if ((await getEntry(storePath, slot)) !== secret) {
    throw unavailable("the keyring does not give back what it was just given", {
      hint: `look at it yourself: secret-tool lookup service ${keyringService} account '${account}'`,
    });
  }
}

/** Forgets a slot; false if there was nothing. @throws StoreError `passphraseUnavailable` as above. */
export async function deleteEntry(storePath: string, slot: Slot): Promise<boolean> {
  const account = accountOf(storePath, slot);
  const existed = (await getEntry(storePath, slot)) !== undefined;
  if (existed) await atKeyring((keytar) => keytar.deletePassword(keyringService, account));
  return existed;
}

/**
 * Every passphrase kept for this store. Derived keys are none.
 *
 * @throws StoreError `passphraseUnavailable` as above.
 */
export async function listEntries(storePath: string): Promise<KeyringEntry[]> {
  const entries: KeyringEntry[] = [];
  for (const slot of await slotsOf(storePath)) {
    const secret = isDerived(slot) ? undefined : await getEntry(storePath, slot);
    if (secret !== undefined) entries.push({ slot, secret });
  }
  return entries;
}

/**
 * Forgets every key that was derived for a file at this path (see derived-key.ts).
 *
 * @throws StoreError `passphraseUnavailable` as above.
 */
export async function deleteDerivedKeys(storePath: string): Promise<void> {
  for (const slot of await slotsOf(storePath)) {
    if (isDerived(slot)) await deleteEntry(storePath, slot);
  }
}

function isDerived(slot: Slot): boolean {
  return slot.startsWith("derived:");
}

async function slotsOf(storePath: string): Promise<Slot[]> {
  const accounts = await atKeyring(
    process.platform === "linux" ? () => accountsOf(keyringService) : accountsByKeytar,
  );
  return accounts.flatMap((account) => slotOf(storePath, account) ?? []);
}

async function accountsByKeytar(keytar: Keytar): Promise<string[]> {
  return (await keytar.findCredentials(keyringService)).map(({ account }) => account);
}

function slotOf(storePath: string, account: string): Slot | undefined {
  if (account === storePath) return "current";
  if (!account.startsWith(`${storePath}#`)) return undefined;
  const slot = account.slice(storePath.length + 1);
  return slotName.test(slot) ? (slot as Slot) : undefined;
}

/**
 * Lets keytar do one thing, once it is known that somebody answers and the keyring is open (see secret-service.ts).
 * macOS has no session bus; its keychain asks its owner by itself.
 *
 * @param options.ifLocked what to answer for a keyring that is locked, in place of having it unlocked.
 */
async function atKeyring<T>(
  operation: (keytar: Keytar) => Promise<T>,
  options: { readonly ifLocked?: T } = {},
): Promise<T> {
  const unlock = options.ifLocked === undefined;
  const reached: KeyringState =
    process.platform === "linux"
      ? await reachKeyring(process.env, { unlock })
      : { state: "no-collection" };
  if (reached.state === "locked" && options.ifLocked !== undefined) return options.ifLocked;
  const trouble = keyringTrouble(reached);
  if (trouble) throw trouble;
  const keytar = loadKeytar();
  const timeoutMs = reached.state === "ready" ? answerTimeoutMs : promptTimeoutMs;
  try {
    return await withinTime(operation(keytar), timeoutMs);
  } catch (error) {
    if (error instanceof StoreError) throw error;
    const detail = error instanceof Error ? error.message : String(error);
    if (reached.state === "no-collection" && process.platform === "linux") {
      throw unavailable(`there is no default keyring to keep a passphrase in (${detail})`, {
        hint: `log in at the desktop once, or on a server make one with a password of its own:\n${unlockLine}\n${withoutKeyring}`,
        cause: error,
      });
    }
    if (daemonWasReplaced.test(detail)) {
      throw unavailable(
        "the keyring's daemon was restarted while this process was speaking to it",
        {
          hint: "run this again; a new process finds the new one",
          cause: error,
        },
      );
    }
    throw unavailable(`the keyring refused: ${detail}`, { hint: withoutKeyring, cause: error });
  }
}

/** Why a keyring in this state cannot be used, and what to type; undefined if it can, or could be made to. */
export function keyringTrouble(reached: KeyringState): StoreError | undefined {
  switch (reached.state) {
    case "no-bus":
      return unavailable(`there is no session bus to reach the keyring by (${reached.detail})`, {
        hint: `as the store's owner, in a login of its own (ssh, or machinectl shell USER@), not in sudo or su;\nor where USER lingers (loginctl enable-linger USER): export XDG_RUNTIME_DIR=/run/user/$(id -u)\n${withoutKeyring}`,
      });
    case "no-service":
      return unavailable(`there is a session bus, but no keyring on it (${reached.detail})`, {
        hint: `apt-get install gnome-keyring, then: ${unlockLine}\n${withoutKeyring}`,
      });
    case "silent":
      return unavailable(`the keyring does not answer (${reached.detail})`, {
        hint: `on a server, start it: ${unlockLine}\nat a desktop, log out and in again; ${withoutKeyring}`,
      });
    case "locked":
      return unavailable("the keyring is locked, and was not unlocked", {
        hint: `at a desktop, run this again and type the keyring's password; on a server: ${unlockLine}\n${withoutKeyring}`,
      });
    default:
      return undefined;
  }
}

/** Loaded when first needed: without libsecret everything that needs no keyring still works. */
function loadKeytar(): Keytar {
  try {
    return createRequire(import.meta.url)("keytar");
  } catch (error) {
    throw unavailable("the keyring library keytar cannot be loaded", {
      hint: `apt-get install libsecret-1-0 (elsewhere: libsecret)\n${withoutKeyring}`,
      cause: error,
    });
  }
}

async function withinTime<T>(work: Promise<T>, timeoutMs: number): Promise<T> {
  let timer: NodeJS.Timeout | undefined;
  const tooLate = new Promise<never>((_resolve, reject) => {
    timer = setTimeout(() => {
      reject(unavailable(`the keyring did not answer within ${timeoutMs / 1000} seconds`));
    }, timeoutMs);
  });
  try {
    return await Promise.race([work, tooLate]);
  } finally {
    clearTimeout(timer);
  }
}

function unavailable(
  message: string,
  options: { hint?: string; cause?: unknown } = {},
): StoreError {
  return new StoreError("passphraseUnavailable", message, options);
}
