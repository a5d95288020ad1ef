/** The programs that serve the Secret Service. */
import { access, readFile, readlink } from "node:fs/promises";
import { isAbsolute, join } from "node:path";

export interface Provider {
  readonly kind: "gnome-keyring" | "keepassxc" | "kwallet" | "oo7" | "other";
  /** For messages. */
  readonly name: string;
  /** Undefined for a process of another PID namespace. */
  readonly pid?: number;
  /** The path of its program. */
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
  const name = await readFile(`/proc/${pid}/comm`, "utf8").catch(() => "");
  const known = knownProcesses.find(([pattern]) => pattern.test(name));
  if (known === undefined) return unknownProvider;
  return { ...known[1], pid, program: await findProgram(pid) };
}

/** Returns the path of a process's program; undefined if it is unknown. */
async function findProgram(pid: number): Promise<string | undefined> {
  // The link is unreadable if the program has a capability: oo7 may lock memory.
  const path = await readlink(`/proc/${pid}/exe`).catch(() => undefined);
  if (path !== undefined && !path.endsWith(" (deleted)")) return path;
  const [name = ""] = (await readFile(`/proc/${pid}/cmdline`, "utf8").catch(() => "")).split("\0");
  return isAbsolute(name) ? name : undefined;
}

/** Returns a function that returns a variable's value in a provider's environment, if readable. */
export async function readEnvironment({
  pid,
}: Provider): Promise<(name: string) => string | undefined> {
  const text = await readFile(`/proc/${pid}/environ`, "utf8").catch(() => "");
  const lines = text.split("\0");
  return (name) => lines.find((line) => line.startsWith(`${name}=`))?.slice(name.length + 1);
}

/**
 * Returns whether a provider is unlocked without its user when it starts. oo7 reads its password
 * from a systemd credential, if its unit has one.
 */
export async function unlocksItself(provider: Provider): Promise<boolean> {
  if (provider.kind !== "oo7") return false;
  const directory = (await readEnvironment(provider))("CREDENTIALS_DIRECTORY");
  if (!directory) return false;
  const credential = join(directory, "oo7.keyring-encryption-password");
  return await access(credential).then(
    () => true,
    () => false,
  );
}
