/**
 * The operator's own commands: for a hub in a container, under another supervisor, or started by hand.
 *
 * They are given to the shell, as they are typed. What they say is not shown, since it is not known what they say.
 * Whether the hub runs is told by who has the store open; nothing else is known here.
 */
import { setTimeout as delay } from "node:timers/promises";
import { StoreError } from "../errors.js";
import { findHolders, formatHolders } from "../process/holders.js";
import { type Outcome, run } from "../process/run.js";
import { withInheritedUmask } from "../process/umask.js";
import type { RestartTimer, Service, ServiceState, Started } from "./service.js";
import { armWatcher } from "./watcher.js";

/** The stop command and the hub's own shutdown together: 2 minutes, as container engines and supervisors end by force in seconds. */
const stopLimitMs = 120_000;

/** The start command; it starts the hub and returns: 2 minutes. */
const startLimitMs = 120_000;

/** How often it is looked at whether the store has been let go of: every 50 ms. */
const pollMs = 50;

export class CommandService implements Service {
  readonly kind = "command";
  readonly name = null;
  readonly stopTimeoutMs = stopLimitMs;
  readonly #stopCommand: string;
  readonly #startCommand: string;
  readonly #storePath: string;

  constructor(options: { stopCommand: string; startCommand: string; storePath: string }) {
    this.#stopCommand = options.stopCommand;
    this.#startCommand = options.startCommand;
    this.#storePath = options.storePath;
  }

  /** A hub of another user is invisible here: rather stopped and started in vain than taken for stopped. */
  async state(): Promise<ServiceState> {
    const { holders, complete } = await findHolders(this.#storePath);
    return { active: holders.length > 0 || !complete };
  }

  async check(): Promise<string[]> {
    return [];
  }

  /** Whoever has the store open is what the stop command is there to stop. */
  async owns(): Promise<boolean> {
    return true;
  }

  async activeDependents(): Promise<string[]> {
    return [];
  }

  async stop(): Promise<void> {
    const deadline = performance.now() + stopLimitMs;
    const outcome = await shell(this.#stopCommand, stopLimitMs);
    if (outcome.code !== 0) throw commandError("stop", outcome);
    for (;;) {
      const { holders } = await findHolders(this.#storePath);
      if (holders.length === 0) return;
      if (performance.now() > deadline) {
        throw new StoreError(
          "service",
          `the stop command ended well, but ${this.#storePath} is still open in ${formatHolders(holders)}`,
          { hint: "a stop command must return when the hub has ended, or soon after" },
        );
      }
      await delay(pollMs);
    }
  }

  async start(): Promise<Started> {
    const outcome = await shell(this.#startCommand, startLimitMs);
    const upAt = performance.now();
    if (outcome.code !== 0) throw commandError("start", outcome);
    return { upAt };
  }

  armRestart(options: { afterMs: number; command: readonly string[] }): Promise<RestartTimer> {
    return armWatcher({ ...options, start: ["/bin/sh", "-c", this.#startCommand] });
  }

  /** A watcher whose process was killed has acted at once. */
  async disarmRestart(): Promise<{ fired: boolean }> {
    return { fired: true };
  }
}

function shell(command: string, timeoutMs: number): Promise<Outcome> {
  return run("/bin/sh", ["-c", withInheritedUmask(command)], { timeoutMs, output: false });
}

function commandError(which: "stop" | "start", { code, failure }: Outcome): StoreError {
  const how =
    failure === "timeout"
      ? "took too long"
      : code === null
        ? "was killed"
        : `failed with exit code ${code}`;
  return new StoreError("service", `the ${which} command ${how}`, {
    hint: `type the ${which} command by hand to see what it says`,
  });
}
