/** Which service belongs to the store. */
import { StoreError } from "../errors.js";
import type { Service, ServiceKind } from "./service.js";

export interface ServiceChoice {
  readonly service: "auto" | ServiceKind;
  /** The unit (systemd) or label (launchd). */
  readonly unit: string;
  /** Commands for the shell; given with `auto`, they are what is used. */
  readonly stopCommand?: string | undefined;
  readonly startCommand?: string | undefined;
  /** The store's resolved path. */
  readonly storePath: string;
}

/**
 * Picks the service. `auto` is: the operator's own commands if given, else the user's unit, else the system's unit, else
 * none if nobody holds the store open.
 *
 * @throws StoreError `usage` for commands that are missing or not a pair, or a unit name that is none; `inUse` if no
 *   unit was found and somebody holds the store open; `service` if the manager asked for does not answer.
 */
export async function selectService(_choice: ServiceChoice): Promise<Service> {
  throw new StoreError("service", "not yet");
}
