/** What the operations that replace the store's file, or change what opens it, are all given. */

import type { HubChoice } from "../hub/password-delivery.js";
import type { PassphraseSource } from "../keys/source.js";
import type { OperationLock } from "../operation/lock.js";
import type { Reporter } from "../reporter.js";
import type { ServiceChoice } from "../service/select.js";

export interface OperationOptions {
  /** The store's operation lock, taken and settled by `withOperation`. It names the store. */
  readonly lock: OperationLock;
  readonly source: PassphraseSource;
  readonly service: ServiceChoice;
  /** Whether a hub has to get the passphrase. */
  readonly hub: HubChoice;
  /**
   * A program and its arguments that settle what an interrupted operation of this store left. The dead-man timer runs it
   * before it starts the service again.
   */
  readonly recoveryCommand: readonly string[];
  readonly reporter: Reporter;
  /** Interrupts the operation, as long as the store is not replaced. */
  readonly signal: AbortSignal;
}

export interface BundleOptions {
  /** The folder for bundles; it must exist, since a missing one is most often a disk that is not mounted. */
  readonly bundleTo: string;
  /** Where backups go, if that is known: bundles lie apart from them. */
  readonly backupFolder?: string | undefined;
  /** age recipients of the bundle. */
  readonly recipients: readonly string[];
}

/** What `--json` says about a bundle. */
export interface BundleReport {
  readonly path: string;
  readonly key_id: string;
  readonly recipients: readonly string[];
}
