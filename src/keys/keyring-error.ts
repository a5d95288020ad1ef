/** Errors of a keyring, with advice for its provider. */
import { BusError, BusTimeoutError, NoBusError } from "../dbus/client.js";
import { ProtocolError } from "../dbus/message.js";
import { messageOf, StoreError } from "../errors.js";
import { shellQuote } from "../text/escape.js";
import { KeytarMissingError, KeytarTimeoutError } from "./keytar.js";
import { type Provider, unknownProvider } from "./provider.js";
import { NoPromptError, PromptTimeoutError, ProviderEndedError } from "./secret-service.js";

/**
 * Unlocks gnome-keyring on a machine without a desktop. Needs `--replace`: `--unlock` leaves a
 * running daemon locked.
 */
const unlockLine =
  'read -rsp "Keyring password: " P && printf %s "$P" | gnome-keyring-daemon --replace --unlock --components=secrets; unset P';
/** Unlocks oo7 without a desktop. Names the program by its path: it is usually not on PATH. */
const oo7Line = ({ program = "oo7-daemon" }: Provider) =>
  `read -rsp "Keyring password: " P && printf %s "$P" | setsid --fork ${shellQuote(program)} --replace --login >/dev/null 2>&1; unset P`;
const otherSources =
  "Or use no keyring: --passphrase-source sealed (systemd-creds), credential (systemd), file:PATH or command:CMD.";

/** Matches the D-Bus errors for a bus on which no program serves the Secret Service. */
const noProviderErrors =
  /^org\.freedesktop\.DBus\.Error\.(?:ServiceUnknown|NameHasNoOwner|Spawn\..*)$/;
/**
 * Matches errors of a session that does not exist any more, or was refused. libsecret keeps its
 * first session, which ends with the provider's process. KWallet refuses one session in 128:
 * libsecret omits a zero at the beginning of its public key, and the key is then too short.
 */
const brokenSession =
  /The name :\d+\.\d+ was not provided|session wrapping the secret does not exist|public key size is invalid/;

export type KeyringProblem =
  | "no-bus"
  | "foreign-bus"
  | "no-provider"
  | "silent"
  | "locked"
  | "no-prompt"
  | "no-collection"
  | "session-collection"
  | "no-secret"
  | "not-kept"
  | "no-keytar"
  | "refused";

export interface ProblemDetails {
  readonly provider?: Provider;
  /** The system's or the provider's message. */
  readonly detail?: string;
  /** The label of the locked collection. */
  readonly collection?: string;
  /**
   * Whether the locked collection is another than the default collection, which a login unlocks.
   */
  readonly isOther?: boolean;
  readonly cause?: unknown;
}

const lockedProviders = new WeakMap<StoreError, Provider>();

/** Returns the error for a problem, with advice for the provider. */
export function keyringError(problem: KeyringProblem, details: ProblemDetails = {}): StoreError {
  const { message, hint } = describeProblem(problem, details);
  const error = new StoreError("passphraseUnavailable", message, { hint, cause: details.cause });
  const isLocked = problem === "locked" || problem === "no-prompt";
  if (isLocked && !details.isOther) lockedProviders.set(error, details.provider ?? unknownProvider);
  return error;
}

/** Returns the provider if its locked default collection caused the error; otherwise undefined. */
export function findLockedProvider(error: unknown): Provider | undefined {
  if (!(error instanceof StoreError)) return undefined;
  return lockedProviders.get(error) ?? findLockedProvider(error.cause);
}

/** Converts an error of the bus, the Secret Service or keytar. Returns a `StoreError` unchanged. */
export function toKeyringError(error: unknown, provider: Provider): StoreError {
  if (error instanceof StoreError) return error;
  return keyringError(classifyError(error), { provider, detail: messageOf(error), cause: error });
}

/**
 * Returns whether keytar has lost its session with the provider, or got none. Only a new process
 * gets a new session.
 */
export function isBrokenSession(error: unknown): boolean {
  return error instanceof Error && brokenSession.test(error.message);
}

function classifyError(error: unknown): KeyringProblem {
  if (error instanceof NoBusError) return error.isForeign ? "foreign-bus" : "no-bus";
  if (error instanceof NoPromptError) return "no-prompt";
  if (error instanceof BusError && noProviderErrors.test(error.errorName)) return "no-provider";
  if (error instanceof BusError || error instanceof ProtocolError) return "refused";
  if (error instanceof KeytarMissingError) return "no-keytar";
  if (error instanceof PromptTimeoutError) return "locked";
  const isSilent =
    error instanceof BusTimeoutError ||
    error instanceof KeytarTimeoutError ||
    error instanceof ProviderEndedError;
  return isSilent ? "silent" : "refused";
}

