/**
 * `decrypt`: the way back to a plaintext store.
 *
 *   decrypt(options: DecryptOptions): Promise<DecryptResult>
 *
 * The passphrase stays in the keyring as a previous one, for the backups that are under it.
 */
import { StoreError } from "../errors.js";
import { findPasswordDelivery, type PasswordDelivery } from "../hub/password-delivery.js";
import { adoptPending, planRotation } from "../keys/rotation-plan.js";
import { unlock } from "../keys/unlock.js";
import { resolveService, type ServiceReport } from "../operation/downtime.js";
import { assertExportable } from "../store/export.js";
import type { OperationOptions } from "./options.js";
import { convert, stagePlaintext } from "./prepare.js";
import { swap } from "./swap.js";

export type DecryptOptions = OperationOptions;

export interface DecryptResult {
  readonly decrypted: {
    readonly path: string;
    readonly previous_key_id: string;
    /** Whether the passphrase was taken out of the hub's `server.json`. */
    readonly hub: PasswordDelivery["how"];
  };
  readonly service: ServiceReport;
}

/**
 * Decrypts the store, after asking twice.
 *
 * @throws StoreError `refused` if the answer is no, or if the unit starts the hub by `run`, which needs an encrypted
 *   store; what `unlock`, `knowService` and `swap` throw.
 */
export async function decrypt(options: DecryptOptions): Promise<DecryptResult> {
  const { lock, source, reporter, signal } = options;
  const { storePath } = lock;
  const opened = await unlock(storePath, source, { mode: "readwrite" });
  try {
    await assertExportable(opened.connection);
  } finally {
    await opened.connection.close();
  }
  const service = await resolveService(options.service, reporter);
  const delivery = await findPasswordDelivery(service, options.hub);
  if (delivery.how === "run") {
    const name = service.service.name ?? "the hub";
    throw new StoreError("refused", `${name} is started by run, which needs an encrypted store`, {
      hint: "let its unit start the hub itself (ExecStart=hivemind-core listen, then systemctl daemon-reload)",
    });
  }
  await reporter.confirm(
    `Store every client's keys in plain text, in ${storePath}, where whoever reads the disk reads them?`,
  );
  await reporter.confirm(
    "Once more: backups of the disk made from now on will have them in plain text too. Decrypt?",
  );
  await adoptPending(storePath, opened.generation, reporter);
  const keyring = await planRotation(storePath, source, undefined, opened, true);
  if (delivery.how === "server.json") {
    reporter.notice(`the password in ${delivery.path} is taken out: the hub needs none any more`);
  }
  const outcome = await swap({
    ...options,
    operation: "decrypt",
    service,
    passphrase: undefined,
    keyring,
    replaced: { state: "open", secret: opened.key },
    sources: { from: source, to: source },
    serverJson: delivery.how === "server.json" ? { path: delivery.path, remove: true } : undefined,
    stage: stagePlaintext,
    fill: (staged, _key, held) => convert(held, staged, undefined, signal),
  });
  return {
    decrypted: { path: storePath, previous_key_id: opened.keyId, hub: delivery.how },
    service: outcome.service,
  };
}
