/** The options shared by all operations on the store's file or passphrase. */
import type { SettingsSection } from "../config/settings-file.js";
import type { HubChoice } from "../hub/password-delivery.js";
import type { PassphraseSource } from "../keys/source.js";
import type { OperationLock } from "../operation/lock.js";
import type { Reporter } from "../reporter.js";
import type { ServiceChoice } from "../service/select.js";

export interface OperationOptions {
  /** The store's operation lock, from `withOperation`. It names the store. */
  readonly lock: OperationLock;
  readonly source: PassphraseSource;
  /** The store's settings, which may name the passphrase source. */
  readonly settingsSection: SettingsSection;
  readonly service: ServiceChoice;
  /** `none` if no hub needs the passphrase. `auto` detects how the hub gets it. */
  readonly hub: HubChoice;
  /** The argument list of the recovery, for the restart timer. */
  readonly recoveryCommand: readonly string[];
  readonly reporter: Reporter;
  /** Interrupts the operation before the commit. */
  readonly signal: AbortSignal;
}

export interface BundleOptions {
  /** The directory for bundles. It must exist: if it is missing, its disk may not be mounted. */
  readonly bundleTo: string;
  /** The directory for backups, if known: it must be another directory. */
  readonly backupDirectory?: string | undefined;
  /** The store whose record of mounted disks applies; without it, the directory is not recorded. */
  readonly storePath?: string | undefined;
  /** The age recipients of the bundle. */
  readonly recipients: readonly string[];
}
