/** The programs that serve the Secret Service, each with its dialogs on a display of its own. */
import { type ChildProcess, spawn } from "node:child_process";
import { mkdir, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { vi } from "vitest";
import { type Answer, Desktop } from "./desktop.js";
import { OwnBus } from "./own-keyring.js";

const password = "open sesame";

export interface RunningProvider extends AsyncDisposable {
  readonly bus: OwnBus;
  readonly desktop: Desktop;
  /** Locks everything, so that the next access shows a dialog. */
  lock(): Promise<void>;
}

export interface ProviderUnderTest {
  /** As the product calls it. */
  readonly name: string;
  /** Allows what a dialog asks for. */
  readonly allow: Answer;
  /** When an access shows a dialog. */
  readonly asks: "each process" | "when locked" | "never";
  start(): Promise<RunningProvider>;
}

export const dismiss: Answer = { key: "Escape" };

export const gnomeKeyring: ProviderUnderTest = {
  name: "gnome-keyring",
  allow: { type: password, key: "Return" },
  asks: "when locked",
  start: () =>
    startOnDesktop("Unlock|Authentication|gcr-prompter|Keyring", [], async (bus) => {
      await bus.addService("org.gnome.keyring.SystemPrompter", "/usr/libexec/gcr-prompter");
      await bus.addService("org.gnome.keyring.PrivatePrompter", "/usr/libexec/gcr-prompter");
      await bus.startKeyring(password);
      return { lock: () => bus.lock() };
    }),
};

/**
 * The settings that a user has after switching the Secret Service on; a confirmation is the
 * default.
 */
const keepassSettings = (confirm: boolean) => `[General]
ConfigVersion=2
UpdateCheckMessageShown=true
[GUI]
CheckForUpdates=false
[FdoSecrets]
Enabled=true
ConfirmAccessItem=${confirm}
ConfirmDeleteItem=${confirm}
ShowNotification=false
`;

/** A database whose root group is exposed to the Secret Service. */
const keepassDatabase = `<?xml version="1.0" encoding="UTF-8"?>
<KeePassFile><Meta><DatabaseName>Passwords</DatabaseName><CustomData><Item>
<Key>FDO_SECRETS_EXPOSED_GROUP</Key><Value>{01010101-0101-0101-0101-010101010101}</Value>
</Item></CustomData></Meta>
<Root><Group><UUID>AQEBAQEBAQEBAQEBAQEBAQ==</UUID><Name>Root</Name></Group></Root></KeePassFile>
`;

export function keepassXC(options: { confirm: boolean; locked?: boolean }): ProviderUnderTest {
  return {
    name: "KeePassXC",
    allow: options.locked ? { type: password, key: "Return" } : { key: "Return" },
    asks: options.confirm ? "each process" : "never",
    start: () => {
      const processes: ChildProcess[] = [];
      return startOnDesktop("Access Request|Unlock Database", processes, async (bus) => {
        await mkdir(join(bus.folder, ".config/keepassxc"), { recursive: true });
        const settings = join(bus.folder, ".config/keepassxc/keepassxc.ini");
        await writeFile(settings, keepassSettings(options.confirm));
        const xml = join(bus.folder, "database.xml");
        const database = join(bus.folder, "database.kdbx");
        await writeFile(xml, keepassDatabase);
        await bus.shell(
          `QT_QPA_PLATFORM=offscreen keepassxc-cli import -p '${xml}' '${database}'`,
          `${password}\n${password}\n`,
        );
        const args = options.locked ? [database] : ["--pw-stdin", database];
        const child = spawn("keepassxc", args, {
          env: bus.environment,
          stdio: ["pipe", "ignore", "ignore"],
        });
        child.stdin?.end(`${password}\n`);
        processes.push(child);
        await vi.waitFor(() => assertCollection(bus), { timeout: 60_000, interval: 200 });
        return {
          lock: async () => {
            await bus.shell(
              "busctl --user call org.freedesktop.secrets /org/freedesktop/secrets org.freedesktop.Secret.Service Lock ao 1 /org/freedesktop/secrets/aliases/default",
            );
          },
        };
      });
    },
  };
}

async function startOnDesktop(
  titles: string,
  processes: ChildProcess[],
  begin: (bus: OwnBus) => Promise<{ lock(): Promise<void> }>,
): Promise<RunningProvider> {
  const desktop = await Desktop.start();
  const bus = await OwnBus.start({ DISPLAY: desktop.display });
  desktop.watch(titles);
  const { lock } = await begin(bus);
  return {
    ...{ bus, desktop, lock },
    [Symbol.asyncDispose]: async () => {
      for (const child of processes) child.kill("SIGKILL");
      await bus[Symbol.asyncDispose]();
      await desktop[Symbol.asyncDispose]();
    },
  };
}

async function assertCollection(bus: OwnBus): Promise<void> {
  const alias = await bus.shell(
    "busctl --user call org.freedesktop.secrets /org/freedesktop/secrets org.freedesktop.Secret.Service ReadAlias s default",
  );
  if (!alias.includes("/collection/")) throw new Error(`no collection yet: ${alias}`);
}
