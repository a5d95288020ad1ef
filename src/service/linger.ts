/** Whether the user manager starts at boot, without a login. */
import { existsSync } from "node:fs";
import { userInfo } from "node:os";
import { join } from "node:path";

/**
 * Returns the command that makes the user manager start at boot. It contains the user's name,
 * because logind cannot determine the user outside of a session (sudo, a system unit).
 */
export function lingerCommand(): string {
  return `loginctl enable-linger ${userInfo().username}`;
}

/** Returns whether the user manager starts at boot, as set by `loginctl enable-linger`. */
export function isLingerEnabled(): boolean {
  return existsSync(join("/var/lib/systemd/linger", userInfo().username));
}
