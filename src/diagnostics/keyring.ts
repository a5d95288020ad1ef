/** Whether the passphrase can be had: now, and after a reboot at which nobody logs in. */

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
  return [good("keyring", "it answers, and is unlocked"), await checkBoot()];
}

/** After a reboot the hub can only start by itself if somebody unlocks the keyring. */
async function checkBoot(): Promise<Check> {
  const { XDG_CURRENT_DESKTOP, WAYLAND_DISPLAY, DISPLAY } = process.env;
  if (XDG_CURRENT_DESKTOP || WAYLAND_DISPLAY || DISPLAY) {
    return good(
      "boot",
      "the keyring is unlocked by logging in at the desktop; the hub waits for it",
    );
  }
  const missing: string[] = [];
  const mends: string[] = [];
  if (!lingers()) {
    missing.push("your systemd does not start at boot");
    mends.push("loginctl enable-linger");
  }
  if (!(await isEnabled("systemd-user")) && !(await isEnabled("systemd"))) {
    missing.push("nothing unlocks the keyring");
    mends.push(
      "a unit that unlocks it: hivemind-sqlcipher run --print-unit keyring --user USER --credential-file FILE; or a system unit with a credential: run --print-unit system",
    );
  }
  if (missing.length === 0) return good("boot", `${keyringUnit} unlocks the keyring at boot`);
  return finding(
    "boot",
    "warning",
    `after a reboot at which nobody logs in, ${missing.join(" and ")}`,
    mends.join("; "),
  );
}

async function isEnabled(manager: Manager): Promise<boolean> {
  const { stdout } = await systemctl(manager, ["is-enabled", keyringUnit]);
  return stdout.startsWith("enabled");
}
