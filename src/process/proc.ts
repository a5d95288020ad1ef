/** Finds processes, and reads their files and links in `/proc`. */
import { type BigIntStats, readdirSync, readFileSync, readlinkSync, statSync } from "node:fs";
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
  return listDescriptors(pid).flatMap((fd) => readOpenFile(pid, fd) ?? []);
}

/** Returns the descriptors of a process; none if it has ended or belongs to another user. */
export function listDescriptors(pid: number): string[] {
  try {
    return readdirSync(`/proc/${pid}/fd`);
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

/**
 * Returns the metadata of an open file; undefined if it was closed, or is on a file system that
 * does not respond, such as a stale NFS mount.
 */
export function statOpenFile(pid: number, fd: string): BigIntStats | undefined {
  try {
    return statSync(`/proc/${pid}/fd/${fd}`, { bigint: true, throwIfNoEntry: false });
  } catch {
    return undefined;
  }
}
