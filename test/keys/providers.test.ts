/**
 * The life of a store with each provider of the Secret Service, and its dialogs: answered late,
 * dismissed, left alone.
 */
import { spawn } from "node:child_process";
import { once } from "node:events";
import { mkdir, readdir, readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { setTimeout as delay } from "node:timers/promises";
import { afterAll, beforeAll, beforeEach, describe, expect, test, vi } from "vitest";
import { type Answer, Machine } from "../cli/machine.js";
import { hubScript, plugin } from "../hub/support.js";
import { proving } from "../prove-report.js";
import {
  dismiss,
  gnomeKeyring,
  keepassXC,
  kwallet,
  oo7,
  oo7Program,
  type ProviderUnderTest,
  password,
  type RunningProvider,
} from "./providers.js";

const alone = ["--service", "none", "--hub", "none"];
/** A user who has to find the window first. */
const lateMs = 7_000;

const providers: [string, ProviderUnderTest][] = [
  ["gnome-keyring", gnomeKeyring],
  ["KeePassXC with a confirmation of each access", keepassXC({ confirm: true })],
  ...((proving
    ? [
        ["KeePassXC without confirmations", keepassXC({ confirm: false })],
        ["KWallet", kwallet()],
        ["oo7", oo7],
      ]
    : []) as [string, ProviderUnderTest][]),
];

describe.each(providers)("%s", (_name, provider) => {
  let running: RunningProvider;
  let machine: Machine;

  beforeAll(async () => {
    running = await provider.start();
    running.bus.enter();
  }, 120_000);
  afterAll(() => running?.[Symbol.asyncDispose]());

  beforeEach(async () => {
    // A dialog of the test before would be in front of the next dialog.
    running.desktop.answer(dismiss);
    await running.desktop.closed();
    running.desktop.answer(provider.allow);
    machine = await Machine.make(provider.before);
  });

  /** Runs a command that shows a dialog, as far as the provider can be made to show one. */
  async function runAsked(args: readonly string[]): Promise<Answer> {
    if (provider.asks === "when locked") await running.lock();
    return await machine.run([...args]);
  }

  async function succeed(...args: string[]): Promise<Answer> {
    const answer = proving ? await runAsked(args) : await machine.run(args);
    expect([args.join(" "), answer.code, answer.stderr]).toEqual([
      args.join(" "),
      0,
      expect.any(String),
    ]);
    return answer;
  }

  /** Lets the real hub list its clients, with the passphrase from the keyring. */
  async function runHub(): Promise<void> {
    const folder = machine.path("config", "hivemind-core");
    await mkdir(folder, { recursive: true });
    const database = { module: plugin, [plugin]: { name: "clients", subfolder: "hivemind-core" } };
    await writeFile(`${folder}/server.json`, JSON.stringify({ network_protocol: {}, database }));
    const args = ["run", "--", await hubScript("development"), "list-clients"];
    if (provider.before === undefined) {
      expect((await succeed(...args)).stdout).toContain("kitchen");
      return;
    }
    // Root without capabilities cannot make the namespace for the hub, and root with capabilities
    // gets no dialog. So another command unlocks the keyring.
    await succeed("list-clients");
    const { code, stdout, stderr } = await Machine.in(machine.folder).run(args);
    expect([code, stdout, stderr]).toEqual([0, expect.stringContaining("kitchen"), ""]);
  }

  async function findings(): Promise<string[]> {
    const { stdout } = await machine.run(["doctor", "--json"]);
    const { checks } = JSON.parse(stdout) as { checks: { name: string; detail: string }[] };
    return checks.filter((check) => check.name === "keyring").map(({ detail }) => detail);
  }

  test("the whole life of a store", async () => {
    // scripts/prove answers every dialog late, and makes every command show one.
    if (proving) running.desktop.answer(provider.allow, lateMs);
    await machine.init("--bundle-to", machine.path("bundles"), "--to", machine.path("backups"));
    const list = async () => (await succeed("list-clients")).stdout;
    await succeed("add-client", "--name", "kitchen");
    expect(await list()).toContain("kitchen");
    const { document } = await machine.json("backup", ...alone.slice(0, 2));
    const backup = (document.backup as { path: string }).path;
    const bundle = (document.bundle as { path: string }).path;
    await succeed("verify", backup);
    await succeed("rotate", ...alone);
    expect(await list()).toContain("kitchen");
    const key = machine.path("safe", "recovery-key.txt");
    await succeed(...["restore", backup, "--bundle", bundle, "--identity", key, "--yes", ...alone]);
    if (proving) {
      await succeed("decrypt", "--yes", ...alone);
      await succeed("encrypt", "--yes", ...alone);
      expect(await list()).toContain("kitchen");
      await succeed("bundle", "import", await newestBundle(machine), "-i", key);
    }
    await runHub();
    const details = await findings();
    expect(details[0]).toContain(provider.name);
    const isRefused = provider.asks === "each process";
    const access = isRefused ? "cannot read the passphrase: KeePassXC asks" : "work while";
    expect(details.at(-1)).toContain(`unattended backups ${access}`);
    await succeed("delete-client", "1", "--yes");
    expect((await succeed("list-clients")).stderr).toContain("no clients");
  }, 900_000);

  test.skipIf(proving || provider.asks === "never")(
    "a dialog that is answered after seven seconds",
    async () => {
      await machine.init();
      running.desktop.answer(provider.allow, lateMs);
      const { code, stderr } = await runAsked(["list-clients", "--no-key-cache"]);
      expect([code, stderr]).toEqual([
        0,
        expect.stringContaining(`waiting for ${provider.name}: answer its dialog`),
      ]);
    },
    120_000,
  );

  test.skipIf(provider.asks === "never")(
    "dialogs that are dismissed change nothing",
    async () => {
      await machine.init("--bundle-to", machine.path("bundles"), "--to", machine.path("backups"));
      await machine.run(["add-client", "--name", "kitchen"]);
      const { document } = await machine.json("backup", ...alone.slice(0, 2));
      const backup = (document.backup as { path: string }).path;
      const store = await readFile(machine.store);
      running.desktop.answer(dismiss);
      for (const args of [
        ["list-clients", "--no-key-cache"],
        ["add-client", "--name", "hall"],
        ["backup", ...alone.slice(0, 2)],
        ["rotate", ...alone],
        ["restore", backup, "--yes", ...alone],
        ["delete-client", "1", "--yes"],
      ]) {
        const began = performance.now();
        const { code, stderr } = await runAsked(args);
        const command = args[0] ?? "";
        expect([command, code, stderr]).toEqual([
          command,
          13,
          expect.stringContaining(provider.name),
        ]);
        expect([command, stderr]).toEqual([command, expect.not.stringMatching(/sqlcipher init\b/)]);
        expect(performance.now() - began).toBeLessThan(40_000);
      }
      expect(await readFile(machine.store)).toEqual(store);
      running.desktop.answer(provider.allow);
      const { code, stdout } = await machine.run(["list-clients"]);
      expect([code, stdout]).toEqual([0, expect.stringContaining("kitchen")]);
    },
    300_000,
  );

  // A minute for each provider; scripts/test has it for none.
  if (proving && provider.asks !== "never")
    test("a dialog that nobody answers ends the command after a minute, with advice", async () => {
      await machine.init();
      running.desktop.answer("ignore");
      const began = performance.now();
      const { code, stderr } = await runAsked(["list-clients", "--no-key-cache"]);
      expect(performance.now() - began).toBeLessThan(75_000);
      expect([code, stderr]).toEqual([13, expect.stringContaining(provider.advice)]);
      expect(stderr).toMatch(new RegExp(`error: .*${provider.name}`));
    }, 180_000);

  test.skipIf(provider.asks === "never")(
    "Ctrl-C ends a command that waits for a dialog, and leaves no process behind",
    async () => {
      await machine.init();
      if (provider.asks === "when locked") await running.lock();
      running.desktop.answer("ignore");
      const [program, ...args] = machine.line(["list-clients", "--no-key-cache"]);
      const child = spawn(program, args, { env: machine.environment, stdio: "ignore" });
      await running.desktop.shown();
      child.kill("SIGINT");
      expect(await once(child, "exit")).toEqual([null, "SIGINT"]);
      await vi.waitFor(
        async () => expect(await processesWith(machine.path("data"))).toEqual([]),
        10_000,
      );
      running.desktop.answer(provider.allow);
      expect((await machine.run(["list-clients"])).code).toBe(0);
    },
    120_000,
  );
});

test("a locked database of KeePassXC: its unlocking is noticed, and unattended backups can work", async () => {
  const provider = keepassXC({ confirm: false, locked: true });
  await using running = await provider.start();
  running.bus.enter();
  const machine = await Machine.make();
  running.desktop.answer(provider.allow, proving ? lateMs : undefined);
  const began = performance.now();
  await machine.init();
  expect(performance.now() - began).toBeLessThan(45_000);
  expect((await machine.run(["list-clients"])).code).toBe(0);
  const { stdout } = await machine.run(["doctor"]);
  expect(stdout).toMatch(/keyring .*KeePassXC.*unattended backups work while its database is open/);
}, 180_000);

if (proving)
  test("oo7 keeps the dialog of an ended command: its answer is enough for the next command", async () => {
    await using running = await oo7.start();
    running.bus.enter();
    const machine = await Machine.make(oo7.before);
    await machine.init();
    await running.lock();
    const [program, ...args] = machine.line(["list-clients", "--no-key-cache"]);
    const child = spawn(program, args, { env: machine.environment, stdio: "ignore" });
    await running.desktop.shown();
    child.kill("SIGINT");
    await once(child, "exit");
    const next = machine.run(["list-clients", "--no-key-cache"]);
    await delay(2_000);
    await running.desktop.answerOnce(oo7.allow as { type: string; key: string });
    const { code, stderr } = await next;
    expect([code, stderr]).toEqual([0, expect.stringContaining("waiting for oo7")]);
  }, 120_000);

if (proving)
  test("oo7 outside a graphical session: the advice unlocks it, and so does a credential", async () => {
    await using running = await oo7.start();
    running.bus.enter();
    const machine = await Machine.make();
    await machine.init();
    await running.lock();
    const withoutDisplay = { env: { DISPLAY: undefined } };
    const list = () => machine.run(["list-clients", "--no-key-cache"], withoutDisplay);
    const { code, stderr } = await list();
    expect([code, stderr]).toEqual([
      13,
      expect.stringMatching(/oo7 is locked and cannot ask for its password here/),
    ]);
    const line = /on a server:\n\s*(read .*unset P)/.exec(stderr)?.[1] ?? "no line";
    await running.bus.shell(line, `${password}\n`);
    await vi.waitFor(async () => expect((await list()).code).toBe(0), { timeout: 60_000 });
    expect(running.desktop.dialogs).toEqual([]);
    const boot = async () => (await machine.run(["doctor"], withoutDisplay)).stdout;
    expect(await boot()).toMatch(/WARNING +boot +after a reboot, oo7 stays locked/);
    await writeFile(join(running.bus.folder, "oo7.keyring-encryption-password"), password);
    const credentials = `CREDENTIALS_DIRECTORY='${running.bus.folder}'`;
    await running.bus.shell(
      `${credentials} setsid --fork '${oo7Program}' --replace >/dev/null 2>&1`,
    );
    await vi.waitFor(async () => expect(await boot()).not.toContain("oo7 stays locked"), {
      timeout: 60_000,
    });
    expect((await list()).code).toBe(0);
  }, 120_000);

test("a provider that ends while its dialog is open ends the command at once", async () => {
  await using running = await gnomeKeyring.start();
  running.bus.enter();
  const machine = await Machine.make();
  await machine.init();
  await running.lock();
  const command = machine.run(["list-clients", "--no-key-cache"]);
  await running.desktop.shown();
  const began = performance.now();
  await running.bus.signalKeyring("SIGKILL");
  const { code, stderr } = await command;
  expect([code, stderr]).toEqual([13, expect.stringContaining("the keyring's program ended")]);
  expect(performance.now() - began).toBeLessThan(10_000);
});

/** Returns the bundle of the store's current file. */
async function newestBundle(machine: Machine): Promise<string> {
  const { document } = await machine.json("status");
  const prefix = `clients.${(document as { key_id: string }).key_id}`;
  const names = await readdir(machine.path("bundles"));
  const name = names.find((found) => found.startsWith(prefix) && found.endsWith(".age"));
  return machine.path("bundles", name ?? "none");
}

/** The processes whose environment names a machine's folder. */
async function processesWith(text: string): Promise<string[]> {
  const found: string[] = [];
  for (const pid of (await readdir("/proc")).filter((name) => /^\d+$/.test(name))) {
    const environment = await readFile(`/proc/${pid}/environ`, "utf8").catch(() => "");
    if (environment.includes(text)) found.push(pid);
  }
  return found;
}
