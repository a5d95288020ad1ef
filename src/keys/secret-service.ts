/**
 * Asks the session bus how the keyring is, and has it unlocked, before keytar goes there.
 *
 * keytar cannot tell a locked keyring from one without the entry (it answers "nothing" for both), crashes when it
 * lists a locked one, and blocks a thread for 25 s where nobody answers, or for as long as a prompt is open; until
 * that thread is free again the process cannot even exit. So this asks by itself, with a bound of its own (dbus.ts): is
 * there a bus, does anybody serve secrets on it, is the default collection locked, and will its owner unlock it. The
 * names are those of freedesktop.org's Secret Service API.
 */
import type { Environment } from "../config/paths.js";
import { Bus, BusError, type Reader } from "../dbus/client.js";

export type KeyringState =
  | { readonly state: "ready" | "locked" | "no-collection" }
  /** `detail` is what the system said. */
  | { readonly state: "no-bus" | "no-service" | "silent"; readonly detail: string };

/** How long somebody at a desktop has for typing the keyring's password. */
export const promptTimeoutMs = 60_000;

/** How often a search is tried that is answered by an error. */
const searchTries = 3;

const busName = "org.freedesktop.DBus";
const secretsName = "org.freedesktop.secrets";
const secretsPath = "/org/freedesktop/secrets";
const secretsService = "org.freedesktop.Secret.Service";

/**
 * How the keyring is, after its owner was asked to unlock it if it was locked. Without a desktop there is nobody to
 * ask, and it stays locked.
 *
 * @param options.unlock false to leave it as it is.
 */
export async function reachKeyring(
  environment: Environment = process.env,
  { unlock = true }: { readonly unlock?: boolean } = {},
): Promise<KeyringState> {
  const socket = socketOf(environment);
  if (socket === undefined) {
    const address = environment.DBUS_SESSION_BUS_ADDRESS;
    return {
      state: "no-bus",
      detail: address
        ? `DBUS_SESSION_BUS_ADDRESS is ${address}`
        : "neither DBUS_SESSION_BUS_ADDRESS nor XDG_RUNTIME_DIR is set",
    };
  }
  let bus: Bus;
  try {
    bus = await Bus.connect(socket);
  } catch (error) {
    return { state: "no-bus", detail: error instanceof Error ? error.message : String(error) };
  }
  try {
    return { state: await stateOfDefaultCollection(bus, unlock) };
  } catch (error) {
    if (error instanceof BusError) return { state: "no-service", detail: error.message };
    return { state: "silent", detail: error instanceof Error ? error.message : String(error) };
  } finally {
    bus.close();
  }
}

/**
 * The accounts under which a service keeps something, without what it keeps. (keytar's own list fetches every secret
 * after it has found the items, and crashes if another process deletes one in between.)
 */
export async function accountsOf(
  service: string,
  environment: Environment = process.env,
): Promise<string[]> {
  const socket = socketOf(environment);
  if (socket === undefined) throw new Error("DBUS_SESSION_BUS_ADDRESS is not set");
  const bus = await Bus.connect(socket);
  try {
    await bus.call(busName, "/org/freedesktop/DBus", busName, "Hello");
    const found = await searchItems(bus, service);
    const accounts: string[] = [];
    for (const item of [...found.strings(), ...found.strings()]) {
      const account = await accountOfItem(bus, item);
      if (account !== undefined) accounts.push(account);
    }
    return accounts;
  } finally {
    bus.close();
  }
}

/** gnome-keyring now and then answers, under load, that it has no such method, and a moment later that it has. */
async function searchItems(bus: Bus, service: string): Promise<Reader> {
  for (let more = searchTries - 1; ; more--) {
    try {
      return await bus.call(secretsName, secretsPath, secretsService, "SearchItems", { service });
    } catch (error) {
      if (more === 0 || !(error instanceof BusError)) throw error;
    }
  }
}

/** Undefined for an item that is gone meanwhile. */
async function accountOfItem(bus: Bus, item: string): Promise<string | undefined> {
  try {
    const attributes = await bus.call(
      secretsName,
      item,
      "org.freedesktop.DBus.Properties",
      "Get",
      "org.freedesktop.Secret.Item",
      "Attributes",
    );
    attributes.signature();
    return attributes.dictionary().get("account");
  } catch (error) {
    if (error instanceof BusError) return undefined;
    throw error;
  }
}

async function stateOfDefaultCollection(
  bus: Bus,
  unlock: boolean,
): Promise<"ready" | "locked" | "no-collection"> {
  await bus.call(busName, "/org/freedesktop/DBus", busName, "Hello");
  const alias = await bus.call(secretsName, secretsPath, secretsService, "ReadAlias", "default");
  const collection = alias.string();
  if (collection === "/") return "no-collection";
  if (!(await isLocked(bus, collection))) return "ready";
  if (!unlock) return "locked";
  const unlocked = await bus.call(secretsName, secretsPath, secretsService, "Unlock", [collection]);
  unlocked.strings();
  const prompt = unlocked.string();
  if (prompt !== "/") {
    await bus.call(secretsName, prompt, "org.freedesktop.Secret.Prompt", "Prompt", "");
    await bus.signal(prompt, "Completed", promptTimeoutMs);
  }
  return (await isLocked(bus, collection)) ? "locked" : "ready";
}

async function isLocked(bus: Bus, collection: string): Promise<boolean> {
  const locked = await bus.call(
    secretsName,
    collection,
    "org.freedesktop.DBus.Properties",
    "Get",
    "org.freedesktop.Secret.Collection",
    "Locked",
  );
  locked.signature();
  return locked.u32() === 1;
}

/**
 * The bus's socket: of the first `unix:` address, else the one systemd's user manager makes. (What `autolaunch:` and
 * X11 would start is a bus of its own, with a keyring that knows nothing.)
 */
function socketOf(environment: Environment): string | undefined {
  for (const address of (environment.DBUS_SESSION_BUS_ADDRESS ?? "").split(";")) {
    const path = /^unix:(?:.*,)?path=([^,]+)/.exec(address)?.[1];
    if (path !== undefined) return decodeURIComponent(path);
    const abstract = /^unix:(?:.*,)?abstract=([^,]+)/.exec(address)?.[1];
    if (abstract !== undefined) return `\0${decodeURIComponent(abstract)}`;
  }
  if (environment.DBUS_SESSION_BUS_ADDRESS) return undefined;
  return environment.XDG_RUNTIME_DIR ? `${environment.XDG_RUNTIME_DIR}/bus` : undefined;
}