function describeProblem(
  problem: KeyringProblem,
  { provider = unknownProvider, detail = "", collection, isOther = false }: ProblemDetails,
): { message: string; hint: string } {
  const { name } = provider;
  switch (problem) {
    case "no-bus":
      return {
        message: `no session bus to reach the keyring (${detail})`,
        hint: `Run this as the store's owner in a login of its own (ssh, or machinectl shell USER@), not in sudo or su.\nIf the owner lingers (loginctl enable-linger USER), set: export XDG_RUNTIME_DIR=/run/user/$(id -u)\n${otherSources}`,
      };
    case "foreign-bus":
      return {
        message: `the session bus belongs to another user (${detail})`,
        hint: `Run this as that user, or unset DBUS_SESSION_BUS_ADDRESS and XDG_RUNTIME_DIR and use another source.\n${otherSources}`,
      };
    case "no-provider":
      return {
        message: `no keyring on the session bus (${detail})`,
        hint: `Install a keyring (apt-get install gnome-keyring), then start it:\n${unlockLine}\n${otherSources}`,
      };
    case "silent":
      return {
        message: `${name} does not respond (${detail})`,
        hint: `${silentAdvice(provider)}\n${otherSources}`,
      };
    case "locked":
      return {
        message:
          collection === undefined
            ? `${name} is locked and was not unlocked`
            : `the collection "${collection}" of ${name} is locked and was not unlocked`,
        hint: `${lockedAdvice(provider, isOther)}\n${otherSources}`,
      };
    case "no-prompt":
      return {
        message: `${name} is locked and cannot ask for its password here (${detail})`,
        hint: `${lockedAdvice(provider)}\n${otherSources}`,
      };
    case "no-collection":
      return {
        message: `${name} has no default collection to store a passphrase in`,
        hint: `${collectionAdvice(provider)}\n${otherSources}`,
      };
    case "session-collection":
      return {
        message: `the default collection of ${name} is "session", which is deleted at logout`,
        hint: `${collectionAdvice(provider)}\n${otherSources}`,
      };
    case "no-secret":
      return {
        message: `${name} lists ${detail} but returns no secret for it`,
        hint: `Run this again. If it fails again, restart ${name}, or take the passphrase from the bundle: hivemind-sqlcipher bundle import FILE --identity FILE`,
      };
    case "not-kept":
      return {
        message: `${name} does not return the secret that was just stored as ${detail}`,
        hint: `Run this again. If it fails again, restart ${name}.\n${otherSources}`,
      };
    case "no-keytar":
      return {
        message: "the keyring library keytar cannot be loaded",
        hint: `Install libsecret (apt-get install libsecret-1-0).\n${otherSources}`,
      };
    case "refused":
      return {
        message: `${name} refused: ${detail}`,
        hint: `${refusedAdvice(provider)}${otherSources}`,
      };
  }
}

function silentAdvice({ kind, name }: Provider): string {
  switch (kind) {
    case "gnome-keyring":
      return `On a server, start it:\n${unlockLine}\nAt a desktop, log out and in again.`;
    case "keepassxc":
      return "Answer or close the dialogs of KeePassXC, then run this again.";
    case "kwallet":
      return "Answer or close the dialogs of KWallet, or log out and in again.";
    default:
      return `Restart ${name}, or log out and in again.`;
  }
}

function lockedAdvice(provider: Provider, isOther = false): string {
  const { kind, name } = provider;
  switch (kind) {
    case "gnome-keyring":
      if (isOther) return "At a desktop, run this again and type the collection's password.";
      return `At a desktop, run this again and type the keyring's password; on a server:\n${unlockLine}`;
    case "keepassxc":
      return "Unlock the database in KeePassXC, run this again, and allow the access in its dialog.";
    case "kwallet":
      return "Run this again at the desktop and type the wallet's password. Without a desktop, only a login through PAM opens it (kwallet-pam).";
    case "oo7":
      return `Run this again in a graphical session and type the keyring's password, or on a server:\n${oo7Line(provider)}`;
    default:
      return `Unlock ${name}, then run this again.`;
  }
}

function collectionAdvice({ kind, name }: Provider): string {
  switch (kind) {
    case "gnome-keyring":
      return `Log in at the desktop once, or on a server create a keyring with a password of its own:\n${unlockLine}`;
    case "keepassxc":
      return "Open a database in KeePassXC and expose a group of it: Database > Database Settings > Secret Service Integration.";
    case "kwallet":
      return "Create a wallet in KWalletManager and make it the default.";
    default:
      return `Create a collection in ${name} and make it the default.`;
  }
}

function refusedAdvice({ kind }: Provider): string {
  return kind === "keepassxc" ? "Allow the access in KeePassXC's dialog.\n" : "";
}
