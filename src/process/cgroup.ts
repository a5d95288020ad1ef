/** The processes of a control group, their arguments and their open stores. */
import { type BigIntStats, readdirSync, readFileSync, statSync } from "node:fs";
import { basename, dirname, join } from "node:path";
import { hasCode, systemError } from "../errors.js";
import { realPathIfExists } from "../fs/read.js";
import { listDescriptors, readOpenFile, readProc, statOpenFile } from "./proc.js";

/** systemd's hierarchy on a unified, a hybrid and a legacy system. */
const groupRoots = ["/sys/fs/cgroup", "/sys/fs/cgroup/unified", "/sys/fs/cgroup/systemd"];

/** Returns the processes of a control group and of the groups below it. */
export function listGroupProcesses(group: string): number[] {
  if (!group) return [];
  const pids = new Set<number>();
  const visit = (directory: string): void => {
    try {
      for (const pid of readFileSync(join(directory, "cgroup.procs"), "utf8").split("\n")) {
        if (pid) pids.add(Number(pid));
      }
      for (const entry of readdirSync(directory, { withFileTypes: true })) {
        if (entry.isDirectory()) visit(join(directory, entry.name));
      }
    } catch (error) {
      if (!hasCode(error, "ENOENT", "ENODEV", "EOPNOTSUPP")) throw error;
    }
  };
  for (const root of groupRoots) visit(root + group);
  return [...pids];
}

/** Returns the text of `/proc/PID/cgroup`, or "" if the process has ended. */
export function readGroups(pid: number): string {
  return readProc(pid, "cgroup");
}

/** Returns the arguments of a process; only "" if it has ended. They may be secret. */
export function argsOf(pid: number): string[] {
  return readProc(pid, "cmdline").split("\0");
}

/** Returns the paths in the text of `/proc/PID/cgroup`: lines of `ID:CONTROLLERS:PATH`. */
export function parseGroups(text: string): string[] {
  return [...text.matchAll(/^\d+:[^:\n]*:(.*)$/gm)].map(([, path = ""]) => path);
}

export function isInGroup(pid: number, group: string): boolean {
  if (!group) return false;
  return parseGroups(readGroups(pid)).some(
    (path) => path === group || path.startsWith(`${group}/`),
  );
}

/** An open store of a process. */
export interface OpenStore {
  /** Its path as the process sees it: for a process in a container, a path there. */
  readonly path: string;
  /** Whether it is another file than the store of this operation. */
  readonly isOther: boolean;
}

/**
 * Returns the open store of these processes, found by its base name. Prefers `storePath`,
 * recognised by its inode: in a container, the same file has another path.
 *
 * @throws {@link StoreError} io - if the store's files cannot be examined
 */
export function findOpenStore(pids: readonly number[], storePath: string): OpenStore | undefined {
  const own = statStore(storePath);
  const names = storeNames(storePath);
  const found = pids.flatMap((pid) =>
    listDescriptors(pid).flatMap((fd) => {
      const path = readOpenFile(pid, fd);
      if (path === undefined || !names.includes(basename(path))) return [];
      const stats = statOpenFile(pid, fd);
      return stats ? [{ path, isOther: stats.dev !== own?.dev || stats.ino !== own.ino }] : [];
    }),
  );
  return found.find(({ isOther }) => !isOther) ?? found[0];
}

function statStore(storePath: string): BigIntStats | undefined {
  try {
    return statSync(storePath, { bigint: true, throwIfNoEntry: false });
  } catch (error) {
    throw systemError(error, `cannot access ${storePath}`);
  }
}

/** Returns the usual names of a hub's store. */
function storeNames(storePath: string): string[] {
  return [basename(storePath), "clients.db"];
}

/**
 * Returns the path of the default store in a process's XDG_DATA_HOME, if it is not `storePath`.
 * Returns undefined if the variable is not set or cannot be read, if `storePath` is below the
 * directory, or if a symbolic link at a default path there leads to `storePath`.
 */
export function findOtherDefaultStore(
  pid: number | undefined,
  storePath: string,
): string | undefined {
  const dataHome = /(?:^|\0)XDG_DATA_HOME=([^\0]+)/.exec(readProc(pid ?? 0, "environ"))?.[1];
  if (!dataHome || `${realPathIfExists(storePath)}/`.startsWith(`${realPathIfExists(dataHome)}/`))
    return undefined;
  const directories = [basename(dirname(storePath)), "hivemind-core"];
  const names = storeNames(storePath);
  const paths = directories.flatMap((name) => names.map((file) => join(dataHome, name, file)));
  // Operators may move a store and put a symbolic link at its old path.
  if (paths.some((path) => realPathIfExists(path) === realPathIfExists(storePath)))
    return undefined;
  return join(dataHome, "hivemind-core", "clients.db");
}
