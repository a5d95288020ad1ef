/** What `/proc` and the control groups tell of a unit's processes: which they are, and which store they use. */
import { readdirSync, readFileSync, readlinkSync, realpathSync } from "node:fs";
import { basename, dirname, join } from "node:path";
import { hasCode } from "../errors.js";

/** Where systemd keeps its control groups: the unified hierarchy alone, or beside the old ones (hybrid), or the old. */
const groupRoots = ["/sys/fs/cgroup", "/sys/fs/cgroup/unified", "/sys/fs/cgroup/systemd"];

/** The processes in a control group and below it. */
export function listProcesses(group: string): number[] {
  if (!group) return [];
  const pids = new Set<number>();
  const visit = (folder: string): void => {
    try {
      for (const pid of readFileSync(join(folder, "cgroup.procs"), "utf8").split("\n")) {
        if (pid) pids.add(Number(pid));
      }
      for (const entry of readdirSync(folder, { withFileTypes: true })) {
        if (entry.isDirectory()) visit(join(folder, entry.name));
      }
    } catch (error) {
      if (!hasCode(error, "ENOENT", "ENODEV", "EOPNOTSUPP")) throw error;
    }
  };
  for (const root of groupRoots) visit(root + group);
  return [...pids];
}

export function isInGroup(pid: number, group: string): boolean {
  if (!group) return false;
  try {
    return readFileSync(`/proc/${pid}/cgroup`, "utf8")
      .split("\n")
      .map((line) => line.replace(/^\d+:[^:]*:/, ""))
      .some((path) => path === group || path.startsWith(`${group}/`));
  } catch {
    return false;
  }
}

/** A store of one of these names that one of the processes has open. */
export function openStore(pids: readonly number[], names: readonly string[]): string | undefined {
  for (const pid of pids) {
    try {
      for (const fd of readdirSync(`/proc/${pid}/fd`)) {
        const target = readlinkSync(`/proc/${pid}/fd/${fd}`);
        if (names.includes(basename(target))) return target;
      }
    } catch {
      // It ended or closed the file meanwhile, or is another user's: then the check of the user has spoken.
    }
  }
  return undefined;
}

/** The store that the process's own XDG_DATA_HOME leads to, if that is set and leads to another than this one. */
export function pointedAt(
  pid: number | undefined,
  storePath: string,
  names: readonly string[],
): string | undefined {
  let environment: string;
  try {
    environment = readFileSync(`/proc/${pid}/environ`, "utf8");
  } catch {
    return undefined;
  }
  const dataHome = /(?:^|\0)XDG_DATA_HOME=([^\0]+)/.exec(environment)?.[1];
  if (!dataHome || `${realPath(storePath)}/`.startsWith(`${realPath(dataHome)}/`)) return undefined;
  const folders = [basename(dirname(storePath)), "hivemind-core"];
  const places = folders.flatMap((folder) => names.map((name) => join(dataHome, folder, name)));
  // A link that leads here is how an operator moves a store.
  if (places.some((place) => realPath(place) === realPath(storePath))) return undefined;
  return join(dataHome, "hivemind-core", "clients.db");
}

function realPath(path: string): string {
  try {
    return realpathSync(path);
  } catch {
    return path;
  }
}
