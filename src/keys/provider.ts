/** The programs that serve the Secret Service. */
import { readFile, readlink } from "node:fs/promises";

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
export async function providerOfProcess(pid: number): Promise<Provider> {
  const name = await readFile(`/proc/${pid}/comm`, "utf8").catch(() => "");
  const known = knownProcesses.find(([pattern]) => pattern.test(name));
  if (known === undefined) return unknownProvider;
  const program = await readlink(`/proc/${pid}/exe`).catch(() => undefined);
  return { ...known[1], pid, program };
}
