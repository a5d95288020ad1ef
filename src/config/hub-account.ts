/**
 * The account of the hub, if it is not the account of this process: root works for the hub of a
 * system unit. The hub's files are then found by the environment of its unit, its Python runs as
 * its user, and the timers are system units.
 */
import type { Environment } from "./paths.js";

export interface HubAccount {
  readonly environment: Environment;
  readonly uid: number;
  readonly gid: number;
}

let account: HubAccount | undefined;

/** Lets this process work on the hub of an account, before it reads any file of the hub. */
export function workFor(hub: HubAccount): void {
  account = hub;
}

export function hubAccount(): HubAccount | undefined {
  return account;
}

/** Returns the environment of the hub, by default of this process. */
export function hubEnvironment(): Environment {
  return account?.environment ?? process.env;
}
