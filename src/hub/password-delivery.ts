/** How the hub gets the store's passphrase, which must be known before the passphrase changes. */
import { StoreError } from "../errors.js";
import type { ResolvedService } from "../operation/service.js";
import type { Reporter } from "../reporter.js";
import { expandScripts } from "../service/hub-units.js";
import { defaultUnit } from "../service/service.js";
import { readCommands } from "../service/unit-commands.js";
import { namedStore, readServerJson, serverJsonPath } from "./server-json.js";

/** `auto` finds out; `none` is the operator's word that no hub needs to be told. */
export type HubChoice = "auto" | "none";

export type PasswordDelivery =
  /** The unit starts the hub by `run`, which asks for the passphrase itself. */
  | { readonly how: "run" }
  /** The hub reads it from `server.json`, where it stands in plain text. */
  | { readonly how: "server.json"; readonly path: string }
  | { readonly how: "none" };

/**
 * Finds out how the hub gets its passphrase now.
 *
 * @returns `none` if it gets none: there is no hub that is known here, or one that opens the store without.
 * @throws StoreError `refused` if `server.json` cannot be parsed, `service` if the manager does not answer.
 */
export async function findPasswordDelivery(
  known: ResolvedService,
  hub: HubChoice,
): Promise<PasswordDelivery> {
  if (hub === "none") return { how: "none" };
  if (startsByRun((await unitCommand(known)).join(" "))) return { how: "run" };
  const path = serverJsonPath();
  try {
    const { storePath, passwordSet } = await namedStore(await readServerJson(path));
    if (storePath === known.choice.storePath && passwordSet) return { how: "server.json", path };
  } catch (error) {
    if (!(error instanceof StoreError && error.kind === "notFound")) throw error;
  }
  return { how: "none" };
}

/**
 * The same for a passphrase that is about to change or to be needed for the first time.
 *
 * @throws StoreError `refused` if the hub would not get it.
 */
export async function resolvePasswordDelivery(
  known: ResolvedService,
  hub: HubChoice,
): Promise<PasswordDelivery> {
  const delivery = await findPasswordDelivery(known, hub);
  if (delivery.how !== "none" || hub === "none") return delivery;
  const name = known.service.name ?? "the hub";
  throw new StoreError("refused", `it is not known how ${name} would get the new passphrase`, {
    hint:
      "let its unit start it by: ExecStart=hivemind-sqlcipher run -- hivemind-core listen (then systemctl daemon-reload);\n" +
      "or say --hub none if no hub uses this store, or if you will tell it yourself",
  });
}

/** What a swap does to the password in `server.json`, if the hub reads it there: it is replaced, and that is said. */
export function passwordToReplace(
  delivery: PasswordDelivery,
  reporter: Pick<Reporter, "notice">,
): { path: string; remove: false } | undefined {
  if (delivery.how !== "server.json") return undefined;
  reporter.notice(`the password in ${delivery.path}, in plain text, is replaced as well`);
  return { path: delivery.path, remove: false };
}

/** Whether a unit's command line is this program's `run`, by whatever path it is started. */
export function startsByRun(commandLine: string): boolean {
  return /(?:^|[\s/=])(?:hivemind-sqlcipher(?:\.[cm]?js)?|cli\/main\.js)["']?(?:\s+\S+)*?\s+run(?:\s|$)/.test(
    commandLine,
  );
}

/**
 * Returns the arguments of the commands that start a unit, its preparations and wrapper scripts
 * included; none for a service that is not a unit.
 *
 * @throws {@link StoreError} service - if the manager does not respond
 */
export async function unitCommand({ service, choice }: ResolvedService): Promise<string[]> {
  if (service.kind !== "systemd" && service.kind !== "systemd-user") return [];
  const name = service.name ?? choice.unit ?? defaultUnit;
  return expandScripts(await readCommands({ manager: service.kind, name }));
}
