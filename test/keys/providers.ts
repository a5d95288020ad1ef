/** The programs that serve the Secret Service, each with its dialogs on a separate display. */
import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { access, mkdir, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { vi } from "vitest";
import { root } from "../built.js";
import { type Answer, Desktop } from "./desktop.js";
import { OwnBus } from "./own-keyring.js";

/** Of every keyring. */
export const password = "open sesame";
const gcrTitles = "Unlock|Authentication|gcr-prompter|Keyring";
export const oo7Program = `${root}.cache/oo7/bin/oo7-daemon`;

export interface RunningProvider extends AsyncDisposable {
  readonly bus: OwnBus;
  readonly desktop: Desktop;
  /** Locks everything, so that the next access shows a dialog. */
  lock(): Promise<void>;
}

export interface ProviderUnderTest {
  /** The product's own name. */
  readonly name: string;
  /** Allows the access in a dialog. */
  readonly allow: Answer;
  /** What the advice for a locked keyring contains. */
  readonly advice: string;
  /** When an access shows a dialog. */
  readonly asks: "each process" | "when locked" | "never";
  /** A program that starts each command, with its arguments. */
  readonly before?: readonly string[];
  start(): Promise<RunningProvider>;
}

export const dismiss: Answer = { key: "Escape" };

export const gnomeKeyring: ProviderUnderTest = {
  name: "gnome-keyring",
  advice: "gnome-keyring-daemon --replace --unlock",
  allow: { type: password, key: "Return" },
  asks: "when locked",
  start: () =>
    startOnDesktop(gcrTitles, [], async (bus) => {
      await addPrompter(bus);
      await bus.startKeyring(password);
      return { lock: () => bus.lock() };
    }),
};

/**
 * The settings of a user after enabling the Secret Service, with the default confirmation. The
 * database stays open while the screen is locked, which is not the default.
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
[Security]
LockDatabaseScreenLock=false
`;

/** A database with its root group exposed to the Secret Service. */
const keepassDatabase = `<?xml version="1.0" encoding="UTF-8"?>
<KeePassFile><Meta><DatabaseName>Passwords</DatabaseName><CustomData><Item>
<Key>FDO_SECRETS_EXPOSED_GROUP</Key><Value>{01010101-0101-0101-0101-010101010101}</Value>
</Item></CustomData></Meta>
<Root><Group><UUID>AQEBAQEBAQEBAQEBAQEBAQ==</UUID><Name>Root</Name></Group></Root></KeePassFile>
`;

export function keepassXC(options: { confirm: boolean; locked?: boolean }): ProviderUnderTest {
  return {
    name: "KeePassXC",
    advice: "Answer or close the dialogs of KeePassXC",
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
        await collectionIs(bus);
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

const kwalletSettings = `[Wallet]
Enabled=true
First Use=false
Default Wallet=kdewallet
Use One Wallet=true
Prompt on Open=false
[org.freedesktop.secrets]
apiEnabled=true
`;

/** @param options.isVisible - false for dialogs that are drawn on no display */
export function kwallet(options: { isVisible: boolean } = { isVisible: true }): ProviderUnderTest {
  return {
    name: "KWallet",
    advice: "only a login through PAM opens it (kwallet-pam)",
    allow: { type: password, key: "Return" },
    asks: "when locked",
    start: () => {
      const processes: ChildProcess[] = [];
      return startOnDesktop("KDE Wallet Service", processes, async (bus) => {
        await mkdir(join(bus.folder, ".config"), { recursive: true });
        await writeFile(join(bus.folder, ".config/kwalletrc"), kwalletSettings);
        const login = () => {
          const platform = options.isVisible ? "xcb" : "offscreen";
          const child = spawn("python3", [join(import.meta.dirname, "kwallet-login.py")], {
            env: { ...bus.environment, QT_QPA_PLATFORM: platform },
            stdio: ["pipe", "ignore", "ignore"],
          });
          child.stdin?.end(password);
          return child;
        };
        // The first login creates the wallet, and the second one serves it.
        const first = login();
        const wallet = join(bus.folder, ".local/share/kwalletd/kdewallet.kwl");
        await vi.waitFor(() => access(wallet), { timeout: 60_000, interval: 100 });
        first.kill();
        await once(first, "exit");
        processes.push(login());
        await collectionIs(bus);
        // KWallet refuses to lock a wallet that is locked.
        return { lock: () => bus.lock("kdewallet").catch(() => undefined) };
      });
    },
  };
}

/**
 * The crate oo7-daemon, as `scripts/setup --keyrings` builds it.
 *
 * oo7 shows its dialog only to a program of a graphical session. It asks logind, then reads
 * `DISPLAY` from the program's environment, then from the user's systemd manager (`session.rs`,
 * `SessionType::detect`). On this bus there is only the environment. oo7 drops its capabilities in
 * some of its threads, and the kernel shows such a thread the environment of no program with more
 * of them. So the command runs without capabilities, as every command of an ordinary user does.
 */
export const oo7: ProviderUnderTest = {
  name: "oo7",
  advice: `'${oo7Program}' --replace --login`,
  allow: { type: password, key: "Return" },
  asks: "when locked",
  before: ["setpriv", "--bounding-set=-all", "--inh-caps=-all"],
  start: () => {
    const processes: ChildProcess[] = [];
    return startOnDesktop(gcrTitles, processes, async (bus) => {
      await addPrompter(bus);
      const child = spawn(oo7Program, ["--login"], {
        env: bus.environment,
        stdio: ["pipe", "ignore", "ignore"],
      });
      child.stdin?.end(password);
      processes.push(child);
      await collectionIs(bus);
      return { lock: () => bus.lock() };
    });
  },
};

async function addPrompter(bus: OwnBus): Promise<void> {
  for (const name of ["SystemPrompter", "PrivatePrompter"]) {
    await bus.addService(`org.gnome.keyring.${name}`, "/usr/libexec/gcr-prompter");
  }
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

/** Waits until the provider has a default collection. */
async function collectionIs(bus: OwnBus): Promise<void> {
  await vi.waitFor(
    async () => {
      const alias = await bus.shell(
        "busctl --user call org.freedesktop.secrets /org/freedesktop/secrets org.freedesktop.Secret.Service ReadAlias s default",
      );
      if (!alias.includes("/collection/")) throw new Error(`no collection yet: ${alias}`);
    },
    { timeout: 60_000, interval: 200 },
  );
}
