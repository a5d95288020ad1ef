/** Parses the targets of copies, and refuses to put bundles next to backups. */
import { assertPlacement } from "../bundle/placement.js";
import { expandPath, isRemote } from "../config/paths.js";
import { StoreError } from "../errors.js";
import { DirectoryTarget } from "./directory.js";
import { RemoteTarget } from "./remote.js";
import type { Location, Target } from "./target.js";

export interface CopyDestinations {
  /** The directory of the backups. */
  readonly to: string;
  /** The directory of the bundles. */
  readonly bundleTo: string;
  /** Targets of backups, as in the settings. */
  readonly copies: readonly string[];
  /** Targets of bundles. */
  readonly bundleCopies: readonly string[];
}

export interface CopyTargets {
  readonly backupTargets: readonly Target[];
  readonly bundleTargets: readonly Target[];
}

/**
 * Returns the targets of copies. Contacts no remote.
 *
 * @throws {@link StoreError} usage - for a malformed target
 * @throws {@link StoreError} refused - if a target of bundles is, contains or is inside a target of
 *   backups
 */
export async function planCopies(destinations: CopyDestinations): Promise<CopyTargets> {
  const { to, bundleTo, copies, bundleCopies } = destinations;
  const backupTargets = [...new Set(copies)].map(parseTarget);
  const bundleTargets = [...new Set(bundleCopies)].map(parseTarget);
  await assertApart(
    [new DirectoryTarget(to), ...backupTargets],
    [new DirectoryTarget(bundleTo), ...bundleTargets],
    async ({ planned }) => planned,
  );
  assertElsewhere(backupTargets, to, "backups");
  assertElsewhere(bundleTargets, bundleTo, "bundles");
  return { backupTargets, bundleTargets };
}

/** @throws {@link StoreError} usage - for an empty or malformed text */
export function parseTarget(text: string): Target {
  if (isRemote(text)) return new RemoteTarget(text);
  if (text === "") throw new StoreError("usage", "the target of a copy is empty");
  return new DirectoryTarget(expandPath(text));
}

/**
 * Refuses a target of bundles equal to, above or below a target of backups.
 *
 * @param locate - returns where a target's files are; by default, after rclone has resolved aliases
 * @throws {@link StoreError} refused - for such a target
 */
export async function assertApart(
  backupTargets: readonly Target[],
  bundleTargets: readonly Target[],
  locate: (target: Target) => Promise<Location> = resolveLocation,
): Promise<void> {
  for (const backups of backupTargets) {
    for (const bundles of bundleTargets) {
      await assertLocations(await locate(backups), await locate(bundles));
    }
  }
}

/**
 * Returns the location that a remote resolves to: an alias may name the directory of the backups.
 * The planned location stands for that of an unreachable target: the copy fails later anyway.
 */
function resolveLocation(target: Target): Promise<Location> {
  return target.location().catch(() => target.planned);
}

async function assertLocations(backups: Location, bundles: Location): Promise<void> {
  if (backups.remote === null && bundles.remote === null) {
    await assertPlacement(backups.path, bundles.path);
    return;
  }
  if (backups.remote !== bundles.remote) return;
  const [inner, outer] = [bundles.path, backups.path].map((path) => path.replace(/\/?$/, "/"));
  const isApart = !inner?.startsWith(outer ?? "") && !outer?.startsWith(inner ?? "");
  if (isApart && bundles.path !== "" && backups.path !== "") return;
  throw new StoreError(
    "refused",
    `the target of bundles rclone:${bundles.remote}:${bundles.path} is, contains or is inside the target of backups rclone:${backups.remote}:${backups.path}`,
    { hint: "A bundle helps to open the backups. Keep it elsewhere: --copy-bundle-to TARGET" },
  );
}

/** @throws {@link StoreError} usage - if a copy would go to the directory of the original */
function assertElsewhere(targets: readonly Target[], directory: string, what: string): void {
  if (!targets.some(({ name }) => name === directory)) return;
  throw new StoreError("usage", `the copies of ${what} would go to ${directory} itself`, {
    hint: "Name another disk or a remote.",
  });
}
