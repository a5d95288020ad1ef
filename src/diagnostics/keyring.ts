/** Checks whether the passphrase is available now, and after a reboot without a login. */
import { type StoreError, wrap } from "../errors.js";
import { inspectKeyring, type KeyringReport, type Unattended } from "../keys/inspect.js";
import { findLockedProvider } from "../keys/keyring-error.js";
import { unknownProvider } from "../keys/provider.js";
import { formatSource, type PassphraseSource } from "../keys/source.js";
import { inspectBoot, keyringUnitCommands } from "../service/boot.js";
import { lingerCommand } from "../service/linger.js";
import { managers, show, sudoPrefix, systemctlLine } from "../service/systemctl.js";
import { keyringUnit } from "../service/unit-file.js";
import { type Check, checksNamed } from "./check.js";

const { good, warning, error } = checksNamed("keyring");
const boot = checksNamed("boot");

/** Providers that the unit of `run --print-unit keyring` unlocks, or can unlock if unknown. */
const unlockedByUnit = ["gnome-keyring", unknownProvider.name];

/** Checks whether the keyring is unlocked now, for unattended backups, and after a reboot. */
export async function checkKeyring(storePath: string, source: PassphraseSource): Promise<Check[]> {
  if (source.kind !== "keyring") {
    const where = source.kind === "command" ? "a command" : formatSource(source);
    return [good(`not used: the passphrase comes from ${where}`)];
  }
  const report = await inspectKeyring(storePath);
  const { provider, problem, isLocked, unattended } = report;
  if (problem !== undefined) {
    const fix = (isLocked ? await findUnlockCommand(provider) : undefined) ?? problem.hint ?? "";
    return [error(problem.message, fix)];
  }
  return [...describeAccess(provider, unattended), await checkBoot(report)];
}

function describeAccess(provider: string, unattended: Unattended): Check[] {
  const state = `${provider} responds and is unlocked`;
  if (unattended.isPossible) {
    return [good(`${state}; unattended backups work ${unattended.condition}`)];
  }
  const detail = `unattended backups cannot read the passphrase: ${unattended.reason}`;
  return [good(state), warning(detail, unattended.fix)];
}

/** Checks whether the keyring is unlocked after a reboot. Until then, the hub cannot start. */
async function checkBoot({ provider, unlocksItself }: KeyringReport): Promise<Check> {
  const { hasDesktop, lingers, hasKeyringUnit } = await inspectBoot();
  if (hasDesktop) {
    return boot.good("a login at the desktop unlocks the keyring; the hub waits for it");
  }
  if (!unlocksItself && !unlockedByUnit.includes(provider)) {
    return boot.warning(
      `after a reboot, ${provider} stays locked until its user unlocks it`,
      "Use a source that needs no login: --passphrase-source credential, file:PATH or command:CMD",
    );
  }
  const missing: string[] = [];
  const fixes: string[] = [];
  if (!lingers) {
    missing.push("your systemd does not start at boot");
    fixes.push(lingerCommand());
  }
  if (!unlocksItself && !hasKeyringUnit) {
    missing.push("no unit unlocks the keyring");
    fixes.push(...keyringUnitCommands());
  }
  if (missing.length === 0) {
    const how = unlocksItself ? `${provider} with a credential` : keyringUnit;
    return boot.good(`${how} unlocks the keyring at boot`);
  }
  return boot.warning(
    `after a reboot without a login, ${missing.join(" and ")}`,
    fixes.join(" && "),
  );
}

/**
 * Adds the command that unlocks the keyring to the hint of an error about a locked keyring, if this
 * machine has the unit for it.
 */
export async function withUnlockCommand(failure: StoreError): Promise<StoreError> {
  const provider = findLockedProvider(failure);
  const command = provider && (await findUnlockCommand(provider.name));
  if (command === undefined) return failure;
  const line = `This machine has a unit that unlocks it: ${command}`;
  return wrap(failure, { hint: failure.hint === undefined ? line : `${line}\n${failure.hint}` });
}

/**
 * Returns the command to unlock the keyring with this machine's unit, or undefined without such a
 * unit.
 */
async function findUnlockCommand(provider: string): Promise<string | undefined> {
  if (!unlockedByUnit.includes(provider)) return undefined;
  for (const manager of managers) {
    const [unit] = await show(manager, ["LoadState"], [keyringUnit]).catch(() => []);
    if (unit?.LoadState !== "loaded") continue;
    const line = systemctlLine(manager, `restart ${keyringUnit}`);
    return manager === "systemd" ? sudoPrefix() + line : line;
  }
  return undefined;
}
