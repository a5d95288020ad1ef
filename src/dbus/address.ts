/** D-Bus server addresses. See the D-Bus specification, "Server Addresses". */
import { isUtf8 } from "node:buffer";
import type { Environment } from "../config/paths.js";

/**
 * The usable sockets, as arguments of `net.connect`, and the reasons why other addresses are
 * unusable.
 */
export interface BusAddresses {
  readonly sockets: readonly string[];
  readonly unusable: readonly string[];
}

/**
 * Returns the addresses of the session bus, in the order in which to try them.
 *
 * Without DBUS_SESSION_BUS_ADDRESS, or if it is empty, this is the bus of systemd's user manager.
 * `autolaunch:` counts as unusable, because it would start a new bus, without the user's keyring.
 */
export function sessionBusAddresses(environment: Environment): BusAddresses {
  const addresses = environment.DBUS_SESSION_BUS_ADDRESS;
  if (addresses) return parseAddresses(addresses, environment);
  const directory = environment.XDG_RUNTIME_DIR;
  if (directory) return { sockets: [`${directory}/bus`], unusable: [] };
  return {
    sockets: [],
    unusable: ["neither DBUS_SESSION_BUS_ADDRESS nor XDG_RUNTIME_DIR is set"],
  };
}

function parseAddresses(text: string, environment: Environment): BusAddresses {
  const sockets: string[] = [];
  const unusable: string[] = [];
  for (const address of text.split(";").filter((part) => part !== "")) {
    const parsed = parseAddress(address, environment);
    if ("socket" in parsed) sockets.push(parsed.socket);
    else unusable.push(`${address}: ${parsed.problem}`);
  }
  if (sockets.length + unusable.length === 0) unusable.push(`${text}: not an address`);
  return { sockets, unusable };
}

function parseAddress(
  address: string,
  environment: Environment,
): { socket: string } | { problem: string } {
  const colon = address.indexOf(":");
  const transport = address.slice(0, colon);
  if (colon === -1) return { problem: "not an address" };
  if (transport !== "unix") return { problem: `unsupported transport ${transport}` };
  const values = new Map<string, string>();
  for (const pair of address.slice(colon + 1).split(",")) {
    const equals = pair.indexOf("=");
    const value = unescapeValue(pair.slice(equals + 1));
    if (equals < 1) return { problem: "not an address" };
    if (value === undefined) return { problem: "invalid %-escape, or not UTF-8" };
    values.set(pair.slice(0, equals), value);
  }
  const path = values.get("path");
  if (path) return { socket: path };
  const name = values.get("abstract");
  if (name) return { socket: `\0${name}` };
  const directory = environment.XDG_RUNTIME_DIR;
  if (values.get("runtime") === "yes" && directory) return { socket: `${directory}/bus` };
  return { problem: "no socket path" };
}

/** Returns undefined for an invalid escape and for bytes unusable in `net.connect`. */
function unescapeValue(text: string): string | undefined {
  if (/%(?![0-9a-f]{2})/i.test(text)) return undefined;
  const parts = text.split(/%([0-9a-f]{2})/i);
  // The parts with an odd index are the matched digits.
  const bytes = Buffer.concat(
    parts.map((part, index) => Buffer.from(part, index % 2 === 1 ? "hex" : "utf8")),
  );
  return isUtf8(bytes) && !bytes.includes(0) ? bytes.toString("utf8") : undefined;
}
