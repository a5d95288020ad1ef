/** Whether the hub on this machine can open the store, as what, and with which secret lying where. */
import { stat } from "node:fs/promises";
import { StoreError } from "../errors.js";
import { askHub, cipherFormat, findHubPython } from "../hub/interpreter.js";
import { unitCommand } from "../hub/password-delivery.js";
import { namedStore, readServerJson, serverJsonPath, sqliteModule } from "../hub/server-json.js";
import type { ServiceChoice } from "../service/select.js";
import type { Service } from "../service/service.js";
import type { CipherCompatibility } from "../store/cipher.js";
import { shellQuote } from "../text/escape.js";
import { type Check, finding, good } from "./check.js";

/** What must be known of the store to compare the hub with it. */
export interface StoreFacts {
  readonly cipherCompatibility: CipherCompatibility;
  readonly schemaVersion: number;
}

const newerPlugin = "in the hub's Python: pip install -U hivemind-sqlite-database sqlcipher3";

/** Tries the hub's packages, in a home of their own. @param store undefined if it could not be opened. */
export async function checkHub(options: {
  service: Service | undefined;
  choice: ServiceChoice;
  hubPython?: string | undefined;
  store: StoreFacts | undefined;
}): Promise<Check[]> {
  const { service, choice, hubPython, store } = options;
  const words = service ? await unitCommand({ service, choice, wasActive: false }) : [];
  const python = await findHubPython({ hubPython, ...(words.length > 0 && { words }) });
  if (python === undefined) {
    return [good("hub", "there is no hivemind-core here (--hub-python names its Python)")];
  }
  const hub = await askHub(python);
  const named = `hivemind-sqlite-database ${hub.sqlitePlugin ?? "is not installed"} in ${python[0]}`;
  if (!hub.takesPassword) {
    const why = hub.problem ?? "it takes a password, ignores it, and writes plain text";
    return [finding("hub", "error", `${named} cannot use an encrypted store: ${why}`, newerPlugin)];
  }
  const found: Check[] = [];
  const hubFormat = cipherFormat(hub);
  if (store && hubFormat !== store.cipherCompatibility) {
    found.push(
      finding(
        "hub",
        "error",
        `the hub's SQLCipher (${hub.cipherVersion ?? "of an unknown version"}) reads format ${hubFormat}, and the store has format ${store.cipherCompatibility}`,
        hubFormat < store.cipherCompatibility
          ? newerPlugin
          : `hivemind-sqlcipher encrypt --cipher-compatibility ${hubFormat}`,
      ),
    );
  }
  if (store && store.schemaVersion >= 2 && (hub.schemaVersion ?? 0) < store.schemaVersion) {
    found.push(
      finding(
        "hub",
        "error",
        `the store has schema ${store.schemaVersion}, which this hub (hivemind-plugin-manager ${hub.pluginManager}) does not know: it enforces no blacklist`,
        "in the hub's Python: pip install -U --pre hivemind-plugin-manager hivemind-sqlite-database",
      ),
    );
  }
  if (found.length > 0) return found;
  return [good("hub", `${named} opens encrypted stores, with SQLCipher ${hub.cipherVersion}`)];
}

/** Looks at `server.json`: whether the hub uses this store, and whether a password stands there. */
export async function checkServerJson(storePath: string): Promise<Check[]> {
  const path = serverJsonPath();
  let file: Awaited<ReturnType<typeof readServerJson>>;
  try {
    file = await readServerJson(path);
  } catch (error) {
    if (!(error instanceof StoreError)) throw error;
    if (error.kind === "notFound") {
      return [good("server.json", `there is none at ${path}: no hub has run here`)];
    }
    return [finding("server.json", "error", error.message, error.hint ?? "mend the file")];
  }
  const { module, storePath: named, passwordSet } = await namedStore(file);
  const found: Check[] = [];
  if (module !== sqliteModule) {
    const other = module === undefined ? "its default, the JSON store" : module;
    found.push(
      finding(
        "server.json",
        "warning",
        `${path} makes the hub use ${other}, not this store`,
        `"database": {"module": "${sqliteModule}"} in that file`,
      ),
    );
  } else if (named !== storePath) {
    found.push(
      finding(
        "server.json",
        "warning",
        `${path} makes the hub use ${named ?? "no file"}, not ${storePath}`,
        "correct name and subfolder there, or name the hub's store: --db PATH",
      ),
    );
  }
  if (passwordSet) {
    const { mode } = await stat(file.file);
    const open = (mode & 0o077) !== 0;
    found.push(
      finding(
        "password",
        open ? "error" : "warning",
        `the passphrase stands in ${path} in plain text${open ? ", and others can read it" : ""}`,
        `${open ? `chmod 600 ${shellQuote(file.file)}; ` : ""}let the hub's unit start it by: hivemind-sqlcipher run -- hivemind-core listen; then take "password" out, and rotate`,
      ),
    );
  }
  if (found.length > 0) return found;
  return [good("server.json", "the hub uses this store, and no password stands there")];
}
