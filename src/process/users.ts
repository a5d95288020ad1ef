/** Looks up users of the system. */
import { run } from "./run.js";

export interface User {
  readonly uid: number;
  readonly gid: number;
  readonly home: string;
}

/** A directory service on the network may take long. */
const lookUpLimitMs = 30_000;

/**
 * Returns a user; undefined if the user does not exist.
 *
 * @param user - the name or the number
 */
export async function findUser(user: string): Promise<User | undefined> {
  const { stdout } = await run("getent", ["passwd", "--", user], { timeoutMs: lookUpLimitMs });
  const [, , uid, gid, , home = ""] = stdout.split(":");
  const found = { uid: Number(uid), gid: Number(gid), home };
  // getent prints no line for an unknown name.
  return Number.isInteger(found.uid) ? found : undefined;
}
