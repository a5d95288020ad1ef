/** Converts a store that setup encrypted in place back to plain SQLite. */
import { withOperation } from "../recovery/recover.js";
import { type ServiceChoice, selectService } from "../service/select.js";
import { decrypt } from "../swap/decrypt.js";
import type { SetupRequest } from "./set-up.js";

/**
 * Decrypts the store. The operation stops and starts the hub itself; the drop-in stays, and `run`
 * starts the hub without a passphrase while the record says that setup or its undo is in progress.
 */
export async function decryptStore(request: SetupRequest, service: ServiceChoice): Promise<void> {
  const { storePath, source, recoveryCommand, signal } = request;
  // Setup has asked already.
  const reporter = { ...request.reporter, confirm: async () => undefined };
  await withOperation(storePath, reporter, (lock) =>
    decrypt({
      ...{ lock, source, service, hub: "none" },
      ...{ recoveryCommand, reporter, signal },
    }),
  );
}

/** Decrypts the store for a hub that does not work on the encrypted store, and starts the hub. */
export async function decryptForFailedHub(
  request: SetupRequest,
  choice: ServiceChoice,
): Promise<string> {
  await decryptStore(request, choice);
  // A unit that systemd gave up to restart did not run, so the operation has not started it.
  const service = await selectService(choice);
  if (!(await service.state()).active) await service.start([]);
  return `${request.storePath} is not encrypted again, and the hub uses it`;
}
