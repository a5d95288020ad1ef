import { hasCode } from "../errors.js";

/** Returns whether there is a process with this id. It may belong to another user. */
export function isAlive(pid: number): boolean {
  try {
    return process.kill(pid, 0);
  } catch (error) {
    return hasCode(error, "EPERM");
  }
}
