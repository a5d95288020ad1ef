/** Inspects the keyring without reading a secret and without a dialog. */
import type { Environment } from "../config/paths.js";
import type { StoreError } from "../errors.js";
import { type AutoLock, findAutoLock } from "./auto-lock.js";
import { keyringService } from "./keyring.js";
import { type KeyringProblem, keyringError, toKeyringError } from "./keyring-error.js";
import { type Provider, unknownProvider, unlocksItself } from "./provider.js";
import { collectionOf, isSessionCollection, SecretService } from "./secret-service.js";

export interface KeyringReport {
  /** The keyring's provider, for messages. */
  readonly provider: string;
  /**
   * Whether the keyring shows an entry of the store; undefined if the keyring did not reply. A
   * locked KeePassXC shows none.
   */
  readonly hasEntry: boolean | undefined;
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
  const hasEntry = items.unlocked.length + items.locked.length > 0;
  const problem = async (name: KeyringProblem, collection: string) => {
    const isOther = collection !== (await service.findDefaultCollection());
    const label = await service.readLabel(collection);
    const error = keyringError(name, { provider, collection: label, isOther });
    return {
      ...reportUnusable(error, provider, hasEntry),
      isLocked: name === "locked" && !isOther,
    };
  };
  if (items.unlocked.length > 0) return await reportUsable(provider, hasEntry);
  const [lockedItem] = items.locked;
  if (lockedItem !== undefined) {
    const collection = collectionOf(lockedItem);
    if (await service.isLocked(collection)) return await problem("locked", collection);
    return reportConfirmation(provider);
  }
  const collection = await service.findDefaultCollection();
  if (collection === undefined) {
    return reportUnusable(keyringError("no-collection", { provider }), provider, hasEntry);
  }
  if (isSessionCollection(collection)) return await problem("session-collection", collection);
  if (await service.isLocked(collection)) return await problem("locked", collection);
  return await reportUsable(provider, hasEntry);
}

async function reportUsable(provider: Provider, hasEntry: boolean): Promise<KeyringReport> {
  const autoLock = await findAutoLock(provider);
  const unattended: Unattended = autoLock
    ? describeAutoLock(provider, autoLock)
    : { isPossible: true, condition: describeCondition(provider) };
  return {
    ...{ provider: provider.name, hasEntry, problem: undefined, isLocked: false, unattended },
    unlocksItself: await unlocksItself(provider),
  };
}

function describeCondition({ kind, name }: Provider): string {
  return kind === "keepassxc" ? "while its database is open" : `while ${name} is unlocked`;
}

function describeAutoLock({ name }: Provider, { behaviour, fix }: AutoLock): Unattended {
  return {
    isPossible: false,
    reason: `${name} ${behaviour}`,
    fix: `${fix}, ${anotherSource}`,
  };
}

/**
 * Reports a locked entry in an unlocked collection: the provider asks its user before each process
 * reads the entry.
 */
function reportConfirmation({ kind, name }: Provider): KeyringReport {
  const setting =
    kind === "keepassxc"
      ? "In KeePassXC, turn off Tools > Settings > Secret Service Integration > Confirm when passwords are retrieved by clients"
      : `Turn off the confirmation of each access in ${name}`;
  return {
    ...{ provider: name, hasEntry: true, problem: undefined },
    ...{ isLocked: false, unlocksItself: false },
    unattended: {
      isPossible: false,
      reason: `${name} asks its user before each process reads a passphrase`,
      fix: `${setting}, ${anotherSource}`,
    },
  };
}

function reportUnusable(
  problem: StoreError,
  { name }: Provider,
  hasEntry: boolean | undefined = undefined,
): KeyringReport {
  return {
    ...{ provider: name, hasEntry, problem, isLocked: false, unlocksItself: false },
    unattended: { isPossible: false, reason: problem.message, fix: problem.hint ?? "" },
  };
}
