/** Calls `podman` and `docker`, and parses their reports about containers. */
import { existsSync } from "node:fs";
import { constants } from "node:os";
import { basename, join } from "node:path";
import type { Mount } from "../config/hub-account.js";
import { dataHome } from "../config/paths.js";
import { StoreError } from "../errors.js";
import { realPathIfExists } from "../fs/read.js";
import { isRoot } from "../fs/user.js";
import { listGroupProcesses, parseGroups, readGroups } from "../process/cgroup.js";
import { type Outcome, run } from "../process/run.js";
import * as z from "../schema.js";
import { shellQuote } from "../text/escape.js";
import { formatFailure, runtimeDirectory } from "./systemctl.js";

export const engines = ["podman", "docker"] as const;

export type Engine = (typeof engines)[number];

export function isEngine(name: string | undefined): name is Engine {
  return (engines as readonly (string | undefined)[]).includes(name);
}

export interface ContainerName {
  readonly engine: Engine;
  readonly name: string;
}

/** What compose notes in the labels of a container. */
export interface ComposeLabels {
  readonly project: string;
  readonly directory: string;
  readonly files: readonly string[];
  /** The files of `--env-file`; none if compose has read the project's `.env`. */
  readonly environmentFiles: readonly string[];
  readonly service: string;
  /** Whether podman-compose has created the container. */
  readonly isImitated: boolean;
}

export interface Container extends ContainerName {
  readonly id: string;
  /** The status in the engine's terms, such as "running", "paused", "stopping" or "exited". */
  readonly status: string;
  /** The container's main process; 0 unless the container runs. */
  readonly pid: number;
  /** Podman's monitor of the container (conmon), the main process of a unit for it; else 0. */
  readonly monitorPid: number;
  readonly exitCode: number;
  /** How often the engine has restarted the container since it was last started manually. */
  readonly restartCount: number;
  /** When the container was last started, in milliseconds since 1970. */
  readonly startedAt: number;
  /** The command line of the container's main process. */
  readonly args: readonly string[];
  readonly mounts: readonly Mount[];
  /** The container's `HOME` and `XDG_*` variables, as far as its configuration sets them. */
  readonly environment: Readonly<Record<string, string>>;
  /**
   * Names or ids of other containers. This container runs in their network, IPC or PID namespace.
   */
  readonly sharesNamespacesOf: readonly string[];
  readonly hasOwnPidNamespace: boolean;
  readonly stopSignal: number;
  readonly stopTimeoutMs: number;
  /** Whether the engine removes the container when it stops (`--rm`). */
  readonly isRemovedOnStop: boolean;
  /** The systemd unit in the container's label: of a quadlet, or of `podman generate systemd`. */
  readonly unit: string | undefined;
  /** The names of the engine's secrets in the container. */
  readonly secrets: readonly string[];
  /** The swarm service of which the container is a task. */
  readonly swarmService: string | undefined;
  /** The labels of compose, or of a program that imitates it. */
  readonly compose: ComposeLabels | undefined;
}

const queryLimitMs = 30_000;

/** The engines' default time limit of a stop, after which they kill the container. */
const defaultStopTimeoutSeconds = 10;

/** The fields that both engines report under the same names. */
const inspectedSchema = z.array(
  z.object({
    Id: z.string(),
    Name: z.string(),
    Path: z.optional(z.string()),
    Args: z.nullish(z.array(z.string())),
    RestartCount: z.optional(z.number()),
    State: z.object({
      Status: z.string(),
      Pid: z.number(),
      ConmonPid: z.optional(z.number()),
      ExitCode: z.optional(z.number()),
      StartedAt: z.string(),
    }),
    Mounts: z.nullish(
      z.array(z.object({ Source: z.optional(z.string()), Destination: z.string() })),
    ),
    Config: z.object({
      Labels: z.nullish(z.record(z.string(), z.string())),
      Env: z.nullish(z.array(z.string())),
      Secrets: z.nullish(z.array(z.looseObject({ Name: z.string() }))),
      StopSignal: z.nullish(z.union([z.string(), z.number()])),
      StopTimeout: z.nullish(z.number()),
    }),
    HostConfig: z.object({
      AutoRemove: z.optional(z.boolean()),
      NetworkMode: z.optional(z.string()),
      IpcMode: z.optional(z.string()),
      PidMode: z.optional(z.string()),
    }),
  }),
);

type Inspected = z.infer<typeof inspectedSchema>[number];

