/** The request and the result of a swap. */
import type { Bundle } from "../bundle/bundle.js";
import type { KeyringPlan } from "../keys/rotation-plan.js";
import type { PassphraseSource } from "../keys/source.js";
import type { OperationLock } from "../operation/lock.js";
import type { ResolvedService, ServiceReport } from "../operation/service.js";
import type { Reporter } from "../reporter.js";
import type { Secret, StoreKey } from "../store/cipher.js";
import type { LockedStore } from "../store/locked-store.js";
import type { SwapJournal, SwapOperation } from "./journal.js";
import type { BundlePlan } from "./prepare.js";
import type { SwapState } from "./state.js";

/** The store before the swap. */
export type Replaced =
  | { readonly state: "open"; readonly secret: Secret }
  /** The file exists, but no kept passphrase opens it, or its clients cannot be read. */
  | { readonly state: "unopenable" }
  | { readonly state: "absent" };

/** What a swap changes, without the functions to create and fill the new file. */
export interface SwapPlan {
  readonly operation: SwapOperation;
  readonly lock: OperationLock;
  readonly replaced: Replaced;
  /** The size of the new file in bytes, if it may be larger than the replaced file. */
  readonly newBytes?: number | undefined;
  /** The path where the replaced file stays; without it the file is removed. */
  readonly keepReplacedAs?: string | undefined;
  /** The passphrase of the new file; undefined if it is not encrypted. */
  readonly passphrase: string | undefined;
  /** The passphrase source before and after the swap. */
  readonly sources: { readonly from: PassphraseSource; readonly to: PassphraseSource };
  readonly keyring?: KeyringPlan | undefined;
  /** The settings file, if its passphrase source changes. */
  readonly settings?: string | undefined;
  readonly serverJson?: SwapJournal["server_json"];
  /** The bundle for the new file, written while the file is staged. */
  readonly bundle?: BundlePlan | undefined;
  /** The passphrase and key of the replaced file, if `bundle.directory` must have its bundle. */
  readonly replacedBundle?: { readonly passphrase: string; readonly key: StoreKey } | undefined;
  /** The swap that `beginCopy` has begun. */
  readonly begun?: SwapState | undefined;
  readonly service: ResolvedService;
  /** The argument list of the recovery, for the restart timer. */
  readonly recoveryCommand: readonly string[];
  readonly reporter: Reporter;
  readonly signal: AbortSignal;
}

/**
 * @typeParam Key - of the new file: `undefined` if it is not encrypted
 * @typeParam Filled - what `fill` returns
 */
export interface SwapRequest<Key extends Secret, Filled> extends SwapPlan {
  /** Creates the staged file, mode 0600, while the service still runs. */
  readonly stage: (staged: string) => Promise<Key>;
  /** Fills the staged file as far as possible while the service still runs. */
  readonly prefill?: ((staged: string, key: Key) => Promise<void>) | undefined;
  /** Locks the replaced store; by default `LockedStore.lock` does. */
  readonly lockStore?: (() => Promise<LockedStore>) | undefined;
  /** Fills and verifies the staged file while the service is stopped. */
  readonly fill: (staged: string, key: Key, replaced: LockedStore | undefined) => Promise<Filled>;
}

export interface SwapOutcome<Key extends Secret, Filled> {
  readonly key: Key;
  readonly filled: Filled;
  readonly bundle: Bundle | undefined;
  readonly service: ServiceReport;
}
