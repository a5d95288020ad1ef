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
 * The first Node.js version with abstract sockets. Earlier versions pad the name with NUL bytes.
 */
const abstractSocketVersion = [22, 12];

/**
 * Returns the addresses of the session bus, in the order in which to try them.
 *
 * Without DBUS_SESSION_BUS_ADDRESS, or if it is empty, this is the bus of systemd's user manager.
 * `autolaunch:` counts as unusable, because it would start a new bus, without the user's keyring.
 */
export function sessionBusAddresses(
  environment: Environment,
  nodeVersion = process.versions.node,
): BusAddresses {
  const addresses = environment.DBUS_SESSION_BUS_ADDRESS;
  if (addresses) return parseAddresses(addresses, environment, nodeVersion);
  const directory = environment.XDG_RUNTIME_DIR;
  if (directory) return { sockets: [`${directory}/bus`], unusable: [] };
  return {
    sockets: [],
    unusable: ["neither DBUS_SESSION_BUS_ADDRESS nor XDG_RUNTIME_DIR is set"],
  };
}

function parseAddresses(text: string, environment: Environment, nodeVersion: string): BusAddresses {
  const sockets: string[] = [];
  const unusable: string[] = [];
  for (const address of text.split(";").filter((part) => part !== "")) {
    const parsed = parseAddress(address, environment, nodeVersion);
    if ("socket" in parsed) sockets.push(parsed.socket);
    else unusable.push(`${address}: ${parsed.problem}`);
  }
  if (sockets.length + unusable.length === 0) unusable.push(`${text}: not an address`);
  return { sockets, unusable };
}

function parseAddress(
  address: string,
  environment: Environment,
  nodeVersion: string,
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
  if (name) return abstractSocket(name, nodeVersion);
  const directory = environment.XDG_RUNTIME_DIR;
  if (values.get("runtime") === "yes" && directory) return { socket: `${directory}/bus` };
  return { problem: "no socket path" };
}

function abstractSocket(
  name: string,
  nodeVersion: string,
): { socket: string } | { problem: string } {
  const [major = 0, minor = 0] = nodeVersion.split(".").map(Number);
  const [neededMajor = 0, neededMinor = 0] = abstractSocketVersion;
  if (major > neededMajor || (major === neededMajor && minor >= neededMinor)) {
    return { socket: `\0${name}` };
  }
  return {
    problem: `abstract sockets need Node.js ${abstractSocketVersion.join(".")} or later, and this is ${nodeVersion}`,
  };
}

/** Returns undefined for an invalid escape and for bytes unusable in `net.connect`. */
function unescapeValue(text: string): string | undefined {
  if (/%(?![0-9a-f]{2})/i.test(text)) return undefined;
  const bytes = Buffer.concat(
    text
      .split(/(%[0-9a-f]{2})/i)
      .map((part) =>
        /^%[0-9a-f]{2}$/i.test(part) ? Buffer.from(part.slice(1), "hex") : Buffer.from(part),
      ),
  );
  return isUtf8(bytes) && !bytes.includes(0) ? bytes.toString("utf8") : undefined;
}
