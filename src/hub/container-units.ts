/**
 * Generates what gives a hub in a container its password: the lines of a Podman quadlet, or for a
 * compose file a unit that runs before the engine starts its containers.
 *
 * Neither names the container: at that time it may not exist.
 */
import type { CopyUnit } from "../service/copy-unit.js";
import { systemctlLine } from "../service/systemctl.js";
import { escapeSetting, keyringUnit, quoteCommand } from "../service/unit-file.js";
import { restartSettings } from "./units.js";

export interface ContainerUnit {
  /** Whether the hub's unit is a user unit or a system unit. */
  readonly kind: "user" | "system";
  /** The command line of `hivemind-sqlcipher run`, with its options. */
  readonly run: readonly string[];
  /** The hub's own file on this machine. */
  readonly serverJson: string;
  /** The path in the container at which the hub reads its file. */
  readonly pathInside: string;
  /** The numbers of the user and the group of the copy; undefined for the owner of the store. */
  readonly owner: string | undefined;
  /** The sealed credential of a system unit, as in `SystemUnit`. */
  readonly credential: string | undefined;
  /** The container that Docker starts at boot, which may be before the copy is written. */
  readonly dockerContainer?: string | undefined;
  /** Whether the unit of Docker is also a user unit. */
  readonly isDockerRootless?: boolean;
}

/** Several quadlets on a machine must not share a directory. */
const quadletDirectory = "hivemind-sqlcipher-%N";

/** Returns the lines for a quadlet. Its unit writes the copy at each start. */
export function renderQuadlet(unit: ContainerUnit): string {
  return `# Add these lines to the hub's file NAME.container.
${renderQuadletDropIn(unit)}`;
}

/** Returns the same lines as a drop-in for the quadlet, which Podman reads since version 5.0. */
export function renderQuadletDropIn(unit: ContainerUnit): string {
  const order = unit.kind === "user" ? `[Unit]\nAfter=${keyringUnit}\n\n` : "";
  return `${order}[Container]
Volume=%t/${quadletDirectory}/server.json:${escapeSetting(unit.pathInside)}:ro

[Service]
${preparation(unit, quadletDirectory)}ExecStartPre=${prepareLine(unit, quadletDirectory)}
`;
}

/** Returns a unit for the hub of a compose file, and the lines of that file. */
export function renderCompose(unit: ContainerUnit, copy: CopyUnit): string {
  const [path, runtime] =
    unit.kind === "system"
      ? ["/etc/systemd/system", "/run"]
      : ["~/.config/systemd/user", "$" + "{XDG_RUNTIME_DIR}"];
  return `# ${path}/${copy.name}
# then: ${systemctlLine(copy.manager, `enable --now ${copy.name}`)}
${renderCopyUnit(unit, copy)}
# In the compose file, for the hub's service:
#
${renderVolume(`${runtime}/${copy.directory}/server.json`, unit.pathInside).replace(/^(?=.)/gm, "# ")}`;
}

/** Returns the compose file that adds the copy to a service, at its path on this machine. */
export function renderComposeOverride(service: string, source: string, pathInside: string): string {
  // Compose expands variables in all values.
  const quote = (path: string) => JSON.stringify(path.replaceAll("$", "$$$$"));
  return `services:
  ${JSON.stringify(service)}:
${renderVolume(quote(source), quote(pathInside))}`;
}

/** The long syntax: with the short one, Docker creates a directory if the file is missing. */
function renderVolume(source: string, target: string): string {
  return `    volumes:
      - type: bind
        source: ${source}
        target: ${target}
        read_only: true
        bind:
          create_host_path: false
`;
}

/** Returns a unit that writes the copy before the engines start their containers. */
export function renderCopyUnit(
  unit: ContainerUnit,
  { directory }: Pick<CopyUnit, "directory">,
): string {
  const { kind } = unit;
  const target = kind === "system" ? "multi-user.target" : "default.target";
  return `[Unit]
Description=Copy of the HiveMind hub's server.json for its container, in memory
# the engines start their containers at boot; a missing file would become a directory
Before=docker.service podman-restart.service
${kind === "user" ? `After=${keyringUnit}\n` : ""}# each setup, undo and recovery writes the copy again
StartLimitIntervalSec=0

[Service]
Type=oneshot
RemainAfterExit=yes
# the keyring may be locked until a login
${restartSettings}# the container mounts the copy for as long as it runs
RuntimeDirectoryPreserve=yes
${preparation(unit, directory)}ExecStart=${prepareLine(unit, directory)}
${startLines(unit)}
[Install]
WantedBy=${target}
`;
}

/**
 * Starts a container if Docker failed to. Docker begins to serve requests after it has tried to
 * start its containers. A container that was stopped manually, or by a backup, has no error.
 *
 * Docker waits for the first attempt of a unit of the same manager, which therefore must not wait
 * for Docker. A later attempt must: Docker may be trying to start the container. A rootless Docker
 * has no socket before it serves requests.
 */
function startLines({ kind, dockerContainer: name, isDockerRootless }: ContainerUnit): string {
  if (name === undefined) return "";
  const systemctl = kind === "system" ? "systemctl" : "systemctl --user";
  const guard =
    kind === "system" || isDockerRootless
      ? `case "$(${systemctl} is-active docker.service)" in active|activating) ;; *) exit 0 ;; esac; n=0; until docker version >/dev/null 2>&1 || [ $((n+=1)) = 30 ]; do sleep 1; done; `
      : "";
  const script = `${guard}test -z "$(docker inspect --format "{{.State.Error}}" "$0")" || exec docker start "$0"`;
  return `# at boot, Docker does not wait until the copy is written, and does not try again
ExecStartPost=-${quoteCommand("/bin/sh", "-c", script, name)}
`;
}

function preparation({ credential }: ContainerUnit, directory: string): string {
  const sealed =
    credential === undefined
      ? ""
      : `LoadCredentialEncrypted=hivemind-sqlcipher:${escapeSetting(credential)}\n`;
  return `${sealed}RuntimeDirectory=${directory}\nRuntimeDirectoryMode=0700\n`;
}

function prepareLine({ run, serverJson, owner }: ContainerUnit, directory: string): string {
  const options = ["--server-json", serverJson, ...(owner === undefined ? [] : ["--owner", owner])];
  return `${quoteCommand(...run, "--prepare")} %t/${directory}/server.json ${quoteCommand(...options)}`;
}
