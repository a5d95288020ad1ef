/** Determines how the hub receives the store's passphrase, before the passphrase changes. */

import type { Environment } from "../config/paths.js";
import { StoreError } from "../errors.js";
import { lstatIfExists } from "../fs/read.js";
import type { ResolvedService } from "../operation/service.js";
import type { Reporter } from "../reporter.js";
import { namedStore, readServerJson, serverJsonPath } from "./server-json.js";
import { readServiceHub } from "./service-hub.js";

/** `auto` detects it; `none` is the operator's statement: no hub needs the passphrase. */
export type HubChoice = "auto" | "none";

export type PasswordDelivery =
  /** The unit starts the hub through `run`, which reads the passphrase itself. */
  | { readonly how: "run" }
  /** The hub reads the passphrase from `server.json`, where it is in plain text. */
  | { readonly how: "server.json"; readonly path: string }
  | { readonly how: "none" };

/**
 * Determines how the hub receives its passphrase now. Reads the `server.json` that the unit's hub
 * reads, which `Environment=` may move.
 *
 * @returns `none` if no hub is known here, or if the hub opens the store without a passphrase
 * @throws {@link StoreError} refused - if `server.json` cannot be parsed
 * @throws {@link StoreError} service - if the service manager does not respond
 */
export async function findPasswordDelivery(
  known: ResolvedService,
  hub: HubChoice,
): Promise<PasswordDelivery> {
  if (hub === "none") return { how: "none" };
  const service = await readServiceHub(known);
  if (startsByRun(service.args.join(" "))) return { how: "run" };
  const { path, environment } = await findServerJson(service.environment);
  try {
    const { storePath, passwordSet } = await namedStore(await readServerJson(path), environment);
    if (storePath === known.choice.storePath && passwordSet) return { how: "server.json", path };
  } catch (error) {
    if (!(error instanceof StoreError && error.kind === "notFound")) throw error;
  }
  return { how: "none" };
}

/**
 * Returns the `server.json` in a hub's environment; if this process finds none there, the
 * `server.json` of its own environment.
 */
export async function findServerJson(
  environment: Environment,
): Promise<{ path: string; environment: Environment }> {
  const path = serverJsonPath(environment);
  const found = await lstatIfExists(path).catch(() => undefined);
  return found ? { path, environment } : { path: serverJsonPath(), environment: process.env };
}

/**
 * Determines how the hub will receive a passphrase that changes or is needed for the first time.
 *
 * @throws {@link StoreError} refused - if the hub would not receive it
 * @throws {@link StoreError} service - if the service manager does not respond
 */
export async function resolvePasswordDelivery(
  known: ResolvedService,
  hub: HubChoice,
): Promise<PasswordDelivery> {
  const delivery = await findPasswordDelivery(known, hub);
  if (delivery.how !== "none" || hub === "none") return delivery;
  const name = known.service.name ?? "the hub";
  throw new StoreError("refused", `cannot determine how ${name} would get the new passphrase`, {
    hint:
      "Set ExecStart=hivemind-sqlcipher run -- hivemind-core listen in its unit, then run systemctl daemon-reload.\n" +
      "Or add --hub none if no hub uses this store, or if you will update its passphrase manually.",
  });
}

/**
 * Returns the password in `server.json` that a swap replaces, if the hub reads it there. Prints a
 * notice about it.
 */
export function passwordToReplace(
  delivery: PasswordDelivery,
  reporter: Pick<Reporter, "notice">,
): { path: string; remove: false } | undefined {
  if (delivery.how !== "server.json") return undefined;
  reporter.notice(`the plaintext password in ${delivery.path} is replaced as well`);
  return { path: delivery.path, remove: false };
}

/** Returns whether a unit's command line starts this program's `run`, by any path. */
export function startsByRun(commandLine: string): boolean {
  return /(?:^|[\s/=])(?:hivemind-sqlcipher(?:\.[cm]?js)?|cli\/main\.js)["']?(?:\s+\S+)*?\s+run(?:\s|$)/.test(
    commandLine,
  );
}
