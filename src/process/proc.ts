/** Finds processes, and reads their files and links in `/proc`. */
import { readdirSync, readFileSync, readlinkSync } from "node:fs";
import { hasCode } from "../errors.js";

/** Returns whether there is a process with this id. It may belong to another user. */
export function isAlive(pid: number): boolean {
  try {
    return process.kill(pid, 0);
  } catch (error) {
    return hasCode(error, "EPERM");
  }
}

/** Returns a file of a process; "" if the process has ended or belongs to another user. */
export function readProc(pid: number | "self", name: string): string {
  try {
    return readFileSync(`/proc/${pid}/${name}`, "utf8");
  } catch {
    return "";
  }
}

/** Returns the ids of all processes; none on a system without /proc. */
export function listAllProcesses(): number[] {
  try {
    return readdirSync("/proc").map(Number).filter(Number.isInteger);
  } catch {
    return [];
  }
}

/**
 * Returns the paths, sockets and pipes that a process has open; none if it has ended or belongs to
 * another user.
 */
export function listOpenFiles(pid: number): string[] {
  try {
    return readdirSync(`/proc/${pid}/fd`).flatMap((fd) => readOpenFile(pid, fd) ?? []);
  } catch {
    return [];
  }
}

/** Returns what a descriptor of a process is; undefined if it was closed since it was listed. */
export function readOpenFile(pid: number, fd: string): string | undefined {
  try {
    return readlinkSync(`/proc/${pid}/fd/${fd}`);
  } catch {
    return undefined;
  }
}
