/** Determines whether a keyring is unlocked after a reboot without a login. */
import { userInfo } from "node:os";
import type { Environment } from "../config/paths.js";
import { shellQuote } from "../text/escape.js";
import { isLingerEnabled } from "./linger.js";
import { type Manager, redirectToFile, sudoPrefix, systemctl } from "./systemctl.js";
import { keyringUnit } from "./unit-file.js";

export interface UnattendedBoot {
  /**
   * Whether this session has a desktop: its login unlocks the keyring, and the hub waits for it.
   */
  readonly hasDesktop: boolean;
  /** Whether the user manager starts at boot. */
  readonly lingers: boolean;
  readonly hasKeyringUnit: boolean;
}

export async function inspectBoot(): Promise<UnattendedBoot> {
  return {
    hasDesktop: hasDesktop(process.env),
    lingers: isLingerEnabled(),
    hasKeyringUnit: (await isEnabled("systemd-user")) || (await isEnabled("systemd")),
  };
}

/** Returns whether the session is on a desktop of this machine. `ssh -X` displays on another. */
export function hasDesktop(environment: Environment): boolean {
  const { XDG_CURRENT_DESKTOP, WAYLAND_DISPLAY, DISPLAY = "", SSH_CONNECTION } = environment;
  if (SSH_CONNECTION) return false;
  return Boolean(XDG_CURRENT_DESKTOP || WAYLAND_DISPLAY) || /^(?:unix)?:/.test(DISPLAY);
}

async function isEnabled(manager: Manager): Promise<boolean> {
  const { stdout } = await systemctl(manager, ["is-enabled", keyringUnit]);
  return stdout.startsWith("enabled");
}

/** Where systemd looks for sealed credentials. Debian 12 does not create the directory. */
const sealedDirectory = "/etc/credstore.encrypted";

/**
 * Returns the commands to install the unit that unlocks the keyring at boot. It is a system unit,
 * because the user manager of systemd 252 cannot open a credential sealed to the machine.
 */
export function keyringUnitCommands(): string[] {
  const sudo = sudoPrefix();
  const sealed = `${sealedDirectory}/hivemind-keyring`;
  const print = `hivemind-sqlcipher run --print-unit keyring --user ${shellQuote(userInfo().username)} --credential-file ${sealed}`;
  return [
    `${sudo}mkdir -p -m 700 ${sealedDirectory}`,
    `systemd-ask-password -n "Password of the keyring:" | ${sudo}systemd-creds encrypt --name=hivemind-keyring - ${sealed}`,
    redirectToFile(print, `/etc/systemd/system/${keyringUnit}`, sudo),
    `${sudo}systemctl daemon-reload`,
    `${sudo}systemctl enable --now ${keyringUnit}`,
  ];
}
