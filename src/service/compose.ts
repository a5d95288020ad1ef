/** Projects of compose, of Docker or of this user's Podman, which for root is the machine's. */
import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import type { ComposeService } from "../config/hub-account.js";
import type { Environment } from "../config/paths.js";
import { StoreError, systemError } from "../errors.js";
import { run } from "../process/run.js";
import { shellQuote } from "../text/escape.js";
import { assertTrusted } from "./compose-trust.js";
import { type ComposeLabels, type Engine, inspectContainer } from "./engine.js";
import { formatFailure, queryLimitMs, runtimeDirectory } from "./systemctl.js";

/** The files that compose reads by default, each with the name of its override. */
const overrides: Readonly<Record<string, string>> = {
  "compose.yaml": "compose.override.yaml",
  "compose.yml": "compose.override.yml",
  "docker-compose.yaml": "docker-compose.override.yaml",
  "docker-compose.yml": "docker-compose.override.yml",
};

/** The time for the stop of the old container, and the start of the new one. */
export const createLimitMs = 120_000;

const programs = [["docker-compose"], ["docker", "compose"]] as const;

/**
 * Returns the service of a container.
 *
 * @throws {@link StoreError} refused - if compose would not read an override next to its file, or
 *   if this cannot be determined
 */
export function findComposeService(engine: Engine, labels: ComposeLabels): ComposeService {
  const { project, directory, files, environmentFiles, service, isImitated } = labels;
  const problem = (message: string) => new StoreError("refused", message);
  if (isImitated) throw problem("podman-compose has created it, not compose");
  const present = Object.keys(overrides).filter((name) => existsSync(join(directory, name)));
  const [name, other] = present;
  if (name === undefined) throw problem(`${directory} has no compose file`);
  if (other !== undefined) throw problem(`${directory} has both ${name} and ${other}`);
  const override = join(directory, overrides[name] ?? "");
  const others = files.filter((file) => ![join(directory, name), override].includes(file));
  if (others.length > 0) throw problem(`compose was given other files: ${others.join(", ")}`);
  const environmentFile = join(directory, ".env");
  const variables = environmentFiles.filter((file) => file !== environmentFile);
  if (variables.length > 0) {
    throw problem(`compose was given other files of variables: ${variables.join(", ")}`);
  }
  if (namesFiles(environmentFile)) throw problem(`${directory}/.env sets COMPOSE_FILE`);
  return { engine, project, directory, service, override };
}

/** Returns whether a project's `.env` names its compose files. Compose then reads no others. */
function namesFiles(path: string): boolean {
  if (!existsSync(path)) return false;
  try {
    return /^[ \t]*(?:export[ \t]+)?COMPOSE_FILE[ \t]*=/m.test(readFileSync(path, "utf8"));
  } catch (error) {
    throw systemError(error, `cannot read ${path}`, "refused");
  }
}

/** Returns the override in a project; undefined if there is none. */
export function findOverride({ directory }: ComposeService): string | undefined {
  return Object.values(overrides)
    .map((name) => join(directory, name))
    .find((path) => existsSync(path));
}

/** Returns the program of compose, version 2 or later; undefined if this user has none. */
export async function findComposeProgram(): Promise<readonly string[] | undefined> {
  for (const [program, ...args] of programs) {
    const { code, stdout } = await run(program, [...args, "version", "--short"], {
      timeoutMs: queryLimitMs,
    });
    const version = /^v?(\d+)\./m.exec(stdout)?.[1];
    if (code === 0 && Number(version) >= 2) return [program, ...args];
  }
  return undefined;
}

/** Returns the path of the socket of this user's Podman. */
export function podmanSocket(): string {
  return join(runtimeDirectory(), "podman", "podman.sock");
}

/** Names the project as the labels of its container do: a variable may name another. */
function projectArgs({ project, directory }: ComposeService): string[] {
  return ["--project-name", project, "--project-directory", directory];
}

/** The variables that let compose use an engine. It finds Docker as the program `docker` does. */
function engineVariables({ engine }: ComposeService): Environment {
  return engine === "podman" ? { DOCKER_HOST: `unix://${podmanSocket()}` } : {};
}

/** Returns the command line that creates and starts the container of a service. */
function upLine(composed: ComposeService): string {
  const args = [...projectArgs(composed), "up", "--detach", "--no-deps", composed.service];
  const variables = Object.entries(engineVariables(composed)).map((each) => each.join("="));
  return [...variables, "docker compose", ...args.map(shellQuote)].join(" ");
}

/**
 * Creates the container of a service again if its compose files have changed. A stopped container
 * stays stopped. Pulls and builds no image.
 *
 * @throws {@link StoreError} service - if this fails
 * @throws {@link StoreError} refused - if root must not use the project
 */
export async function createAgain(composed: ComposeService, name: string): Promise<void> {
  const { engine, directory, service } = composed;
  await assertTrusted(directory);
  const [program = "docker-compose", ...first] = (await findComposeProgram()) ?? [];
  const isRunning = (await inspectContainer(engine, name))?.status === "running";
  const how = isRunning ? "--detach" : "--no-start";
  const args = [
    ...projectArgs(composed),
    "up",
    how,
    "--no-deps",
    "--no-build",
    "--pull",
    "never",
    service,
  ];
  // The container was not created with these variables of this shell.
  const { COMPOSE_FILE: _, COMPOSE_ENV_FILES: __, ...others } = process.env;
  const environment = { ...others, ...engineVariables(composed) };
  const outcome = await run(program, [...first, ...args], {
    timeoutMs: createLimitMs,
    account: { environment },
    // The compose file may use every variable, such as TZ, and the environment overrides `.env`.
    outputVariables: {},
  });
  if (outcome.code === 0) return;
  throw new StoreError(
    "service",
    `compose did not create ${service} of ${directory} again${formatFailure(outcome)}`,
    { hint: `Run this to see why: ${upLine(composed)}` },
  );
}
