/**
 * Whether the hub here knows the newest schema: under one that does not, every blacklist of a store that has it is
 * switched off.
 */

import type { ResolvedService } from "../operation/downtime.js";
import { newestSchema } from "../store/schema.js";
import { askHub, findHubPython } from "./interpreter.js";
import { unitCommand } from "./password-delivery.js";

export interface HubSchema {
  /** The version of hivemind-plugin-manager; null if it is not installed. */
  readonly pluginManager: string | null;
  readonly schemaVersion: number;
  /** In words, why it is not to be given a store of the newest schema; undefined if it knows that. */
  readonly objection: string | undefined;
}

/**
 * Asks the hub that the service starts, or the one on PATH.
 *
 * @param hubPython the Python that has it, where that is known.
 * @returns undefined if no hub was found.
 * @throws StoreError `usage` if `hubPython` cannot be executed, `failed` if it does not answer.
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