/** Returns the control groups of a running container; none if it does not run. */
export function findGroups({ id, pid }: Pick<Container, "id" | "pid">): string[] {
  if (pid === 0) return [];
  return parseGroups(readGroups(pid)).filter((group) => group.includes(id));
}

/** Returns the processes of a container; none if it does not run. */
export function listContainerProcesses(container: Pick<Container, "id" | "pid">): number[] {
  return findGroups(container).flatMap(listGroupProcesses);
}

/** Runs an engine. No argument may be a secret. */
export function runEngine(
  engine: Engine,
  args: readonly string[],
  { timeoutMs = queryLimitMs } = {},
): Promise<Outcome> {
  return run(engine, args, { timeoutMs });
}

export function engineLine(engine: Engine, args: readonly string[]): string {
  return [engine, ...args].map(shellQuote).join(" ");
}

/**
 * Returns a container by its name, its id or a prefix of its id; undefined if the engine does not
 * have it.
 *
 * @throws {@link StoreError} service - if the engine is not installed, not running, or may not be
 *   used by this user
 */
export async function inspectContainer(
  engine: Engine,
  name: string,
): Promise<Container | undefined> {
  const outcome = await runEngine(engine, ["inspect", "--type=container", "--", name]);
  if (outcome.code === 0) return parseContainers(engine, outcome.stdout)[0];
  if (/no such (?:container|object)/i.test(outcome.stderr)) return undefined;
  throw engineError(engine, outcome);
}

/**
 * Returns the containers of an engine.
 *
 * @param options.all - also returns stopped containers
 */
export async function listContainers(engine: Engine, { all = false } = {}): Promise<Container[]> {
  const list = await runEngine(engine, ["ps", "--quiet", "--no-trunc", ...(all ? ["--all"] : [])]);
  if (list.code !== 0) throw engineError(engine, list);
  const ids = list.stdout.split("\n").filter(Boolean);
  if (ids.length === 0) return [];
  // If a container was removed since the list was made, the call fails, but prints the others.
  const outcome = await runEngine(engine, ["inspect", "--type=container", "--", ...ids]);
  if (outcome.code === null) throw engineError(engine, outcome);
  return parseContainers(engine, outcome.stdout);
}

/**
 * Returns the names of the running containers that use the namespaces of a container, such as its
 * network.
 */
export async function listDependents({
  engine,
  name,
  id,
}: ContainerName & { readonly id: string | undefined }): Promise<string[]> {
  const running = await listContainers(engine);
  return running
    .filter(({ sharesNamespacesOf }) =>
      sharesNamespacesOf.some((shared) => shared === id || shared === name),
    )
    .map((container) => container.name);
}

/**
 * Returns whether the Docker of this user runs without root. In its containers, the user is root.
 */
export async function isRootlessDocker(): Promise<boolean> {
  const { stdout } = await runEngine("docker", ["info", "--format={{.SecurityOptions}}"]);
  return stdout.includes("name=rootless");
}

/**
 * Parses the output of `podman inspect` or `docker inspect`.
 *
 * @throws {@link StoreError} service - if the output has another shape
 */
export function parseContainers(engine: Engine, text: string): Container[] {
  const parsed = inspectedSchema.safeParse(z.parseJson(text));
  if (parsed.success) return parsed.data.map((each) => toContainer(engine, each));
  const [issue] = parsed.error.issues;
  throw new StoreError(
    "service",
    `unexpected output of ${engine} inspect${issue?.path.length ? ` at "${issue.path.join(".")}"` : ""}`,
    { hint: "Use --stop-command and --start-command." },
  );
}

