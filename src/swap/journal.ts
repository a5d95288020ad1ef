/** The journal of a swap: its operations, steps and data. */
import { keyringPlanSchema } from "../keys/rotation-plan.js";
import { stoppedSchema } from "../operation/service.js";
import * as z from "../schema.js";

/** The operations on this engine: names of commands, and of operations in journals. */
export const swapOperations = ["encrypt", "decrypt", "rotate", "restore"] as const;

export type SwapOperation = (typeof swapOperations)[number];

/**
 * The steps of a swap, in their order. The journal has the step that may have begun. The step
 * channel reports every finished step with its operation: "rotate.staged".
 */
const swapSteps = [
  "copying", // journaled, by restore only
  "copied",
  "verified",
  "staging", // journaled
  "pending-kept",
  "staged",
  "bundling", // journaled
  "bundled",
  "current-kept",
  "prefilled",
  "stopping", // journaled
  "armed",
  "stopped",
  "held",
  "filled",
  "synced",
  "committing", // journaled
  "aside",
  "renamed",
  "server-json",
  "settings",
  "promoted",
  "starting", // journaled
  "started",
  "cleaning", // journaled
  "removed",
  "forgotten",
  "reverting", // journaled
  "put-back",
  "undone", // journaled
] as const;

export type SwapStep = (typeof swapSteps)[number];

/** A bundle in a journal. */
export const bundleJournalSchema = z.strictObject({
  folder: z.string(),
  key_id: z.string(),
  /**
   * Whether the operation created the bundle. If so, undoing the operation removes it. Early
   * journals named only created bundles, and did not have this field.
   */
  made: z._default(z.boolean(), true),
});

export type BundleJournal = z.infer<typeof bundleJournalSchema>;

export const swapJournalSchema = z.strictObject({
  /** The new file, before it gets the store's name. */
  staged: z.string(),
  /** The second name of the old file, from the commit on; null if there was no store. */
  aside: z.nullable(z.string()),
  /** Whether the old file stays after the swap. */
  keep_aside: z.boolean(),
  /** The changes of the keyring; absent if there are none. */
  keyring: z.optional(keyringPlanSchema),
  /** The passphrase source before and after the swap. */
  source: z.strictObject({ from: z.string(), to: z.string() }),
  /** The settings file, if its passphrase source changes. */
  settings: z.optional(z.string()),
  /**
   * `server.json`, if the hub reads the passphrase there. `remove`: whether the password is removed
   * instead of replaced. `previous`: where the keyring keeps the replaced password, after
   * `#previous:`, unless it is the current passphrase. `had_password`: whether the file had a
   * password; absent means yes. `original`: the hub's own file, if `path` is a copy in memory for a
   * container, and the owner of the copy.
   */
  server_json: z.optional(
    z.strictObject({
      path: z.string(),
      remove: z.boolean(),
      previous: z.optional(z.string()),
      had_password: z.optional(z.boolean()),
      original: z.optional(z.strictObject({ path: z.string(), uid: z.int(), gid: z.int() })),
    }),
  ),
  bundle: z.optional(bundleJournalSchema),
  /** The bundle of the replaced file. It stays, but a kill may leave a part of it. */
  replaced_bundle: z.optional(bundleJournalSchema),
  /** Present from before the service is stopped until it was seen to run again. */
  stopped: z.optional(stoppedSchema),
  /** The metadata of the new file at the commit. A write to the file changes them. */
  committed: z.optional(
    z.strictObject({
      inode: z.string(),
      size: z.string(),
      mtime_ns: z.string(),
      /** Null if the new file is not encrypted. Version 0.1.0 did not write it. */
      key_id: z.optional(z.nullable(z.string())),
    }),
  ),
});

export type SwapJournal = z.infer<typeof swapJournalSchema>;
