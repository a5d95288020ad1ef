/**
 * Checks that a hub could start on an encrypted store, before an operation hands the store over.
 *
 * A plugin that ignores passwords, or an environment without SQLCipher, would leave a hub that does
 * not start on the new file. That would show only after the operation has stopped the hub.
 */
import type { Client } from "../client/client.js";
import { addHint, StoreError } from "../errors.js";
import type { ResolvedService } from "../operation/service.js";
import type { Reporter } from "../reporter.js";
import { runsHub } from "../service/hub-units.js";
import type { CipherCompatibility } from "../store/cipher.js";
import { describePython } from "./interpreter.js";
import { assertPackages, probeContainerPackages, uncheckedContainer } from "./packages.js";
import { probePackagesCached } from "./packages-cache.js";
import type { PasswordDelivery } from "./password-delivery.js";
import { assertBlacklistsKept } from "./schema.js";
import { findServicePython, readServiceHub } from "./service-hub.js";

/**
 * Checks the packages of the service's hub. Does nothing if no hub receives the passphrase.
 *
 * @param cipherCompatibility - the format of the store that the hub will open
 * @param clients - of the plain store to be encrypted; undefined if it is encrypted already
 * @throws {@link StoreError} refused - if the hub could not open the store, or would ignore a
 *   blacklist of `clients`
 * @throws {@link StoreError} failed - if the hub's interpreter fails outside a container
 */
export async function assertHubOpens(
  known: Pick<ResolvedService, "service" | "choice">,
  delivery: PasswordDelivery,
  cipherCompatibility: CipherCompatibility,
  reporter: Pick<Reporter, "notice">,
  clients?: AsyncIterable<Client>,
): Promise<void> {
  if (delivery.how === "none") return;
  const hub = await readServiceHub(known);
  const name = hub.container?.container.name ?? known.service.name;
  const python = await findServicePython(hub);
  if (python === undefined) {
    if (hub.container) reporter.notice(uncheckedContainer(name));
    if (runsHub(hub.command)) {
      reporter.notice(
        `cannot determine which Python runs the hub of ${name}: its SQLite plugin is not checked for encryption`,
      );
    }
    return;
  }
  const packages = hub.container
    ? await probeContainerPackages(python, name, reporter)
    : await probePackagesCached(python, hub);
  if (packages === undefined) return;
  const where = describePython(python);
  assertPackagesWithHint(packages, where, cipherCompatibility);
  if (clients) await assertBlacklistsKept(packages, where, clients);
}

/** Like `assertPackages`, with a hint for stores without a hub. */
function assertPackagesWithHint(...args: Parameters<typeof assertPackages>): void {
  try {
    assertPackages(...args);
  } catch (error) {
    if (!(error instanceof StoreError)) throw error;
    throw addHint(error, "Or add --hub none if no hub uses this store.");
  }
}
