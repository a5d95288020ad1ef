/**
 * Finds the processes with a store open.
 *
 * Two sources are needed. `/proc/PID/fd` also shows processes without a lock, but only to root and
 * to the same user. `/proc/locks` is readable by every user, and a connection to a store in WAL
 * mode always holds a lock.
 */
import { type BigIntStats, readdirSync, readFileSync, statSync } from "node:fs";
import { basename } from "node:path";
import { setTimeout as delay } from "node:timers/promises";
import { hasCode, systemError } from "../errors.js";
import { sidecars } from "../fs/sidecars.js";
import { listAllProcesses, readOpenFile, readProc, statOpenFile } from "./proc.js";

export interface Holder {
  readonly pid: number;
  /** The program's name. Its arguments may contain a secret, and are omitted. */
  readonly command: string;
}

export interface Holders {
  readonly holders: Holder[];
  /**
   * False if processes of other users could not be inspected, or if there is no /proc: further
   * processes may have the store open.
   */
  readonly isComplete: boolean;
}

/**
 * Returns the processes with the store or a sidecar of it open, except this process.
 *
 * Also counts a deleted file that is still open, if its former path is the store's. `/proc` is read
 * synchronously: a promise for each file takes several times longer, and the service is down during
 * this search.
 *
 * @throws {@link StoreError} io - if the store's files cannot be examined
 */
export async function findHolders(
  storePath: string,
  options: { except?: readonly number[] } = {},
): Promise<Holders> {
  const skip = new Set([process.pid, ...(options.except ?? [])]);
  const paths = ["", ...sidecars].map((suffix) => storePath + suffix);
  const inodes = readInodes(paths);
  const pids = new Set<number>();
  const running = listAllProcesses();
  let isComplete = running.length > 0;
  for (const pid of running) {
    if (skip.has(pid)) continue;
    const holds = hasAnyOpen(pid, new Set(paths), inodes);
    if (holds === undefined) isComplete = false;
    else if (holds) pids.add(pid);
  }
  for (const pid of parseLocks(readKernelLocks(), inodes)) if (!skip.has(pid)) pids.add(pid);
  return { holders: [...pids].map((pid) => ({ pid, command: readCommandName(pid) })), isComplete };
}

/**
 * 50 attempts, 100 ms apart. Commands that open the store only for milliseconds, or for seconds on
 * a busy machine, must not count.
 */
const lastingAttempts = 50;
const lastingPauseMs = 100;

/**
 * Returns the processes accepted by `isOther` that keep the store open for 5 s. Ignores processes
 * that open it during the wait.
 */
export async function findLastingHolders(
  storePath: string,
  isOther: (holder: Holder) => Promise<boolean> = async () => true,
): Promise<Holders> {
  const { holders, isComplete } = await findHolders(storePath);
  let lasting: Holder[] = [];
  for (const holder of holders) if (await isOther(holder)) lasting.push(holder);
  for (let attempt = 1; lasting.length > 0 && attempt < lastingAttempts; attempt++) {
    await delay(lastingPauseMs);
    const now = new Set((await findHolders(storePath)).holders.map(({ pid }) => pid));
    lasting = lasting.filter(({ pid }) => now.has(pid));
  }
  return { holders: lasting, isComplete };
}

function readInodes(paths: readonly string[]): Set<string> {
  const inodes = new Set<string>();
  for (const path of paths) {
    try {
      const stats = statSync(path, { bigint: true, throwIfNoEntry: false });
      if (stats) inodes.add(formatInode(stats));
    } catch (error) {
      throw systemError(error, `cannot access ${path}`);
    }
  }
  return inodes;
}

/** The devices of the system. A store may be in `/dev/shm`. */
const devices = /^\/dev\/(?!shm\/)/;

const deletedMark = / \(deleted\)$/;

/**
 * Returns whether the process has one of the files open. Returns undefined if this user may not
 * inspect the process.
 *
 * Compares inodes: the same file has another path through a hard link, a bind mount, or a
 * container's file system, where the store's path may be that of another file. Only a deleted file
 * is recognised by its path, because another file, or none, is at that path now.
 */
function hasAnyOpen(
  pid: number,
  paths: ReadonlySet<string>,
  inodes: ReadonlySet<string>,
): boolean | undefined {
  try {
    for (const fd of readdirSync(`/proc/${pid}/fd`)) {
      const target = readOpenFile(pid, fd);
      if (!target?.startsWith("/") || devices.test(target)) continue;
      if (deletedMark.test(target) && paths.has(target.replace(deletedMark, ""))) return true;
      const stats = statOpenFile(pid, fd);
      if (stats !== undefined && inodes.has(formatInode(stats))) return true;
    }
    return false;
  } catch (error) {
    return hasCode(error, "EACCES", "EPERM") ? undefined : false;
  }
}

function readKernelLocks(): string {
  try {
    return readFileSync("/proc/locks", "utf8");
  } catch {
    return ""; // hidden by a hardened system; /proc/PID/fd is still searched
  }
}

/**
 * Parses `/proc/locks` and returns the processes with a lock on any of the files. The kernel omits
 * processes outside of this PID namespace.
 */
export function parseLocks(locks: string, inodes: ReadonlySet<string>): number[] {
  // "1: POSIX  ADVISORY  READ  1234 08:01:5678 128 128". A blocked lock has "->" after the number.
  const line = /^\d+: (?:-> )?\w+ +\w+ +\w+ +(\d+) ([\da-f]+):([\da-f]+):(\d+) /gm;
  const pids: number[] = [];
  for (const [, pid, major = "", minor = "", inode] of locks.matchAll(line)) {
    if (inodes.has(`${Number.parseInt(major, 16)}:${Number.parseInt(minor, 16)}:${inode}`)) {
      pids.push(Number(pid));
    }
  }
  return pids;
}

/**
 * Returns a file's identity in the format of `/proc/locks`: major and minor device number, inode.
 */
function formatInode({ dev, ino }: BigIntStats): string {
  const major = ((dev >> 8n) & 0xfffn) | ((dev >> 32n) & 0xfffff000n);
  const minor = (dev & 0xffn) | ((dev >> 12n) & 0xffffff00n);
  return `${major}:${minor}:${ino}`;
}

/**
 * Returns the name of a process's program.
 *
 * Since Node.js 24, `comm` of a Node process is "MainThread", so the name is taken from the command
 * line. The arguments after the program are dropped, because they may be secret.
 */
function readCommandName(pid: number): string {
  const name = readProc(pid, "comm").trimEnd() || "unknown";
  if (!name.endsWith("MainThread")) return name;
  const [program = ""] = readProc(pid, "cmdline").split("\0", 1);
  return basename(program) || name;
}

/** Formats processes for a message: "1234 (python3), 1240 (sqlite3)". */
export function formatHolders(holders: readonly Holder[]): string {
  return holders.map(({ pid, command }) => `${pid} (${command})`).join(", ");
}
