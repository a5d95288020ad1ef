/** The programs that serve the Secret Service, each with its dialogs on a display of its own. */
import { type ChildProcess, execFile, spawn } from "node:child_process";
import { mkdir, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { promisify } from "node:util";
import { vi } from "vitest";
import { type Answer, Desktop } from "./desktop.js";
import { OwnBus } from "./own-keyring.js";

const run = promisify(execFile);
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

/** The settings that a user has after switching the Secret Service on; a confirmation is the default. */
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

/** Built from its crate by scripts/prove; `OO7_DAEMON` is its path. */
export const oo7: ProviderUnderTest = {
  name: "oo7",
  allow: { type: password, key: "Return" },
  asks: "when locked",
  start: () => {
    const processes: ChildProcess[] = [];
    return startOnDesktop("Unlock|Authentication|gcr-prompter|Keyring", processes, async (bus) => {
      await bus.addService("org.gnome.keyring.SystemPrompter", "/usr/libexec/gcr-prompter");
      const child = spawn(process.env.OO7_DAEMON ?? "oo7-daemon", ["--login"], {
        env: bus.environment,
        stdio: ["pipe", "ignore", "ignore"],
      });
      child.stdin?.end(password);
      processes.push(child);
      await vi.waitFor(() => assertCollection(bus), { timeout: 30_000, interval: 200 });
      return { lock: () => bus.lock("login") };
    });
  },
};

export const kwallet: ProviderUnderTest = {
  name: "KWallet",
  allow: { type: password, key: "Return" },
  asks: "when locked",
  start: () => {
    const processes: ChildProcess[] = [];
    return startOnDesktop("KDE Wallet|KWallet|Wallet", processes, async (bus, desktop) => {
      await mkdir(join(bus.folder, ".config"), { recursive: true });
      await writeFile(
        join(bus.folder, ".config/kwalletrc"),
        "[Wallet]\nEnabled=true\nFirst Use=false\nPrompt on Open=false\nUse One Wallet=true\nDefault Wallet=kdewallet\n[org.freedesktop.secrets]\napiEnabled=true\n",
      );
      const child = spawn("kwalletd5", [], {
        env: { ...bus.environment, QT_QPA_PLATFORM: "xcb" },
        stdio: "ignore",
      });
      processes.push(child);
      // A new wallet: its password twice.
      desktop.answer({ type: `${password}\t${password}`, key: "Return" });
      await vi.waitFor(() => assertName(bus), { timeout: 30_000, interval: 200 });
      await bus.shell(
        "busctl --user call org.kde.kwalletd5 /modules/kwalletd5 org.kde.KWallet open sxs kdewallet 0 test",
      );
      await vi.waitFor(() => assertCollection(bus), { timeout: 30_000, interval: 200 });
      return {
        lock: async () => {
          await bus.shell(
            "busctl --user call org.kde.kwalletd5 /modules/kwalletd5 org.kde.KWallet closeAllWallets",
          );
        },
      };
    });
  },
};

async function startOnDesktop(
  titles: string,
  processes: ChildProcess[],
  begin: (bus: OwnBus, desktop: Desktop) => Promise<{ lock(): Promise<void> }>,
): Promise<RunningProvider> {
  const desktop = await Desktop.start();
  const bus = await OwnBus.start({ DISPLAY: desktop.display });
  desktop.watch(titles);
  const { lock } = await begin(bus, desktop);
  return {
    ...{ bus, desktop, lock },
    [Symbol.asyncDispose]: async () => {
      for (const child of processes) child.kill("SIGKILL");
      await bus[Symbol.asyncDispose]();
      await desktop[Symbol.asyncDispose]();
    },
  };
}

async function assertName(bus: OwnBus): Promise<void> {
  const status = "busctl --user status org.freedesktop.secrets >&2";
  await run("bash", ["-c", status], { env: bus.environment });
}

async function assertCollection(bus: OwnBus): Promise<void> {
  const alias = await bus.shell(
    "busctl --user call org.freedesktop.secrets /org/freedesktop/secrets org.freedesktop.Secret.Service ReadAlias s default",
  );
  if (!alias.includes("/collection/")) throw new Error(`no collection yet: ${alias}`);
}
