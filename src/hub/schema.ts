/**
 * Finds out whether the hub supports the newest schema. A hub that does not would ignore every
 * blacklist of a store that has it.
 */

import type { ResolvedService } from "../operation/service.js";
import { newestSchema } from "../store/schema.js";
import { askHub, findHubPython } from "./interpreter.js";
import { unitCommand } from "./password-delivery.js";

export interface HubSchema {
  /** The version of hivemind-plugin-manager; null if it is not installed. */
  readonly pluginManager: string | null;
  readonly schemaVersion: number;
  /** Why the hub must not get a store of the newest schema; undefined if it supports the schema. */
  readonly objection: string | undefined;
}

/**
 * Asks the hub of the service, or the hub on PATH.
 *
 * @param hubPython - the hub's Python, if known
 * @returns undefined if there is no hub
 * @throws {@link StoreError} usage - `hubPython` cannot be executed; failed - it does not answer
 */
export async function hubSchema(
  service: ResolvedService,
  hubPython?: string,
): Promise<HubSchema | undefined> {
  const words = await unitCommand(service);
  const python = await findHubPython({ hubPython, ...(words.length > 0 && { words }) });
  if (python === undefined) return undefined;
  const { pluginManager, schemaVersion } = await askHub(python);
  const known = schemaVersion ?? 0;
  const objection =
    known >= newestSchema
      ? undefined
      : `the hub here (hivemind-plugin-manager ${pluginManager ?? "absent"}, in ${python[0]}) knows no schema ${newestSchema}: under it, every blacklist would be switched off`;
  return { pluginManager, schemaVersion: known, objection };
}
