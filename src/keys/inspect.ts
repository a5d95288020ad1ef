/** Inspects the keyring without reading a secret and without a dialog. */
import type { Environment } from "../config/paths.js";
import type { StoreError } from "../errors.js";
import { findAutoLock } from "./auto-lock.js";
import { keyringService } from "./keyring.js";
import { keyringError, toKeyringError } from "./keyring-error.js";
import { type Provider, unknownProvider, unlocksItself } from "./provider.js";
import { collectionOf, isSessionCollection, SecretService } from "./secret-service.js";

export interface KeyringReport {
  /** The keyring's provider, for messages. */
  readonly provider: string;
  /** Why the passphrase cannot be read now, with advice. */
  readonly problem: StoreError | undefined;
  /** Whether the problem is that the default collection is locked. */
  readonly isLocked: boolean;
  /** Whether the keyring is unlocked after a reboot without its user. */
  readonly unlocksItself: boolean;
  /** Whether a timer's backup can read the passphrase with this provider and its settings. */
  readonly unattended: Unattended;
}

export type Unattended =
  | { readonly isPossible: true; readonly condition: string }
  | { readonly isPossible: false; readonly reason: string; readonly fix: string };

const anotherSource =
  "or use another source: --passphrase-source credential, file:PATH or command:CMD";

/** Returns the state of the keyring for a store. Reports an unusable keyring without throwing. */
export async function inspectKeyring(
  storePath: string,
  environment: Environment = process.env,
): Promise<KeyringReport> {
  let service: SecretService;
  try {
    service = await SecretService.connect(environment);
  } catch (error) {
    return reportUnusable(toKeyringError(error, unknownProvider), unknownProvider);
  }
  await using connection = service;
  try {
    return await inspect(connection, storePath);
  } catch (error) {
    const provider = await connection.findProvider();
    return reportUnusable(toKeyringError(error, provider), provider);
  }
}

async function inspect(service: SecretService, storePath: string): Promise<KeyringReport> {
  const items = await service.search({ service: keyringService, account: storePath });
  const provider = await service.findProvider();
  if (items.unlocked.length > 0) return await reportUsable(provider);
  const [lockedItem] = items.locked;
  const defaultCollection = await service.findDefaultCollection();
  const collection = lockedItem === undefined ? defaultCollection : collectionOf(lockedItem);
  if (collection === undefined) {
    return reportUnusable(keyringError("no-collection", { provider }), provider);
  }
  const isLocked = await service.isLocked(collection);
  if (!isLocked && lockedItem !== undefined) return reportConfirmation(provider);
  const isLost = lockedItem === undefined && isSessionCollection(collection);
  if (!isLocked && !isLost) return await reportUsable(provider);
  const isOther = collection !== defaultCollection;
  const problem = keyringError(isLost ? "session-collection" : "locked", {
    provider,
    collection: await service.readLabel(collection),
    isOther,
  });
  const report = reportUnusable(problem, provider);
  return { ...report, isLocked: !isLost && !isOther };
}

async function reportUsable(provider: Provider): Promise<KeyringReport> {
  const { kind, name } = provider;
  const autoLock = await findAutoLock(provider);
  const condition =
    kind === "keepassxc" ? "while its database is open" : `while ${name} is unlocked`;
  return report(provider, {
    unlocksItself: unlocksItself(provider),
    unattended: autoLock
      ? impossible(`${name} ${autoLock.behaviour}`, autoLock.fix)
      : { isPossible: true, condition },
  });
}

/**
 * Reports a locked entry in an unlocked collection: the provider asks its user before each process
 * reads the entry.
 */
function reportConfirmation(provider: Provider): KeyringReport {
  const { kind, name } = provider;
  const setting =
    kind === "keepassxc"
      ? "In KeePassXC, turn off Tools > Settings > Secret Service Integration > Confirm when passwords are retrieved by clients"
      : `Turn off the confirmation of each access in ${name}`;
  const reason = `${name} asks its user before each process reads a passphrase`;
  return report(provider, { unattended: impossible(reason, setting) });
}

function reportUnusable(problem: StoreError, provider: Provider): KeyringReport {
  const { message: reason, hint: fix = "" } = problem;
  return report(provider, { problem, unattended: { isPossible: false, reason, fix } });
}

function impossible(reason: string, fix: string): Unattended {
  return { isPossible: false, reason, fix: `${fix}, ${anotherSource}` };
}

/** Returns a report about a provider without a problem that does not unlock itself. */
function report(
  { name }: Provider,
  found: Pick<KeyringReport, "unattended"> & Partial<KeyringReport>,
): KeyringReport {
  return { provider: name, problem: undefined, isLocked: false, unlocksItself: false, ...found };
}
