/** Checks whether the passphrase is available now, and after a reboot without a login. */

import { keyringTrouble } from "../keys/keyring.js";
import { reachKeyring } from "../keys/secret-service.js";
import { formatSource, type PassphraseSource } from "../keys/source.js";
import { lingers } from "../service/schedule.js";
import { type Manager, systemctl } from "../service/systemctl.js";
import { keyringUnit } from "../service/unit-file.js";
import { type Check, finding, good } from "./check.js";

export async function checkKeyring(source: PassphraseSource): Promise<Check[]> {
  if (source.kind !== "keyring") {
    const where = source.kind === "command" ? "a command" : formatSource(source);
    return [good("keyring", `not used: the passphrase comes from ${where}`)];
  }
  if (process.platform !== "linux") return [good("keyring", "the keychain of macOS")];
  const reached = await reachKeyring();
  if (reached.state !== "ready") {
    const { message, hint } = keyringTrouble(reached) ?? {
      message: "the keyring has no collection yet to keep a passphrase in",
      hint: "log in at the desktop once, or keep the passphrase elsewhere: --passphrase-source",
    };
    return [finding("keyring", "error", message, hint?.replaceAll("\n", " ") ?? "")];
  }
  return [good("keyring", "it responds and is unlocked"), await checkBoot()];
}

/** Checks whether the keyring is unlocked after a reboot, without which the hub cannot start. */
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

async function isEnabled(manager: Manager): Promise<boolean> {
  const { stdout } = await systemctl(manager, ["is-enabled", keyringUnit]);
  return stdout.startsWith("enabled");
}
