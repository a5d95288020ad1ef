/** The programs that serve the Secret Service. */
import { existsSync } from "node:fs";
import { readlink } from "node:fs/promises";
import { isAbsolute, join } from "node:path";
import { readProc } from "../process/proc.js";

export interface Provider {
  readonly kind: "gnome-keyring" | "keepassxc" | "kwallet" | "oo7" | "other";
  readonly name: string;
  /** Undefined for a process of another PID namespace. */
  readonly pid?: number;
  readonly program?: string | undefined;
}

/** The kernel's process names, cut off after 15 characters. */
const knownProcesses: readonly [RegExp, Provider][] = [
  [/^gnome-keyring-d/, { kind: "gnome-keyring", name: "gnome-keyring" }],
  [/^keepassxc/, { kind: "keepassxc", name: "KeePassXC" }],
  [/^(?:kwalletd|ksecretd)/, { kind: "kwallet", name: "KWallet" }],
  [/^oo7-daemon/, { kind: "oo7", name: "oo7" }],
];

export const unknownProvider: Provider = { kind: "other", name: "the keyring" };

/** Returns the provider of a process. A process in another PID namespace is unknown. */
export async function identifyProvider(pid: number): Promise<Provider> {
  const name = readProc(pid, "comm");
  const known = knownProcesses.find(([pattern]) => pattern.test(name));
  if (known === undefined) return unknownProvider;
  return { ...known[1], pid, program: await findProgram(pid) };
}

/** Returns the path of a process's program; undefined if it is unknown. */
async function findProgram(pid: number): Promise<string | undefined> {
  // The link is unreadable if the program has a capability: oo7 may lock memory.
  const path = await readlink(`/proc/${pid}/exe`).catch(() => undefined);
  if (path !== undefined && !path.endsWith(" (deleted)")) return path;
  const [name = ""] = readProc(pid, "cmdline").split("\0");
  return isAbsolute(name) ? name : undefined;
}

/** Returns a variable of a provider's environment; undefined if it is not set or not readable. */
export function readVariable({ pid = 0 }: Provider, name: string): string | undefined {
  const lines = readProc(pid, "environ").split("\0");
  return lines.find((line) => line.startsWith(`${name}=`))?.slice(name.length + 1);
}

/**
 * Returns whether a provider is unlocked without its user when it starts. oo7 reads its password
 * from a systemd credential, if its unit has one.
 */
export function unlocksItself(provider: Provider): boolean {
  if (provider.kind !== "oo7") return false;
  const directory = readVariable(provider, "CREDENTIALS_DIRECTORY");
  if (!directory) return false;
  return existsSync(join(directory, "oo7.keyring-encryption-password"));
}
