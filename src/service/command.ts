/**
 * Stops and starts the hub with the operator's shell commands: for a container, another supervisor,
 * or a hub without a supervisor. Their output is not shown, because it may contain a secret.
 */
import { setTimeout as delay } from "node:timers/promises";
import { StoreError } from "../errors.js";
import { findHolders, findLastingHolders, formatHolders, type Holder } from "../process/holders.js";
import { withInheritedUmask } from "../process/privacy.js";
import { run } from "../process/run.js";
import type { RestartOptions, RestartTimer, Service, ServiceState, Started } from "./service.js";
import { armWatcher } from "./watcher.js";

/**
 * Time limit of the stop command and the hub's shutdown together. Container engines and supervisors
 * kill a process after seconds.
 */
const stopLimitMs = 120_000;

/** Time limit of the start command, which must not wait until the hub ends. */
const startLimitMs = 120_000;

const pollMs = 50;

interface CommandOptions {
  readonly stopCommand: string;
  readonly startCommand: string;
  readonly storePath: string;
}

export class CommandService implements Service {
  readonly kind = "command";
  readonly name = null;
  readonly stopTimeoutMs = stopLimitMs;
  readonly mayStartTwice = true;
  readonly #options: CommandOptions;

  constructor(options: CommandOptions) {
    this.#options = options;
  }

  /**
   * Reports "active" if a process has the store open, or if processes cannot be inspected: an
   * unnecessary stop does less harm than work on a store in use.
   */
  async state(): Promise<ServiceState> {
    const { holders, isComplete } = await findHolders(this.#options.storePath);
    return { active: holders.length > 0 || !isComplete };
  }

  async check(): Promise<string[]> {
    return [];
  }

  /**
   * Claims every process except this process, because the stop command must end all processes with
   * the store open.
   */
  async owns(pid: number): Promise<boolean> {
    return pid !== process.pid;
  }

  async listProcesses(): Promise<number[]> {
    const { holders } = await findHolders(this.#options.storePath);
    return holders.map(({ pid }) => pid);
  }

  /** Returns `wasActive`, because the hub may have the store closed at this moment. */
  async mustStop(wasActive: boolean): Promise<boolean> {
    return wasActive;
  }

  /**
   * Requires a visible process with the store open: `state` also reports "active" when processes
   * cannot be inspected, and a stopped hub would then not be started. A command with the store open
   * for a moment does not count.
   */
  async isRunning(): Promise<boolean> {
    return await this.#isHeld();
  }

  /** Returns the ids of the processes with the store open. */
  async identifyRun(): Promise<string | undefined> {
    const pids = await this.listProcesses();
    return pids.length > 0 ? pids.join(" ") : undefined;
  }

  async mayBeStopping(run: string): Promise<boolean> {
    const pids = run.split(" ").map(Number);
    return await this.#isHeld(async ({ pid }) => pids.includes(pid));
  }

  async #isHeld(isCounted?: (holder: Holder) => Promise<boolean>): Promise<boolean> {
    const { holders } = await findLastingHolders(this.#options.storePath, isCounted);
    return holders.length > 0;
  }

  async prepareStop(): Promise<string[]> {
    return [];
  }

  async stop({ mayBeDown = false } = {}): Promise<void> {
    try {
      await this.#stop();
    } catch (error) {
      // A stop command may fail because the hub is down already.
      if (!mayBeDown || (await this.isRunning())) throw error;
    }
  }

  async #stop(): Promise<void> {
    const deadline = performance.now() + stopLimitMs;
    await runShell("stop", this.#options.stopCommand, stopLimitMs);
    for (;;) {
      const { holders } = await findHolders(this.#options.storePath);
      if (holders.length === 0) return;
      if (performance.now() > deadline) {
        throw new StoreError(
          "service",
          `the stop command succeeded, but ${this.#options.storePath} is still open in ${formatHolders(holders)}`,
          { hint: "Use a --stop-command that ends every process with the store open." },
        );
      }
      await delay(pollMs);
    }
  }

  async start(): Promise<Started> {
    await runShell("start", this.#options.startCommand, startLimitMs);
    return { upAt: performance.now() };
  }

  async startDependents(): Promise<void> {}

  armRestart(options: RestartOptions): Promise<RestartTimer> {
    return armWatcher({ ...options, start: ["/bin/sh", "-c", this.#options.startCommand] });
  }

  /** Does nothing: a watcher acts as soon as the process that armed it ends. */
  async disarmRestart(): Promise<void> {}
}

async function runShell(
  which: "stop" | "start",
  command: string,
  timeoutMs: number,
): Promise<void> {
  const args = ["-c", withInheritedUmask(command)];
  const { code, failure } = await run("/bin/sh", args, { timeoutMs, output: false });
  if (code === 0) return;
  const ending = code === null ? "was killed" : `failed with exit code ${code}`;
  const how = failure === "timeout" ? "timed out" : ending;
  throw new StoreError("service", `the ${which} command ${how}`, {
    hint: `Run the ${which} command in a shell to see its output.`,
  });
}
