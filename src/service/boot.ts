/** Determines whether a keyring is unlocked after a reboot without a login. */
import { lingers } from "./schedule.js";
import { type Manager, systemctl } from "./systemctl.js";
import { keyringUnit } from "./unit-file.js";

export interface UnattendedBoot {
  /** Whether a login at a desktop unlocks the keyring, and the hub waits for it. */
  readonly hasDesktop: boolean;
  /** Whether this user's manager starts at boot. */
  readonly lingers: boolean;
  /** Whether a unit is enabled that unlocks the keyring. */
  readonly hasKeyringUnit: boolean;
}

export async function inspectBoot(): Promise<UnattendedBoot> {
  const { XDG_CURRENT_DESKTOP, WAYLAND_DISPLAY, DISPLAY } = process.env;
  return {
    hasDesktop: Boolean(XDG_CURRENT_DESKTOP || WAYLAND_DISPLAY || DISPLAY),
    lingers: lingers(),
    hasKeyringUnit: (await isEnabled("systemd-user")) || (await isEnabled("systemd")),
  };
}

async function isEnabled(manager: Manager): Promise<boolean> {
  const { stdout } = await systemctl(manager, ["is-enabled", keyringUnit]);
  return stdout.startsWith("enabled");
}
