/** Common to units and containers: it follows from the state reported by manager or engine. */
import { listAllProcesses } from "../process/proc.js";
import type { ServiceState } from "./service.js";

export abstract class ManagedService {
  abstract state(): Promise<ServiceState>;
  abstract owns(pid: number): Promise<boolean>;

  async mustStop(): Promise<boolean> {
    const { active, hasJob = false } = await this.state();
    return active || hasJob;
  }

  async isRunning(): Promise<boolean> {
    return (await this.state()).active;
  }

  async identifyRun(): Promise<string | undefined> {
    return (await this.state()).invocation;
  }

  async mayBeStopping(run: string): Promise<boolean> {
    const { active, invocation } = await this.state();
    return active && invocation === run;
  }

  async listProcesses(): Promise<number[]> {
    const own: number[] = [];
    for (const pid of listAllProcesses()) if (await this.owns(pid)) own.push(pid);
    return own;
  }
}
