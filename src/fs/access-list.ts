/** Access control lists: who is let in besides those that a file's mode names. */
import { execFile } from "node:child_process";
import type { BigIntStats, Stats } from "node:fs";

/**
 * Whether a file has an access control list that lets anybody in. Of such a file the mode's bits for the group are not
 * the group's: they are the most that the list grants, so that another file of that mode, and without the list, would let
 * the group in.
 *
 * Nothing in Node tells of lists; `ls` does, by a `+` behind the mode, where it knows of them.
 */
export async function hasAccessList(path: string, { mode }: Stats | BigIntStats): Promise<boolean> {
  // Without these bits it grants nothing.
  if ((Number(mode) & 0o070) === 0) return false;
  return new Promise((resolve) => {
    execFile("ls", ["-ld", "--", path], (error, listed) =>
      resolve(error === null && /^\S{10}\+/.test(listed)),
    );
  });
}
