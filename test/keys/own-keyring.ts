/**
 * A session bus with a real gnome-keyring for a single test file, which may lock, stop and end them
 * without an effect on other tests. After `enter`, this process uses them; keytar keeps using its
 * first bus.
 */
import { type ChildProcess, execFile, spawn } from "node:child_process";
import { once } from "node:events";
import { mkdir, mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { promisify } from "node:util";
import { expect, vi } from "vitest";
import { Bus } from "../../src/dbus/client.js";
import { Variant } from "../../src/dbus/message.js";
import { inspectKeyring } from "../../src/keys/inspect.js";

const run = promisify(execFile);

/**
 * Returns a configuration that starts only the services in the directory, so that the bus has no
 * others.
 */
function busConfiguration(folder: string): string {
  return `<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig><type>session</type><listen>unix:path=${folder}/bus</listen>
<servicedir>${folder}/services</servicedir>
<policy context="default"><allow send_destination="*" eavesdrop="true"/><allow eavesdrop="true"/><allow own="*"/></policy></busconfig>`;
}

type KeyringState = "ready" | "locked" | "no collection" | "no keyring";

const problems: readonly [RegExp, KeyringState][] = [
  [/is locked/, "locked"],
  [/no default collection/, "no collection"],
  [/no keyring on/, "no keyring"],
];

async function stateOf(environment: Record<string, string>): Promise<KeyringState | string> {
  const { problem } = await inspectKeyring("/no/such/store", environment);
  if (problem === undefined) return "ready";
  return problems.find(([pattern]) => pattern.test(problem.message))?.[1] ?? problem.message;
}

export class OwnBus implements AsyncDisposable {
  private constructor(
    readonly folder: string,
    readonly environment: Record<string, string>,
    private readonly daemon: ChildProcess,
  ) {}

  /** @param variables - variables of every program on this bus, such as DISPLAY */
  static async start(variables: Record<string, string> = {}): Promise<OwnBus> {
    const folder = await mkdtemp(join(tmpdir(), "bus-"));
    await mkdir(join(folder, "services"));
    await mkdir(join(folder, ".local/share/keyrings"), { recursive: true });
    await writeFile(join(folder, "bus.conf"), busConfiguration(folder));
    const environment = {
      PATH: process.env.PATH ?? "/usr/bin:/bin",
      HOME: folder,
      XDG_RUNTIME_DIR: folder,
      DBUS_SESSION_BUS_ADDRESS: `unix:path=${folder}/bus`,
      ...variables,
    };
    const daemon = spawn(
      "dbus-daemon",
      [`--config-file=${folder}/bus.conf`, "--nofork", "--print-address"],
      { env: environment, stdio: ["ignore", "pipe", "ignore"] },
    );
    await once(daemon.stdout, "data");
    return new OwnBus(folder, environment, daemon);
  }

  /** Makes this bus's keyring the keyring of this process. */
  enter(): void {
    process.env.DBUS_SESSION_BUS_ADDRESS = this.environment.DBUS_SESSION_BUS_ADDRESS;
    process.env.XDG_RUNTIME_DIR = this.folder;
    // oo7 shows its dialog to programs of a graphical session only.
    if (this.environment.DISPLAY) process.env.DISPLAY = this.environment.DISPLAY;
  }

  /**
   * Lets the bus start a program when its name is needed. Must be called before the first use of
   * the name.
   */
  async addService(name: string, program: string): Promise<void> {
    const text = `[D-BUS Service]\nName=${name}\nExec=${program}\n`;
    await writeFile(join(this.folder, "services", `${name}.service`), text);
    await this.shell(
      "busctl --user call org.freedesktop.DBus /org/freedesktop/DBus org.freedesktop.DBus ReloadConfig",
    );
  }

  /**
   * Starts the daemon. With a password, creates or unlocks the default keyring; without, there is
   * no keyring.
   */
  async startKeyring(password?: string): Promise<void> {
    const how = password === undefined ? "--start" : "--unlock";
    await this.shell(`gnome-keyring-daemon ${how} --components=secrets`, password);
    await this.keyringIs(password === undefined ? "no collection" : "ready");
  }

  /** Waits for a state. gnome-keyring-daemon forks before it is on the bus. */
  async keyringIs(state: KeyringState): Promise<void> {
    const isReached = async () => expect(await stateOf(this.environment)).toBe(state);
    await vi.waitFor(isReached, { timeout: 60_000 });
  }

  /**
   * Runs a line of shell on this bus. Discards standard error, because programs that it leaves
   * running would die without it.
   */
  async shell(line: string, input = ""): Promise<string> {
    const running = run("bash", ["-c", `{ ${line}\n} 2>/dev/null`], { env: this.environment });
    // A line that ends without reading its input is no failure.
    running.child.stdin?.on("error", () => undefined).end(input);
    return (await running).stdout;
  }

  async lock(collection = "login"): Promise<void> {
    await this.shell(
      `busctl --user call org.freedesktop.secrets /org/freedesktop/secrets org.freedesktop.Secret.Service Lock ao 1 /org/freedesktop/secrets/collection/${collection}`,
    );
  }

  /** Tries again, because gnome-keyring once refused the call on a busy machine. */
  async setDefaultCollection(collection: string): Promise<void> {
    const setAlias = () =>
      this.shell(
        `busctl --user call org.freedesktop.secrets /org/freedesktop/secrets org.freedesktop.Secret.Service SetAlias so default /org/freedesktop/secrets/collection/${collection}`,
      );
    await vi.waitFor(setAlias, { timeout: 60_000 });
  }

  /** Creates a collection without a dialog, like gnome-keyring's own command-line tools. */
  async createCollection(label: string, password: string): Promise<void> {
    await using bus = await Bus.session(this.environment);
    const secrets = { destination: "org.freedesktop.secrets", path: "/org/freedesktop/secrets" };
    const [, session] = await bus.call(
      {
        ...{ ...secrets, interface: "org.freedesktop.Secret.Service", member: "OpenSession" },
        ...{ signature: "sv", args: ["plain", new Variant("s", "")] },
      },
      "vo",
    );
    const properties = new Map([
      ["org.freedesktop.Secret.Collection.Label", new Variant("s", label)],
    ]);
    const secret = [session, Buffer.alloc(0), Buffer.from(password), "text/plain"];
    await bus.call(
      {
        ...secrets,
        interface: "org.gnome.keyring.InternalUnsupportedGuiltRiddenInterface",
        member: "CreateWithMasterPassword",
        ...{ signature: "a{sv}(oayays)", args: [properties, secret] },
      },
      "o",
    );
  }

  /** Stores an entry of a store in a collection, as another program may. */
  async putEntry(account: string, secret: string, collection: string): Promise<void> {
    const path = `/org/freedesktop/secrets/collection/${collection}`;
    await this.shell(
      `secret-tool store --label=x --collection=${path} service hivemind-sqlcipher account '${account}' xdg:schema org.freedesktop.Secret.Generic`,
      secret,
    );
  }

  /** Sends a signal to the keyring's daemon. */
  async signalKeyring(signal: NodeJS.Signals): Promise<void> {
    const answer = await this.shell(
      "busctl --user call org.freedesktop.DBus /org/freedesktop/DBus org.freedesktop.DBus GetConnectionUnixProcessID s org.freedesktop.secrets",
    );
    const pid = /^u (\d+)$/m.exec(answer)?.[1];
    if (pid === undefined) throw new Error("there is no keyring on this bus");
    process.kill(Number(pid), signal);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    // The provider may have ended already.
    await this.signalKeyring("SIGKILL").catch(() => undefined);
    this.daemon.kill();
    await once(this.daemon, "exit");
    await rm(this.folder, { recursive: true, force: true });
  }
}
