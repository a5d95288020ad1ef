/** Checks in advance whether a container can be stopped and started again, and uses the store. */
import { readFileSync } from "node:fs";
import { StoreError } from "../errors.js";
import { lstatIfExists } from "../fs/read.js";
import { findOpenStore } from "../process/cgroup.js";
import { findHolders } from "../process/holders.js";
import { shellQuote } from "../text/escape.js";
import {
  type Container,
  type ContainerName,
  isContainerActive,
  listContainerProcesses,
  mountsStore,
} from "./engine.js";
import { findUnitOfContainer } from "./find-container.js";
import { findOrigin } from "./origin.js";
import { serviceOptions } from "./systemctl.js";

/**
 * Checks a container for {@link Service.check}.
 *
 * @returns notices for the operator
 * @throws {@link StoreError} notFound or refused - as `Service.check` does
 */
export async function checkContainer(
  container: Container | undefined,
  { engine, name }: ContainerName,
  storePath: string,
): Promise<string[]> {
  if (container === undefined) {
    throw new StoreError("notFound", `${engine} has no container ${name}`, {
      hint: `Name another container with --unit (${engine} ps --all lists this user's), or run this as the user who created it.`,
    });
  }
  await assertWithoutUnit(container);
  assertRestartable(container);
  assertDirectoryMounted(container, storePath);
  if (isContainerActive(container)) await assertCopyExists(container);
  return [
    ...((await holdsStore(container, storePath)) ? [] : await checkStore(container, storePath)),
    ...(isContainerActive(container) ? checkStopSignal(container) : []),
  ];
}

function assertRestartable(container: Container): void {
  const { engine, name, swarmService } = container;
  if (swarmService !== undefined) {
    const scale = (count: number) => shellQuote(`docker service scale ${swarmService}=${count}`);
    throw new StoreError(
      "refused",
      `the container ${name} is a task of the swarm service ${swarmService}, which replaces it as soon as it stops`,
      { hint: `Use --stop-command ${scale(0)} --start-command ${scale(1)}.` },
    );
  }
  if (container.isRemovedOnStop) {
    throw new StoreError(
      "refused",
      `${engine} removes the container ${name} when it stops (--rm), so it could not be started again`,
      { hint: "Create the container without --rm, or let a systemd unit start it." },
    );
  }
  if (container.status === "paused") {
    throw new StoreError("refused", `the container ${name} is paused and cannot be stopped`, {
      hint: `Run ${engine} unpause ${name} first.`,
    });
  }
}

async function assertWithoutUnit(container: Container): Promise<void> {
  const unit = await findUnitOfContainer(container);
  if (unit === undefined) return;
  throw new StoreError(
    "refused",
    `the container ${container.name} belongs to the unit ${unit.name}, which would start it again`,
    { hint: `Use ${serviceOptions(unit)}.` },
  );
}

/**
 * Refuses a container that mounts only the store's file. SQLite keeps newer rows in sidecar files,
 * which would stay inside the container.
 */
function assertDirectoryMounted({ name, mounts }: Container, storePath: string): void {
  const mount = mounts.find(({ source }) => source === storePath);
  if (mount === undefined) return;
  throw new StoreError(
    "refused",
    `the container ${name} mounts only the file ${storePath}, so its write-ahead log stays inside the container`,
    { hint: `Mount the directory of the store instead of ${mount.destination}.` },
  );
}

/**
 * Refuses a running container if its mounted `server.json` no longer exists, such as a copy of
 * `run --prepare`, which is in memory. The container could not be started again.
 */
async function assertCopyExists({ name, mounts }: Container): Promise<void> {
  const copy = mounts.find(({ destination }) => destination.endsWith("/server.json"))?.source;
  if (copy === undefined || (await lstatIfExists(copy).catch(() => true))) return;
  throw new StoreError(
    "refused",
    `the container ${name} mounts ${copy}, which does not exist: it could not be started again`,
    {
      hint: `Write it again: hivemind-sqlcipher run --prepare ${shellQuote(copy)} --container ${name}`,
    },
  );
}

/** Returns whether a process in the container has the store open. */
async function holdsStore(container: Container, storePath: string): Promise<boolean> {
  const { holders } = await findHolders(storePath);
  return holders.some(({ pid }) => isInside(pid, container));
}

function isInside(pid: number, { engine, id }: Container): boolean {
  const origin = findOrigin(pid);
  return origin?.kind === engine && origin.id === id;
}

/**
 * Checks a container in which no process had the store open. Returns a notice if it runs. Throws
 * `refused` if it uses another store, or does not mount the store.
 */
async function checkStore(container: Container, storePath: string): Promise<string[]> {
  const { engine, name } = container;
  const open = findOpenStore(listContainerProcesses(container), storePath);
  // The hub may have opened the store since `checkContainer` searched for its holders.
  if (open?.isOther === false) return [];
  if (open !== undefined || !mountsStore(container, storePath)) {
    const fault =
      open === undefined
        ? `does not mount the directory of ${storePath}`
        : `uses another store, the file ${open.path} inside the container, not ${storePath}`;
    throw new StoreError("refused", `the container ${name} ${fault}`, {
      hint: `Name another container with --unit (${engine} ps --all lists them), or use --service none if nothing uses this store.`,
    });
  }
  if (!isContainerActive(container)) return [];
  return [`the container ${name} runs, but does not have ${storePath} open at the moment`];
}

/**
 * The kernel does not deliver a signal without a handler to process 1 of a PID namespace, so the
 * engine waits for its time limit and then kills the container.
 */
export function ignoresStopSignal({ hasOwnPidNamespace, pid, stopSignal }: Container): boolean {
  return hasOwnPidNamespace && !isSignalHandled(pid, stopSignal);
}

function checkStopSignal(container: Container): string[] {
  const { name, stopTimeoutMs } = container;
  if (!ignoresStopSignal(container)) return [];
  return [
    `the main process of the container ${name} ignores the signal to stop: stopping takes ${stopTimeoutMs / 1000} s and kills the hub; start the hub with exec in the container's script, or create the container with --init`,
  ];
}

/** Returns whether a process catches a signal, or blocks it to wait for it as init programs do. */
function isSignalHandled(pid: number, signal: number): boolean {
  try {
    const status = readFileSync(`/proc/${pid}/status`, "utf8");
    return [...status.matchAll(/^Sig(?:Cgt|Blk):\s*([\da-f]+)$/gm)].some(
      ([, mask = "0"]) => (BigInt(`0x${mask}`) >> BigInt(signal - 1)) & 1n,
    );
  } catch {
    return true; // the process has ended, or is not visible in this process's PID namespace
  }
}
