/** No service: no process has the store open, or the operator stops and starts the hub manually. */
import type { RestartTimer, Service, ServiceState, Started } from "./service.js";

export class NoService implements Service {
  readonly kind = "none";
  readonly name = null;
  readonly stopTimeoutMs = 0;
  readonly #notices: readonly string[];

  /** @param notices - the result of `check` */
  constructor(notices: readonly string[] = []) {
    this.#notices = notices;
  }

  async state(): Promise<ServiceState> {
    return { active: false };
  }

  async check(): Promise<string[]> {
    return [...this.#notices];
  }

  async owns(): Promise<boolean> {
    return false;
  }

  async prepareStop(): Promise<string[]> {
    return [];
  }

  async stop(): Promise<void> {}

  async start(): Promise<Started> {
    return { upAt: performance.now() };
  }

  async armRestart(): Promise<RestartTimer> {
    return { name: null, disarm: async () => ({ fired: false }) };
  }

  async disarmRestart(): Promise<{ fired: boolean }> {
    return { fired: false };
  }
}
