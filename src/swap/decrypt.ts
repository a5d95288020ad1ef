/** `decrypt`: converts an encrypted store back to plain SQLite. */
import { StoreError } from "../errors.js";
import { findPasswordDelivery, type PasswordDelivery } from "../hub/password-delivery.js";
import { adoptPending, planRotation } from "../keys/rotation-plan.js";
import { unlock } from "../keys/unlock.js";
import { resolveService, type ServiceReport } from "../operation/service.js";
import { assertExportable } from "../store/export.js";
import type { OperationOptions } from "./options.js";
import { convert, stagePlaintext } from "./prepare.js";
import { swap } from "./swap.js";

export interface DecryptOptions extends OperationOptions {
  /**
   * Removes the password from the copy of `server.json` that a container's hub reads. Without this
   * option, `decrypt` refuses the store of such a hub.
   */
  readonly clearsCopy?: boolean;
}

export interface DecryptResult {
  readonly decrypted: {
    readonly path: string;
    readonly previousKeyId: string;
    /** How the hub got the passphrase before. A password in `server.json` is removed. */
    readonly hub: PasswordDelivery["how"];
  };
  readonly service: ServiceReport;
}

/**
 * Decrypts the store, after two confirmations. If the source is the keyring, it keeps the
 * passphrase as a previous passphrase, for older backups.
 *
 * @throws {@link StoreError} refused - if the user declines, an export would lose something, or the
 *   unit starts the hub by `run`: it requires an encrypted store
 * @throws {@link StoreError} - what `unlock`, `resolveService` and `swap` throw
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
  const copy = options.clearsCopy && delivery.how === "run" ? delivery.copy : undefined;
  if (delivery.how === "run" && copy === undefined) {
    const name = service.service.name ?? "the hub";
    const systemctl = service.service.kind === "systemd-user" ? "systemctl --user" : "systemctl";
    throw new StoreError(
      "refused",
      `${name} is started by run, which requires an encrypted store`,
      {
        hint: delivery.copy
          ? `Create the container again without the mount of ${delivery.copy.path}.`
          : `Let its unit start the hub directly (ExecStart=hivemind-core listen), then run ${systemctl} daemon-reload.`,
      },
    );
  }
  await reporter.confirm(
    `Store the keys of all clients in plain text in ${storePath}, readable for anyone with access to the disk?`,
  );
  await reporter.confirm(
    "Backups of the disk will contain the keys in plain text, too. Decrypt the store?",
  );
  await adoptPending(storePath, opened.generation, reporter);
  const keyring = await planRotation(storePath, source, undefined, opened, true);
  if (delivery.how === "server.json") {
    reporter.notice(`removing the password from ${delivery.path}: the hub needs none any more`);
  }
  const passwordFile = delivery.how === "server.json" ? { path: delivery.path } : copy;
  const outcome = await swap({
    operation: "decrypt",
    lock,
    replaced: { state: "open", secret: opened.key },
    passphrase: undefined,
    sources: { from: source, to: source },
    keyring,
    serverJson: passwordFile && { ...passwordFile, remove: true },
    service,
    recoveryCommand: options.recoveryCommand,
    reporter,
    signal,
    stage: stagePlaintext,
    fill: (staged, _key, locked) => convert(locked, staged, undefined, signal),
  });
  return {
    decrypted: { path: storePath, previousKeyId: opened.keyId, hub: delivery.how },
    service: outcome.service,
  };
}
