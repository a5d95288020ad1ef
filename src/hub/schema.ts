/**
 * Determines whether the hub supports the newest schema. An older hub would ignore every blacklist
 * in a store with that schema.
 */

import type { ResolvedService } from "../operation/service.js";
import { newestSchema } from "../store/schema.js";
import { askHub } from "./interpreter.js";
import { findServicePython, readServiceHub } from "./service-hub.js";

export interface HubSchema {
  /** The version of hivemind-plugin-manager; null if it is not installed. */
  readonly pluginManager: string | null;
  readonly schemaVersion: number;
  /** Why the hub must not get a store of the newest schema; undefined if the hub supports it. */
  readonly objection: string | undefined;
}

/**
 * Tests the hub of the service, or the hub on PATH.
 *
 * @param hubPython - the hub's Python, if known
 * @returns undefined if there is no hub
 * @throws {@link StoreError} usage - if `hubPython` cannot be executed
 * @throws {@link StoreError} failed - if the interpreter fails
 */
export async function hubSchema(
  service: ResolvedService,
  hubPython?: string,
): Promise<HubSchema | undefined> {
  const hub = await readServiceHub(service);
  const python = await findServicePython(hub, hubPython);
  if (python === undefined) return undefined;
  const { pluginManager, schemaVersion } = await askHub(python, hub.environment);
  const known = schemaVersion ?? 0;
  const objection =
    known >= newestSchema
      ? undefined
      : `the hub here (hivemind-plugin-manager ${pluginManager ?? "absent"}, in ${python[0]}) knows no schema ${newestSchema}: under it, every blacklist would be switched off`;
  return { pluginManager, schemaVersion: known, objection };
}
