/** A dead-man's switch in systemd: a transient timer that starts a service again. */
import { run } from "../process/run.js";
import { shellQuote } from "../text/escape.js";
import {
  newRestartName,
  type RestartOptions,
  type RestartTimer,
  recoveryLimitSeconds,
} from "./service.js";
import {
  formatFailure,
  type Manager,
  queryLimitMs,
  scopeOf,
  show,
  systemctl,
  unitError,
} from "./systemctl.js";

export interface TimerOptions extends RestartOptions {
  /** The unit or container that was stopped. */
  readonly subject: string;
  /** The command to start it, run after `command`. */
  readonly start: readonly string[];
}

/**
 * Arms a timer for {@link Service.armRestart}.
 *
 * @throws {@link StoreError} service - if the manager does not accept it
 */
export async function armTimer(manager: Manager, options: TimerOptions): Promise<RestartTimer> {
  const { subject, afterMs, name = newRestartName() } = options;
  const outcome = await run(
    "systemd-run",
    [
      ...scopeOf(manager),
      "--quiet",
      "--no-ask-password",
      "--collect",
      `--unit=${name}`,
      `--description=Start ${subject} again if the program that stopped it was killed`,
      `--on-active=${Math.ceil(afterMs)}ms`,
      "--timer-property=AccuracySec=1s",
      "/bin/sh",
      "-c",
      // Base64, because systemd 252 garbles "$" and ";" in the arguments of a transient unit when
      // the manager reloads, and the recovery command would fail.
      `echo ${Buffer.from(restartScript(options)).toString("base64")} | base64 -d | sh`,
    ],
    { timeoutMs: queryLimitMs },
  );
  if (outcome.code !== 0) {
    throw unitError(
      manager,
      `cannot arm the timer that starts ${subject} again if this program is killed${formatFailure(outcome)}`,
      name,
    );
  }
  return { name, disarm: () => disarmTimer(manager, name) };
}

/**
 * Cancels a timer for {@link Service.disarmRestart}.
 *
 * @throws {@link StoreError} service - if the manager does not respond
 */
export async function disarmTimer(manager: Manager, name: string): Promise<{ fired: boolean }> {
  const stopped = await systemctl(manager, ["stop", "--", `${name}.timer`]);
  const isGone = /not loaded/.test(stopped.stderr);
  if (stopped.code !== 0 && !isGone) {
    throw unitError(manager, `cannot cancel the timer ${name}${formatFailure(stopped)}`, name);
  }
  const [action = {}] = await show(manager, ["InvocationID"], [`${name}.service`]);
  // The timer's action may be running. The manager completes a start already requested by it.
  if (action.InvocationID && action.InvocationID !== process.env.INVOCATION_ID) {
    await systemctl(manager, ["stop", "--", `${name}.service`]);
  }
  return { fired: isGone || Boolean(action.InvocationID) };
}

function restartScript({ command, start }: TimerOptions): string {
  const recover = ["timeout", "--kill-after=5", `${recoveryLimitSeconds}`, ...command];
  // The shell reads this script from standard input, so its commands must not.
  return [
    ...inheritedVariables().map((variable) => `export ${shellQuote(variable)}`),
    `${recover.map(shellQuote).join(" ")} </dev/null`,
    `exec ${start.map(shellQuote).join(" ")} </dev/null`,
    "",
  ].join("\n");
}

const pathVariables =
  /^(HOME|PATH|XDG_\w+|DBUS_SESSION_BUS_ADDRESS|HIVEMIND_SQLCIPHER_\w+|CONTAINERS_(CONF|STORAGE_CONF)|CONTAINER_HOST|DOCKER_(HOST|CONTEXT|CONFIG))$/;

/**
 * Returns the variables, as NAME=VALUE, through which the commands find the same paths, keyring
 * and engine. None of them holds a secret.
 */
function inheritedVariables(): string[] {
  return Object.entries(process.env).flatMap(([name, value]) =>
    pathVariables.test(name) ? [`${name}=${value}`] : [],
  );
}
