/**
 * Finds settings that make a provider lock its keyring: after a time without use, or with the
 * screen.
 */
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { type Provider, readVariable } from "./provider.js";

export interface AutoLock {
  /** What the provider does, as the rest of a sentence that begins with its name. */
  readonly behaviour: string;
  /** The dialog and the setting that turn it off. */
  readonly fix: string;
}

interface Setting {
  readonly key: string;
  /** Whether the setting is on if the file does not contain the key. */
  readonly isOnByDefault: boolean;
  /** @param value - returns the value of another key */
  readonly behaviour: (value: (key: string) => string | undefined) => string;
  /** As the provider's dialog shows it. */
  readonly label: string;
}

interface Settings {
  /** The path below `$XDG_CONFIG_HOME`. */
  readonly file: string;
  readonly section: string;
  readonly dialog: string;
  readonly settings: readonly Setting[];
}

const kwallet: Settings = {
  file: "kwalletrc",
  section: "Wallet",
  dialog: "In System Settings, turn off KDE Wallet > Close Wallet",
  settings: [
    {
      key: "Close When Idle",
      isOnByDefault: false,
      behaviour: (value) =>
        `closes the wallet after ${value("Idle Timeout") ?? 10} minutes without use`,
      label: "When unused for",
    },
    {
      key: "Close on Screensaver",
      isOnByDefault: false,
      behaviour: () => "closes the wallet when the screen is locked",
      label: "When screensaver starts",
    },
  ],
};

const keepassxc: Settings = {
  file: "keepassxc/keepassxc.ini",
  section: "Security",
  dialog: "In KeePassXC, turn off Tools > Settings > Security > Timeouts",
  settings: [
    {
      key: "LockDatabaseIdle",
      isOnByDefault: false,
      behaviour: (value) =>
        `locks the database after ${value("LockDatabaseIdleSeconds") ?? 240} seconds without input`,
      label: "Lock databases after inactivity of",
    },
    {
      key: "LockDatabaseScreenLock",
      isOnByDefault: true,
      behaviour: () => "locks the database when the screen is locked",
      label: "Lock databases when session is locked or lid is closed",
    },
  ],
};

/** Returns the first setting that locks a provider, or undefined without such a setting. */
export async function findAutoLock(provider: Provider): Promise<AutoLock | undefined> {
  const settings = { kwallet, keepassxc }[provider.kind as "kwallet" | "keepassxc"];
  if (settings === undefined) return undefined;
  const text = await readSettings(provider, settings.file);
  if (text === undefined) return undefined;
  const value = (key: string) => readValue(text, settings.section, key);
  const isOn = ({ key, isOnByDefault }: Setting) =>
    (value(key) ?? String(isOnByDefault)) === "true";
  const found = settings.settings.find(isOn);
  if (found === undefined) return undefined;
  return { behaviour: found.behaviour(value), fix: `${settings.dialog} > ${found.label}` };
}

/**
 * Returns the text of a provider's settings file; empty if there is no such file. Returns undefined
 * if the provider's environment, which determines the directory, cannot be read.
 */
async function readSettings(provider: Provider, file: string): Promise<string | undefined> {
  const home = readVariable(provider, "HOME");
  const directory = readVariable(provider, "XDG_CONFIG_HOME") || (home && join(home, ".config"));
  if (!directory) return undefined;
  return await readFile(join(directory, file), "utf8").catch(() => "");
}

/** Returns a value of a file in the INI format, as KDE and Qt write it. */
function readValue(text: string, section: string, key: string): string | undefined {
  let current = "";
  let found: string | undefined;
  for (const line of text.split(/\r?\n/)) {
    current = /^\[(.*)\]$/.exec(line)?.[1] ?? current;
    const equals = line.indexOf("=");
    if (current === section && line.slice(0, equals).trim() === key) {
      found = line.slice(equals + 1).trim();
    }
  }
  return found;
}