function toContainer(engine: Engine, inspected: Inspected): Container {
  const { State: state, Config: config, HostConfig: host } = inspected;
  const labels = config.Labels ?? {};
  return {
    engine,
    id: inspected.Id,
    name: inspected.Name.replace(/^\//, ""),
    status: state.Status,
    pid: state.Pid,
    monitorPid: state.ConmonPid ?? 0,
    exitCode: state.ExitCode ?? 0,
    restartCount: inspected.RestartCount ?? 0,
    startedAt: Date.parse(state.StartedAt),
    args: [...(inspected.Path ? [inspected.Path] : []), ...(inspected.Args ?? [])],
    mounts: (inspected.Mounts ?? []).flatMap(({ Source: source, Destination: destination }) =>
      source ? [{ source: realPathIfExists(source), destination }] : [],
    ),
    environment: Object.fromEntries(
      (config.Env ?? []).flatMap((line) => {
        const [, name, value] = /^(HOME|XDG_\w+)=(.*)$/s.exec(line) ?? [];
        return name === undefined || value === undefined ? [] : [[name, value]];
      }),
    ),
    sharesNamespacesOf: [host.NetworkMode, host.IpcMode, host.PidMode].flatMap((mode) =>
      mode?.startsWith("container:") ? [mode.slice("container:".length)] : [],
    ),
    hasOwnPidNamespace: !host.PidMode || host.PidMode === "private",
    stopSignal: toSignalNumber(config.StopSignal),
    stopTimeoutMs: (config.StopTimeout ?? defaultStopTimeoutSeconds) * 1000,
    isRemovedOnStop: host.AutoRemove ?? false,
    unit: labels.PODMAN_SYSTEMD_UNIT,
    secrets: (config.Secrets ?? []).map(({ Name }) => Name),
    swarmService: labels["com.docker.swarm.service.name"],
    compose: toComposeLabels(labels),
  };
}

function toComposeLabels(labels: Readonly<Record<string, string>>): ComposeLabels | undefined {
  const project = labels["com.docker.compose.project"];
  const directory = labels["com.docker.compose.project.working_dir"];
  const service = labels["com.docker.compose.service"];
  if (project === undefined || directory === undefined || service === undefined) return undefined;
  const list = (name: string) =>
    (labels[`com.docker.compose.project.${name}`] ?? "").split(",").filter(Boolean);
  return {
    project,
    directory,
    service,
    files: list("config_files"),
    environmentFiles: list("environment_file"),
    isImitated: labels["io.podman.compose.project"] !== undefined,
  };
}

/** Podman 4 reports a number, later versions and Docker report a name. */
function toSignalNumber(signal: string | number | null | undefined): number {
  const terminate = constants.signals.SIGTERM;
  if (signal === null || signal === undefined || signal === "") return terminate;
  if (Number.isInteger(Number(signal))) return Number(signal);
  const name = `SIG${`${signal}`.toUpperCase().replace(/^SIG/, "")}`;
  return constants.signals[name as NodeJS.Signals] ?? terminate;
}

/** Returns whether a container must be stopped: it runs, or its engine may start it again. */
export function isContainerActive({ status }: Container): boolean {
  return ["running", "restarting", "paused", "stopping"].includes(status);
}

/** Returns whether the container mounts the store, its directory or a directory above. */
export function mountsStore({ mounts }: Container, storePath: string): boolean {
  return mounts.some(
    ({ source }) => storePath === source || storePath.startsWith(`${source.replace(/\/$/, "")}/`),
  );
}

/**
 * Returns whether this user may have containers of an engine. Checks only files and variables,
 * because `podman ps` creates directories.
 *
 * Podman serves Docker's protocol, too: `DOCKER_HOST` may name its socket, and `/run/docker.sock`
 * may be a link to it. Its containers are then Podman's.
 */
export function mayHaveContainers(engine: Engine): boolean {
  const environment = process.env;
  if (engine === "docker") {
    const { DOCKER_HOST: host, DOCKER_CONTEXT: context } = environment;
    if (host) return !isPodmanSocket(host);
    const runtime = environment.XDG_RUNTIME_DIR || runtimeDirectory();
    const sockets = ["/run/docker.sock", join(runtime, "docker.sock")];
    return Boolean(context) || sockets.some((path) => existsSync(path) && !isPodmanSocket(path));
  }
  if (environment.CONTAINERS_STORAGE_CONF || environment.CONTAINER_HOST) return true;
  return existsSync(
    isRoot() ? "/var/lib/containers/storage" : join(dataHome(environment), "containers", "storage"),
  );
}

function isPodmanSocket(socket: string): boolean {
  return basename(realPathIfExists(socket.replace(/^unix:\/\//, ""))) === "podman.sock";
}

function engineError(engine: Engine, outcome: Outcome): StoreError {
  const { failure, stderr } = outcome;
  if (failure === "missing") {
    return new StoreError("service", `${engine} is not installed, or not in the search path`, {
      hint: "Add its directory to PATH, or use --stop-command and --start-command.",
    });
  }
  if (/permission denied/i.test(stderr)) {
    return new StoreError("service", `this user may not use ${engine}${formatFailure(outcome)}`, {
      hint:
        engine === "docker"
          ? "Run this as root or as a member of the group docker (usermod -aG docker USER)."
          : "Run this as the user who started the container.",
    });
  }
  return new StoreError("service", `${engine} does not respond${formatFailure(outcome)}`, {
    hint: `Run ${engine} info to see why, or use --stop-command and --start-command.`,
  });
}
