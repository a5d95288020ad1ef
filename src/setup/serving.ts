/** Waits until the hub works after its restart, and reports its outage. */
import { setTimeout as delay } from "node:timers/promises";
import { StoreError } from "../errors.js";
import type { Restart } from "../operation/downtime.js";
import type { ServiceReport } from "../operation/service.js";
import type { Service } from "../service/service.js";
import { isUnit, journalctlLine, type ServiceName, systemctlLine } from "../service/systemctl.js";
import { isHubServing } from "./hub-survey.js";
import { isHandedOver } from "./record.js";

/** A hub opens its database after Python's imports, which take seconds on a small board. */
const limitMs = 120_000;
const pauseMs = 500;
/** Longer than a hub in a crash loop is up, which is some seconds each time. */
const observationMs = 10_000;

/** The outage of the hub, in milliseconds from the request to stop. */
export interface Outage {
  /** Until the unit was up again. */
  readonly stoppedMs: number;
  /** Until it listened on its ports again; null if it has none, or not within 30 s. */
  readonly listeningMs: number | null;
}

/** Returns the outage of an operation; null if the hub was not stopped. */
export function toOutage({ stoppedMs, listeningMs }: ServiceReport): Outage | null {
  return stoppedMs === null ? null : { stoppedMs, listeningMs };
}

/**
 * Waits until the hub has opened the encrypted store with the passphrase from `run`.
 *
 * @throws {@link StoreError} service - if the hub ends, or has not opened the store in time
 */
export async function waitUntilServing(
  service: Service,
  storePath: string,
  hub: ServiceName,
): Promise<void> {
  const deadline = performance.now() + limitMs;
  while (!(await isHandedOver(storePath)) || !(await isHubServing(hub, storePath))) {
    await assertUp(service);
    if (performance.now() > deadline) {
      throw notServing(
        service,
        `runs, but did not open the encrypted store in ${limitMs / 1000} s`,
      );
    }
    await delay(pauseMs);
  }
}

/**
 * Waits until the hub listens on its ports again, for at most 30 s.
 *
 * A hub on a JSON database reads the file and closes it, so only its ports show that it works.
 *
 * @throws {@link StoreError} service - if the hub ends
 */
export async function watchUntilListening(service: Service, restart: Restart): Promise<void> {
  let isOver = false;
  const over = restart.listeningMs.finally(() => {
    isOver = true;
  });
  while (!isOver) {
    await Promise.race([over, delay(pauseMs)]);
    await assertUp(service);
  }
}

/** Returns whether the service runs for 10 s without a restart. */
export async function staysUp(service: Service): Promise<boolean> {
  const end = performance.now() + observationMs;
  const { invocation } = await service.state();
  for (;;) {
    const { active, restarting, ...state } = await service.state();
    if (!active || restarting || state.invocation !== invocation) return false;
    if (performance.now() > end) return true;
    await delay(pauseMs);
  }
}

/** @throws {@link StoreError} service - if the service has ended since it was started */
async function assertUp(service: Service): Promise<void> {
  const { active, restarting } = await service.state();
  if (!active || restarting) throw notServing(service, "started and ended again");
}

function notServing({ kind, name }: Service, what: string): StoreError {
  const hint =
    name !== null && kind !== "command" && kind !== "none"
      ? `Run ${logLine({ manager: kind, name })} to see why, then run setup again.`
      : undefined;
  return new StoreError("service", `${name ?? "the hub"} ${what}`, { hint });
}

/** Returns the command that starts or restarts a unit or a container. */
export function serviceLine(service: ServiceName, verb: "start" | "restart"): string {
  const { name } = service;
  return isUnit(service)
    ? systemctlLine(service.manager, `${verb} ${name}`)
    : `${service.manager} ${verb} ${name}`;
}

/** Returns the command that prints the log of a unit or a container. */
export function logLine(service: ServiceName): string {
  return isUnit(service) ? journalctlLine(service) : `${service.manager} logs ${service.name}`;
}
