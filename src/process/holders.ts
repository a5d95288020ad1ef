/**
 * Who has a store open.
 *
 * On Linux `/proc` tells it in two ways, and both are needed. The open files of a process show a holder even if it has
 * no lock, but only to root or to the same user. The kernel's list of locks is open to everybody; a connection to a
 * store in WAL mode always has one.
 */
import { execFile } from "node:child_process";
import { type BigIntStats, readdirSync, readFileSync, readlinkSync, statSync } from "node:fs";
import { setTimeout as delay } from "node:timers/promises";
import { hasCode, StoreError, systemError } from "../errors.js";
import { sidecars } from "../fs/sidecars.js";

export interface Holder {
  readonly pid: number;
  /** The program's name, without its arguments: those may hold a secret of its own. */
  readonly command: string;
}

export interface Holders {
  readonly holders: Holder[];
  /** False if there are processes of other users that could not be looked into: one of them may hold the store. */
  readonly complete: boolean;
}

/** The store and what SQLite keeps beside it. */
const suffixes = ["", ...sidecars];

/**
 * The processes that have the store or one of its sidecars open, this process and those of `except` left out. A file
 * that was deleted under its holder counts too, while its path is the store's.
 *
 * Everything is read synchronously: that is several times faster than a promise a file, and this runs while the service is
 * stopped.
 */
export async function findHolders(
  storePath: string,
  options: { except?: readonly number[] } = {},
): Promise<Holders> {
  const skip = new Set([process.pid, ...(options.except ?? [])]);
  return process.platform === "darwin"
    ? holdersByLsof(storePath, skip)
    : findHoldersInProc(storePath, skip);
}

/** A command that looks up a client has the store open for a moment, on a busy machine for seconds: 50 looks, 100 ms apart. */
const looks = 50;
const pauseMs = 100;

/**
 * Those of `isOther` that have the store open and keep it: whoever lets go of it within 5 s was passing by, and who comes
 * meanwhile is not waited for.
 */
export async function findLastingHolders(
  storePath: string,
  isOther: (holder: Holder) => Promise<boolean> = async () => true,
): Promise<Holders> {
  const { holders, complete } = await findHolders(storePath);
  let lasting: Holder[] = [];
  for (const holder of holders) if (await isOther(holder)) lasting.push(holder);
  for (let looked = 1; lasting.length > 0 && looked < looks; looked++) {
    await delay(pauseMs);
    const now = new Set((await findHolders(storePath)).holders.map(({ pid }) => pid));
    lasting = lasting.filter(({ pid }) => now.has(pid));
  }
  return { holders: lasting, complete };
}

function findHoldersInProc(storePath: string, skip: ReadonlySet<number>): Holders {
  const paths = new Set(suffixes.map((suffix) => storePath + suffix));
  const inodes = new Set<string>();
  for (const path of paths) {
    try {
      const stats = statSync(path, { bigint: true, throwIfNoEntry: false });
      if (stats) inodes.add(inodeOf(stats));
    } catch (error) {
      throw systemError(error, `cannot look at ${path}`);
    }
  }
  const pids = new Set<number>();
  let complete = true;
  for (const entry of readdirSync("/proc")) {
    const pid = Number(entry);
    if (!Number.isInteger(pid) || skip.has(pid)) continue;
    const holds = holdsOneOf(pid, paths, inodes);
    if (holds === undefined) complete = false;
    else if (holds) pids.add(pid);
  }
  for (const pid of parseLocks(kernelLocks(), inodes)) if (!skip.has(pid)) pids.add(pid);
  return { holders: [...pids].map((pid) => ({ pid, command: commandName(pid) })), complete };
}

/** Whether the process has one of the files open; undefined if it may not be looked into. */
function holdsOneOf(
  pid: number,
  paths: ReadonlySet<string>,
  inodes: ReadonlySet<string>,
): boolean | undefined {
  const folder = `/proc/${pid}/fd`;
  try {
    for (const fd of readdirSync(folder)) {
      let target: string;
      try {
        target = readlinkSync(`${folder}/${fd}`);
      } catch {
        continue; // closed meanwhile
      }
      if (!target.startsWith("/") || target.startsWith("/dev/")) continue;
      if (paths.has(target.replace(/ \(deleted\)$/, ""))) return true;
      // The same file under another path: a hard link, a bind mount, a container's own view.
      const stats = statSync(`${folder}/${fd}`, { bigint: true, throwIfNoEntry: false });
      if (stats && inodes.has(inodeOf(stats))) return true;
    }
    return false;
  } catch (error) {
    return hasCode(error, "EACCES", "EPERM") ? undefined : false;
  }
}

function kernelLocks(): string {
  try {
    return readFileSync("/proc/locks", "utf8");
  } catch {
    return ""; // hidden by a hardened system; the open files remain
  }
}

/**
 * The processes with a lock on one of the files, in the text of `/proc/locks`. The kernel leaves out those that this PID
 * namespace cannot see.
 */
export function parseLocks(locks: string, inodes: ReadonlySet<string>): number[] {
  // "1: POSIX  ADVISORY  READ  1234 08:01:5678 128 128", a waiting one with "->" after the number.
  const line = /^\d+: (?:-> )?\w+ +\w+ +\w+ +(\d+) ([\da-f]+):([\da-f]+):(\d+) /gm;
  const pids: number[] = [];
  for (const [, pid, major, minor, inode] of locks.matchAll(line)) {
    if (
      inodes.has(`${Number.parseInt(major ?? "", 16)}:${Number.parseInt(minor ?? "", 16)}:${inode}`)
    )
      pids.push(Number(pid));
  }
  return pids;
}

/** A file's identity as `/proc/locks` writes it: device numbers as the kernel splits them, then the inode. */
function inodeOf({ dev, ino }: BigIntStats): string {
  const major = ((dev >> 8n) & 0xfffn) | ((dev >> 32n) & 0xfffff000n);
  const minor = (dev & 0xffn) | ((dev >> 12n) & 0xffffff00n);
  return `${major}:${minor}:${ino}`;
}

function commandName(pid: number): string {
  try {
    return readFileSync(`/proc/${pid}/comm`, "utf8").trimEnd();
  } catch {
    return "unknown";
  }
}

/** macOS: lsof, a part of the system. It leaves out other users' processes unless root asks. */
function holdersByLsof(storePath: string, skip: ReadonlySet<number>): Promise<Holders> {
  const files = suffixes
    .map((suffix) => storePath + suffix)
    .filter((path) => statSync(path, { throwIfNoEntry: false }));
  if (files.length === 0) return Promise.resolve({ holders: [], complete: true });
  return new Promise((resolve, reject) => {
    // -F pc: one field a line, "p1234" and "cpython3". Exit code 1 is "nobody".
    execFile("lsof", ["-w", "-F", "pc", "--", ...files], (error, output) => {
      if (error && error.code !== 1) {
        reject(
          new StoreError("io", `lsof could not tell who has ${storePath} open`, { cause: error }),
        );
        return;
      }
      const holders: Holder[] = [];
      for (const [, pid, command] of output.matchAll(/^p(\d+)\nc(.*)$/gm)) {
        if (!skip.has(Number(pid))) holders.push({ pid: Number(pid), command: command ?? "" });
      }
      resolve({ holders, complete: process.geteuid?.() === 0 });
    });
  });
}

/** Holders for a message: "1234 (python3), 1240 (sqlite3)". */
export function formatHolders(holders: readonly Holder[]): string {
  return holders.map(({ pid, command }) => `${pid} (${command})`).join(", ");
}
