/** Finds what keeps setup from adding an override to a compose file. */
import { existsSync } from "node:fs";
import { userInfo } from "node:os";
import { dirname } from "node:path";
import type { ComposeService } from "../config/hub-account.js";
import { copyOutLine, findLosableIdentity, readContainerHub } from "../hub/container-hub.js";
import { readProc } from "../process/proc.js";
import { run } from "../process/run.js";
import { findComposeProgram, findOverride, podmanSocket } from "../service/compose.js";
import { assertTrusted } from "../service/compose-trust.js";
import { type Container, engineLine, isRootlessDocker, listDependents } from "../service/engine.js";
import { findHubProcess } from "../service/find-container.js";
import { isLingerEnabled, lingerCommand } from "../service/linger.js";
import {
  formatFailure,
  ownManager,
  queryLimitMs,
  scopeOf,
  systemctlLine,
} from "../service/systemctl.js";
import { isWritable } from "./files.js";

/**
 * Returns what is in the way of the override, and of creating the container again.
 *
 * @throws {@link StoreError} refused - if root must not use the project
 */
export async function findComposeProblem(
  container: Container,
  compose: ComposeService,
): Promise<string | undefined> {
  const { directory } = compose;
  const override = findOverride(compose);
  if (override !== undefined) return `${override} exists already`;
  if ((await readContainerHub(container)).copy) return "it mounts a copy of server.json already";
  if (!(await isWritable(directory))) return `this user cannot write to ${directory}`;
  await assertTrusted(directory);
  if ((await findComposeProgram()) === undefined) return "docker compose 2 is not installed";
  return (
    (container.engine === "podman" ? findSocketProblem() : await findDockerProblem(container)) ??
    (await findSharingProblem(container)) ??
    findIdentityProblem(container)
  );
}

function findSocketProblem(): string | undefined {
  if (existsSync(podmanSocket())) return undefined;
  return `${podmanSocket()} does not exist (${systemctlLine(ownManager(), "enable --now podman.socket")})`;
}

/** The dependents would stay in the namespaces of the container that compose removes. */
async function findSharingProblem(container: Container): Promise<string | undefined> {
  const dependents = await listDependents(container);
  if (dependents.length === 0) return undefined;
  return `its network or another namespace is shared by ${dependents.join(", ")}`;
}

/** Compose removes the container with its files. */
async function findIdentityProblem(container: Container): Promise<string | undefined> {
  const directory = await findLosableIdentity(container);
  if (directory === undefined) return undefined;
  const target = `~/${container.name}-identity`;
  return `the hub's identity, ${directory}, is on no volume, and satellites refuse a hub with another identity (mount a copy of it there: ${await copyOutLine(container, directory, target)})`;
}

/** A user's copy and unit belong to the user's systemd, and Docker may be the machine's. */
async function findDockerProblem(container: Container): Promise<string | undefined> {
  if (ownManager() === "systemd") return findUnitProblem(container);
  return (
    (await findUserProblem(container)) ?? findLingerProblem() ?? (await findUnitProblem(container))
  );
}

/** Returns why the hub could not read a copy that only this user may read. */
async function findUserProblem(container: Container): Promise<string | undefined> {
  if (container.status !== "running") return undefined;
  const pid = findHubProcess(container);
  if (pid === undefined) return "no process of it is a hub on this machine";
  const uid = Number(/^Uid:\s*(\d+)/m.exec(readProc(pid, "status"))?.[1]);
  const { uid: own } = userInfo();
  if (uid === own) return undefined;
  const isMapped = readProc(pid, "uid_map") !== readProc("self", "uid_map");
  const fix =
    isMapped && !(await isRootlessDocker())
      ? 'Docker maps the users of containers to others (in the compose file, userns_mode: "host" prevents it)'
      : `in the compose file, ${await dockerUserLine(container)} changes it`;
  return `its hub runs as user ${uid}, who could not read a copy of user ${own}: ${fix}`;
}

/**
 * Returns the line of the compose file for running a hub of Docker as this user. In a container of
 * rootless Docker, this user has the number 0. If `HOME` is not set, Docker sets it to the home of
 * that user in the image.
 */
export async function dockerUserLine(container: Container): Promise<string> {
  const { uid, gid } = userInfo();
  const line = (await isRootlessDocker()) ? 'user: "0:0"' : `user: "${uid}:${gid}"`;
  if (container.environment.HOME !== undefined) return line;
  const { pathInside } = await readContainerHub(container);
  return `${line} and HOME: ${dirname(dirname(dirname(pathInside)))} in its environment`;
}

/** The hub survives the logout, and its copy does not: the next restart of the hub would fail. */
function findLingerProblem(): string | undefined {
  if (isLingerEnabled()) return undefined;
  return `your files in memory are removed at logout, and the hub would not start again (${lingerCommand()})`;
}

/**
 * Returns why the units of this user cannot use the Docker of the container. Their environment and
 * groups are those of the user manager, which may be older than the session.
 */
async function findUnitProblem({ id }: Container): Promise<string | undefined> {
  const inspect = engineLine("docker", ["inspect", "--type=container", "--format={{.Id}}", id]);
  const options = [...scopeOf(ownManager()), "--pipe", "--wait", "--quiet", "--collect"];
  const outcome = await run("systemd-run", [...options, "/bin/sh", "-c", inspect], {
    timeoutMs: queryLimitMs,
  });
  if (outcome.code === 0) return undefined;
  const cause =
    ownManager() === "systemd"
      ? "system units do not have DOCKER_HOST or DOCKER_CONTEXT of this shell"
      : "a new group needs a reboot, and DOCKER_HOST a line in ~/.config/environment.d";
  return `your units cannot use this Docker${formatFailure(outcome)} (${cause})`;
}
