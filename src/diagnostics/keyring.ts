/** Checks whether the passphrase is available now, and after a reboot without a login. */

import type { StoreError } from "../errors.js";
import { inspectKeyring } from "../keys/inspect.js";
import { formatSource, type PassphraseSource } from "../keys/source.js";
import { lingers } from "../service/schedule.js";
import { type Manager, show, systemctl, systemctlLine } from "../service/systemctl.js";
import { keyringUnit } from "../service/unit-file.js";
import { type Check, finding, good } from "./check.js";

export async function checkKeyring(storePath: string, source: PassphraseSource): Promise<Check[]> {
  if (source.kind !== "keyring") {
    const where = source.kind === "command" ? "a command" : formatSource(source);
    return [good("keyring", `not used: the passphrase comes from ${where}`)];
  }
  if (process.platform !== "linux") return [good("keyring", "the keychain of macOS")];
  const { provider, problem, unattended } = await inspectKeyring(storePath);
  if (problem !== undefined) {
    const fix = (await unlockByUnit(problem)) ?? problem.hint?.replaceAll("\n", " ") ?? "";
    return [finding("keyring", "error", problem.message, fix)];
  }
  const checks = [good("keyring", `${provider} responds and is unlocked`)];
  if (!unattended.isPossible) {
    const detail = `unattended backups cannot read the passphrase: ${unattended.reason}`;
    checks.push(finding("keyring", "warning", detail, unattended.fix));
  }
  return [...checks, await checkBoot()];
}

/** Checks whether the keyring is unlocked after a reboot. Without it, the hub cannot start. */
async function checkBoot(): Promise<Check> {
  const { XDG_CURRENT_DESKTOP, WAYLAND_DISPLAY, DISPLAY } = process.env;
  if (XDG_CURRENT_DESKTOP || WAYLAND_DISPLAY || DISPLAY) {
    return good("boot", "a login at the desktop unlocks the keyring; the hub waits for it");
  }
  const missing: string[] = [];
  const fixes: string[] = [];
  if (!lingers()) {
    missing.push("your systemd does not start at boot");
    fixes.push("loginctl enable-linger");
  }
  if (!(await isEnabled("systemd-user")) && !(await isEnabled("systemd"))) {
    missing.push("no unit unlocks the keyring");
    fixes.push(
      "install the unit that hivemind-sqlcipher run --print-unit keyring --user USER --credential-file FILE prints",
    );
  }
  if (missing.length === 0) return good("boot", `${keyringUnit} unlocks the keyring at boot`);
  return finding(
    "boot",
    "warning",
    `after a reboot without a login, ${missing.join(" and ")}`,
    fixes.join("; "),
  );
}

/**
 * Returns the command to unlock the keyring with this machine's unit, or undefined without such a
 * unit.
 */
async function unlockByUnit({ message }: StoreError): Promise<string | undefined> {
  if (!/locked/.test(message)) return undefined;
  for (const manager of ["systemd-user", "systemd"] as const) {
    const [unit] = await show(manager, ["LoadState"], [keyringUnit]).catch(() => []);
    if (unit?.LoadState === "loaded") return systemctlLine(manager, `restart ${keyringUnit}`);
  }
  return undefined;
}

async function isEnabled(manager: Manager): Promise<boolean> {
  const { stdout } = await systemctl(manager, ["is-enabled", keyringUnit]);
  return stdout.startsWith("enabled");
}
