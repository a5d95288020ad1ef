/** Finds problems of the stores in a target that several hubs share, for `status --all`. */
import { isFromFuture } from "../backup/clock.js";
import type { FleetListing, FleetStore } from "../backup/fleet.js";

export interface StoreBackups extends FleetStore {
  /** The problem of the store's backups; null if they are recent and complete. */
  readonly problem: string | null;
}

export interface FleetStatus extends Omit<FleetListing, "stores"> {
  readonly maxAgeSeconds: number;
  /** In the order of the listing. */
  readonly stores: StoreBackups[];
  /** How many stores have a problem. */
  readonly problems: number;
  /** Whether there is a store, none has a problem, and every manifest can be read. */
  readonly ok: boolean;
}

/**
 * Judges a listing. Detects a hub that no longer backs up, but not a forged manifest: only
 * `verifyStores` authenticates manifests.
 *
 * @param maxAgeSeconds - how old the newest complete backup of a store may be
 */
export function judgeFleet(listing: FleetListing, maxAgeSeconds: number): FleetStatus {
  const stores = listing.stores.map((store) => ({
    ...store,
    problem: findProblem(store, maxAgeSeconds),
  }));
  const problems = stores.filter(({ problem }) => problem !== null).length;
  const { folder, others, othersCount, unreadableManifests } = listing;
  return {
    folder,
    maxAgeSeconds,
    stores,
    problems,
    others,
    othersCount,
    unreadableManifests,
    ok: stores.length > 0 && problems === 0 && unreadableManifests === 0,
  };
}

function findProblem(store: FleetStore, maxAgeSeconds: number): string | null {
  const { newest, newestCompleteAt, hostnames } = store;
  if (newestCompleteAt === null) return "no complete backup";
  const { createdAt } = newest;
  // If several machines made the backups, the longer tolerance applies.
  if (isFromFuture({ createdAt, hostname: hostnames.join() })) return "newest from the future";
  if (newestCompleteAt !== createdAt) return "newest incomplete";
  return newest.ageSeconds > maxAgeSeconds ? "overdue" : null;
}
