/** No service: no process has the store open, or the operator stops and starts the hub manually. */
import type { Service } from "./service.js";

/** @param notices - the result of `check` */
export function noService(notices: readonly string[] = []): Service {
  return {
    kind: "none",
    name: null,
    stopTimeoutMs: 0,
    state: async () => ({ active: false }),
    check: async () => [...notices],
    owns: async () => false,
    listProcesses: async () => [],
    mustStop: async () => false,
    isRunning: async () => false,
    identifyRun: async () => undefined,
    mayBeStopping: async () => false,
    prepareStop: async () => [],
    stop: async () => {},
    start: async () => ({ upAt: performance.now() }),
    startDependents: async () => {},
    armRestart: async () => ({ name: null, disarm: async () => ({ fired: false }) }),
    disarmRestart: async () => {},
  };
}
