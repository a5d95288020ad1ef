/** The switch of the hub to the target of a migration. */
import type { Endpoint } from "../databases/plugin.js";
import { DatabaseFactory } from "../databases/registry.js";
import { isKind } from "../errors.js";
import { assertReplaceable } from "../fs/atomic.js";
import { readServerJson, serverJsonPath } from "../hub/server-json.js";
import { switchModule } from "../hub/server-json-edit.js";
import { assertHubCanSwitch } from "./hub-check.js";
import {
  assertNoOtherPassword,
  type HubDatabase,
  keepJsonPassword,
  resolveHubDatabase,
} from "./hub-database.js";
import { assertServedOrSwitchBack, type CopiedClients } from "./served.js";
import { assertUnchanged, checksumSource, removeSource } from "./source.js";

export interface SwitchOptions {
  readonly from: Endpoint;
  readonly to: Endpoint;
  /** `none` if no hub has to open the target. */
  readonly hub: "auto" | "none";
  readonly hubPython: string | undefined;
  readonly removeSource: boolean;
  readonly dryRun: boolean;
}

export interface SwitchOutcome {
  /** The path of the `server.json` that was changed to name the target; null without a switch. */
  readonly switched: string | null;
  /** The files of the source that were removed. */
  readonly removed: string[];
  /** Why the source was not removed although this was requested, and what to do. */
  readonly kept?: string;
}

export interface HubSwitch {
  readonly database: HubDatabase;
  readonly run: (copied: CopiedClients) => Promise<SwitchOutcome>;
}

/** Checks the requirements of the switch before anything is copied. */
export async function planSwitch(options: SwitchOptions): Promise<HubSwitch> {
  const { from, to, dryRun, hubPython } = options;
  const target = resolveHubDatabase(to);
  const found = await readServerJson(serverJsonPath());
  await assertNoOtherPassword(found, target, to);
  const database = keepJsonPassword(target, found);
  if (!dryRun) await assertReplaceable(found.file);
  const testedHubs =
    options.hub === "none"
      ? []
      : await assertHubCanSwitch({
          from,
          to,
          database,
          hubPython,
          removeSource: options.removeSource,
        });
  const sum = dryRun ? undefined : await checksumSource(from);
  const run = async (copied: CopiedClients): Promise<SwitchOutcome> => {
    const switched = found.path;
    const assertSourceUnchanged = () => assertUnchanged(from, sum);
    await assertSourceUnchanged();
    // A password may have been written during the copy.
    const before = await readServerJson(switched);
    await assertNoOtherPassword(before, database, to);
    await switchModule(switched, database.module, database.settings);
    if (!options.removeSource) return { switched, removed: [] };
    const target = { from, to, database, copied };
    await assertServedOrSwitchBack(testedHubs, target, before, assertSourceUnchanged);
    const kept = await findReasonToKeep(to, copied);
    if (kept !== undefined) return { switched, removed: [], kept };
    return { switched, removed: await removeSource(from, sum) };
  };
  return { database, run };
}

/** Returns why the source may have the only copy of a client; undefined if it has not. */
async function findReasonToKeep(to: Endpoint, copied: CopiedClients): Promise<string | undefined> {
  // A hub may have added such a client since an earlier attempt.
  if (copied.keptRevoked.length > 0) {
    return "it has clients that are revoked in the target. Remove it manually if they should be";
  }
  await using target = await DatabaseFactory.create(to.name, to.config, { mode: "readonly" });
  try {
    await target.persist?.();
    return undefined;
  } catch (error) {
    if (!isKind(error, "io")) throw error;
    return `after a power failure the target may lack clients: ${error.message}. Remove it manually when they are on the disk of the target`;
  }
}
