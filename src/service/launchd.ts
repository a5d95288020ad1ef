/**
 * launchd jobs (macOS): of the system if root asks, else of the user's login session.
 *
 * A job that is only killed is started again by launchd, so stopping is `bootout`, which unloads it, and starting is
 * `bootstrap` with the property list that it was loaded from.
 *
 * Its limits: launchd has no timer that a killed program could leave behind, so a watcher process stands in
 * (see `watcher.ts`); it knows no dependents; and what `launchctl print` says is meant for people, so only three of its
 * lines are read, and a job is refused if they are not there. This kind is not covered by the tests, which run on Linux.
 */
import { statSync } from "node:fs";
import { setTimeout as delay } from "node:timers/promises";
import { StoreError } from "../errors.js";
import { type Outcome, run } from "../process/run.js";
import { shellQuote } from "../text/shell.js";
import type { RestartTimer, Service, ServiceState, Started } from "./service.js";
import { armWatcher } from "./watcher.js";

/** launchd sends SIGKILL after ExitTimeOut, 20 s unless the job says otherwise: 2 minutes. */
const stopLimitMs = 120_000;

/** One call of launchctl: 30 s. */
const callLimitMs = 30_000;

/** How long a started job must keep its process to count as started, as for systemd: 1 s. */
const settleMs = 1_000;

/** How often a job that is stopping is looked at: every 50 ms. */
const pollMs = 50;

export class LaunchdJob implements Service {
  readonly kind = "launchd";
  readonly name: string;
  readonly stopTimeoutMs = stopLimitMs;
  readonly #domain: string;
  /** The property list that it was loaded from. */
  #path: string | undefined;
  #pid: number | undefined;

  constructor(label: string) {
    const uid = process.geteuid?.() ?? 0;
    this.name = label;
    this.#domain = uid === 0 ? "system" : `gui/${uid}`;
  }

  /** Whether launchd has such a job loaded. */
  async exists(): Promise<boolean> {
    return (await this.#print()).code === 0;
  }

  async state(): Promise<ServiceState> {
    const { code, stdout } = await this.#print();
    this.#pid = code === 0 ? Number(field(stdout, "pid")) || undefined : undefined;
    return this.#pid === undefined ? { active: false } : { active: true, mainPid: this.#pid };
  }

  async check(storePath: string): Promise<string[]> {
    const { code, stdout } = await this.#print();
    if (code !== 0) {
      throw new StoreError("notFound", `launchd has no job ${this.name} in ${this.#domain}`, {
        hint: "--unit names its label (launchctl list shows them), --service none uses none",
      });
    }
    this.#path = field(stdout, "path");
    if (!this.#path?.startsWith("/") || !statSync(this.#path, { throwIfNoEntry: false })) {
      throw new StoreError(
        "refused",
        `the property list of ${this.name} was not found: once stopped it could not be started again`,
        { hint: "use --stop-command and --start-command" },
      );
    }
    const pid = field(stdout, "pid");
    if (pid) await this.#checkUser(pid, storePath);
    return [];
  }

  async owns(pid: number): Promise<boolean> {
    if (this.#pid === undefined) await this.state();
    return pid === this.#pid;
  }

  async activeDependents(): Promise<string[]> {
    return [];
  }

  async stop(): Promise<void> {
    const deadline = performance.now() + stopLimitMs;
    const { stderr } = await this.#launchctl("bootout", `${this.#domain}/${this.name}`);
    // bootout may return before the process has ended.
    while ((await this.#print()).code === 0) {
      if (performance.now() > deadline) throw this.#error(`${this.name} did not stop: ${stderr}`);
      await delay(pollMs);
    }
  }

  async start(): Promise<Started> {
    const loaded = await this.#launchctl(...this.#bootstrap());
    const asked = await this.#launchctl(...this.#kickstart());
    const upAt = performance.now();
    const { mainPid } = await this.state();
    if (asked.code !== 0 || mainPid === undefined) {
      throw this.#error(`${this.name} did not start: ${loaded.stderr || asked.stderr}`);
    }
    await delay(settleMs);
    if ((await this.state()).mainPid !== mainPid) {
      throw this.#error(`${this.name} started but did not stay up`);
    }
    return { upAt };
  }

  armRestart(options: { afterMs: number; command: readonly string[] }): Promise<RestartTimer> {
    const script = [this.#bootstrap(), this.#kickstart()]
      .map((args) => ["launchctl", ...args].map(shellQuote).join(" "))
      .join("\n");
    return armWatcher({ ...options, start: ["/bin/sh", "-c", script] });
  }

  /** A watcher whose process was killed has acted at once. */
  async disarmRestart(): Promise<{ fired: boolean }> {
    return { fired: true };
  }

  #bootstrap(): string[] {
    return ["bootstrap", this.#domain, this.#path ?? ""];
  }

  /** Without RunAtLoad a loaded job waits to be asked; asking a running one changes nothing. */
  #kickstart(): string[] {
    return ["kickstart", `${this.#domain}/${this.name}`];
  }

  async #checkUser(pid: string, storePath: string): Promise<void> {
    const owner = statSync(storePath, { throwIfNoEntry: false })?.uid;
    const { code, stdout } = await run("ps", ["-o", "uid=", "-p", pid], { timeoutMs: callLimitMs });
    if (owner === undefined || code !== 0 || Number(stdout) === owner) return;
    throw new StoreError(
      "refused",
      `${this.name} runs as user ${stdout.trim()}, but ${storePath} belongs to user ${owner}`,
      { hint: "name the job that uses this store (--unit), or the store that it uses (--db)" },
    );
  }

  #print(): Promise<Outcome> {
    return this.#launchctl("print", `${this.#domain}/${this.name}`);
  }

  #launchctl(...args: string[]): Promise<Outcome> {
    return run("launchctl", args, { timeoutMs: callLimitMs });
  }

  #error(message: string): StoreError {
    return new StoreError("service", message, {
      hint: `launchctl print ${this.#domain}/${this.name}`,
    });
  }
}

/** A line of the job itself, "\tpid = 123"; what is nested is indented further. */
function field(text: string, name: string): string | undefined {
  return new RegExp(`^\\t${name} = (.+)$`, "m").exec(text)?.[1];
}
