import { writeFile } from "node:fs/promises";
import { createRequire } from "node:module";
import { join } from "node:path";
import keytar from "keytar";
import { afterAll, afterEach, beforeAll, expect, onTestFinished, test, vi } from "vitest";
import { StoreError } from "../../src/errors.js";
import { inspectKeyring } from "../../src/keys/inspect.js";
import { deleteEntry, getEntry, listEntries, type Slot, setEntry } from "../../src/keys/keyring.js";
import { announceDialog } from "../../src/keys/secret-service.js";
import { readPassphrases } from "../../src/keys/source.js";
import { withoutSignal } from "../../src/process/interaction.js";
import { abortOnSignal } from "../../src/process/signals.js";
import { temporaryFolder } from "../store/temporary.js";
import { OwnBus } from "./own-keyring.js";

let bus: OwnBus;
let count = 0;
let store: string;

beforeAll(async () => {
  bus = await OwnBus.start();
  bus.enter();
  await bus.startKeyring("open sesame");
});

afterAll(async () => {
  await bus[Symbol.asyncDispose]();
});

afterEach(() => {
  vi.restoreAllMocks();
  vi.unstubAllEnvs();
});

function newStore(): string {
  store = `/srv/hive ${++count}/clients.db`;
  return store;
}

/** What every operation says, each in the words of one error. */
async function errorsOf(path: string): Promise<StoreError[]> {
  const errors: StoreError[] = [];
  for (const operation of [
    () => getEntry(path, "current"),
    () => setEntry(path, "current", "x"),
    () => deleteEntry(path, "current"),
    () => listEntries(path),
  ]) {
    const error = await operation().then(
      () => undefined,
      (reason: unknown) => reason,
    );
    if (!(error instanceof StoreError)) throw new Error(`not refused: ${String(error)}`);
    errors.push(error);
  }
  return errors;
}

async function all<T>(items: AsyncIterable<T>): Promise<T[]> {
  const found: T[] = [];
  for await (const item of items) found.push(item);
  return found;
}

async function onBus(address: string | undefined, body: () => Promise<void>): Promise<void> {
  const before = { ...process.env };
  onTestFinished(() => {
    process.env.DBUS_SESSION_BUS_ADDRESS = before.DBUS_SESSION_BUS_ADDRESS;
    process.env.XDG_RUNTIME_DIR = before.XDG_RUNTIME_DIR;
  });
  delete process.env.XDG_RUNTIME_DIR;
  if (address === undefined) delete process.env.DBUS_SESSION_BUS_ADDRESS;
  else process.env.DBUS_SESSION_BUS_ADDRESS = address;
  await body();
}

test.each(["correct 'horse' battery", "päss\u{1f41d} \n with lines", "x".repeat(4096)])(
  "what is kept comes back as it was: %j",
  async (secret) => {
    newStore();
    expect(await getEntry(store, "current")).toBeUndefined();
    await setEntry(store, "current", "an older one");
    await setEntry(store, "current", secret);
    expect(await getEntry(store, "current")).toBe(secret);
    expect(await deleteEntry(store, "current")).toBe(true);
    expect(await deleteEntry(store, "current")).toBe(false);
    expect(await getEntry(store, "current")).toBeUndefined();
  },
);

test("its owner can read a passphrase with secret-tool alone", async () => {
  newStore();
  await setEntry(store, "current", "for my owner's eyes");
  await setEntry(store, "pending", "the next one");
  const lookup = `secret-tool lookup service hivemind-sqlcipher account`;
  expect(await bus.shell(`${lookup} '${store}'`)).toBe("for my owner's eyes");
  expect(await bus.shell(`${lookup} '${store}#pending'`)).toBe("the next one");
});

test("a list holds the entries of its own store, and no other's whose path begins alike", async () => {
  newStore();
  await setEntry(store, "current", "a");
  await setEntry(store, "previous:00112233445566ff", "b");
  await setEntry(`${store}2`, "current", "c");
  await setEntry(`${store}#copy.db`, "current", "d");
  const entries = await listEntries(store);
  expect(entries.sort((one, other) => one.secret.localeCompare(other.secret))).toEqual([
    { slot: "current", secret: "a" },
    { slot: "previous:00112233445566ff", secret: "b" },
  ]);
});

test.each(["pending", "previous:00ff", "derived:00ff"])(
  "a store that is called as another one's %s passphrase would overwrite that: it has no place in the keyring",
  async (slot) => {
    await setEntry(newStore(), slot as Slot, "kept");
    await expect(setEntry(`${store}#${slot}`, "current", "x")).rejects.toMatchObject({
      kind: "refused",
    });
    expect(await getEntry(store, slot as Slot)).toBe("kept");
    // Any other # is a name's own affair.
    await setEntry(`${store}#1`, "current", "its own");
    expect(await getEntry(`${store}#1`, "current")).toBe("its own");
  },
);

test("passphrases come the likeliest first: current, pending, the previous one of this very file, others", async () => {
  newStore();
  await setEntry(store, "previous:aaaaaaaaaaaaaaaa", "older");
  await setEntry(store, "previous:bbbbbbbbbbbbbbbb", "the file's");
  await setEntry(store, "derived:bbbbbbbbbbbbbbbb", "no passphrase");
  await setEntry(store, "pending", "next");
  await setEntry(store, "current", "now");
  const found = await all(readPassphrases({ kind: "keyring" }, store, "bbbbbbbbbbbbbbbb"));
  expect(found).toEqual([
    { passphrase: "now", generation: "current" },
    { passphrase: "next", generation: "pending" },
    { passphrase: "the file's", generation: "previous:bbbbbbbbbbbbbbbb" },
    { passphrase: "older", generation: "previous:aaaaaaaaaaaaaaaa" },
  ]);
});

test("a passphrase that was not asked for is not fetched", async () => {
  newStore();
  await setEntry(store, "current", "now");
  const listed = vi.spyOn(keytar, "findCredentials");
  const asked = vi.spyOn(keytar, "getPassword");
  for await (const { passphrase } of readPassphrases({ kind: "keyring" }, store)) {
    expect(passphrase).toBe("now");
    break;
  }
  expect(asked).toHaveBeenCalledTimes(1);
  expect(listed).not.toHaveBeenCalled();
});

test("a store that the keyring knows nothing of is told from a keyring that cannot be asked", async () => {
  newStore();
  const readAll = () => all(readPassphrases({ kind: "keyring" }, store, "0011223344556677"));
  const error = () => ({
    kind: "passphraseUnavailable",
    message: `the keyring has no passphrase for ${store}`,
  });
  // Without a store there is nothing to import a bundle for.
  await expect(readAll()).rejects.toMatchObject({ ...error(), hint: undefined });
  store = join(await temporaryFolder(), "clients.db");
  await writeFile(store, "");
  await expect(readAll()).rejects.toMatchObject({
    ...error(),
    hint: "Take the passphrase from a bundle: hivemind-sqlcipher bundle import clients.0011223344556677.bundle.age --identity FILE",
  });
});

test("a keyring that gives back something else than it was given is not trusted", async () => {
  newStore();
  vi.spyOn(keytar, "getPassword").mockResolvedValue("something else");
  await expect(setEntry(store, "current", "mine")).rejects.toMatchObject({
    kind: "passphraseUnavailable",
    message: `gnome-keyring does not return the secret that was just stored as ${store}`,
  });
});

test("an entry that this process cannot read is read by another process", async () => {
  newStore();
  await setEntry(store, "current", "mine");
  vi.spyOn(keytar, "getPassword").mockResolvedValue(null);
  expect(await getEntry(store, "current")).toBe("mine");
});

test("an entry that is listed but cannot be read by any process is not absent", async () => {
  newStore();
  await setEntry(store, "current", "mine");
  vi.spyOn(keytar, "getPassword").mockResolvedValue(null);
  const preload = join(await temporaryFolder(), "unreadable.cjs");
  const path = createRequire(import.meta.url).resolve("keytar");
  await writeFile(preload, `require(${JSON.stringify(path)}).getPassword = async () => null;`);
  vi.stubEnv("NODE_OPTIONS", `--require ${preload}`);
  const error = await getEntry(store, "current").catch((reason: unknown) => reason);
  expect(error).toMatchObject({
    kind: "passphraseUnavailable",
    message: `gnome-keyring lists ${store} but returns no secret for it`,
    hint: expect.not.stringContaining("init"),
  });
});

test("what the keyring refuses is said in its own words, and the secret never", async () => {
  newStore();
  vi.spyOn(keytar, "setPassword").mockRejectedValue(new Error("No space left on device"));
  const error = await setEntry(store, "current", "a very secret secret").catch((e: unknown) => e);
  expect(error).toMatchObject({
    kind: "passphraseUnavailable",
    message: "gnome-keyring refused: No space left on device",
  });
  expect(JSON.stringify(error) + String(error)).not.toContain("very secret");
});

test("no session bus: said so, with the ways to one", async () => {
  for (const address of [undefined, "unix:path=/nonexistent/bus", "tcp:host=localhost,port=1"]) {
    await onBus(address, async () => {
      for (const error of await errorsOf("/srv/clients.db")) {
        expect(error.kind).toBe("passphraseUnavailable");
        expect(error.message).toMatch(/^no session bus to reach the keyring/);
        expect(error.hint).toContain("export XDG_RUNTIME_DIR=/run/user/$(id -u)");
        expect(error.hint).toContain(
          "--passphrase-source sealed (systemd-creds), credential (systemd)",
        );
      }
    });
  }
});

test("a session bus that nobody serves secrets on: said so, with what to install and start", async () => {
  await using empty = await OwnBus.start();
  await onBus(empty.environment.DBUS_SESSION_BUS_ADDRESS, async () => {
    const errors = await errorsOf("/srv/clients.db");
    for (const error of errors) {
      expect(error.kind).toBe("passphraseUnavailable");
      expect(error.message).toMatch(/^no keyring on the session bus/);
      expect(error.hint).toContain("apt-get install gnome-keyring");
    }
    const line = /then start it:\n(read .*unset P)/.exec(errors[0]?.hint ?? "")?.[1] ?? "no line";
    await empty.shell(line, "a new password\n");
    await empty.keyringIs("ready");
  });
});

test("a default collection that is deleted at logout stores no passphrase", async () => {
  await bus.setDefaultCollection("session");
  onTestFinished(() => bus.setDefaultCollection("login"));
  await expect(setEntry(newStore(), "current", "x")).rejects.toMatchObject({
    kind: "passphraseUnavailable",
    message: 'the default collection of gnome-keyring is "session", which is deleted at logout',
  });
  const { problem } = await inspectKeyring(store);
  expect(problem?.message).toContain("deleted at logout");
});

test("the bus is found where systemd's user manager puts it, without an address", async () => {
  const report = await inspectKeyring("/srv/clients.db", { XDG_RUNTIME_DIR: bus.folder });
  expect(report).toMatchObject({ provider: "gnome-keyring", problem: undefined });
});

test("the notice of a dialog names Ctrl-C only where it has an effect", async () => {
  vi.useFakeTimers();
  onTestFinished(() => void vi.useRealTimers());
  const notice = vi.fn();
  const announce = () => {
    announceDialog("gnome-keyring", notice);
    vi.runAllTimers();
    return notice.mock.lastCall?.[0];
  };
  const cancels = expect.stringContaining("(Ctrl-C cancels)");
  expect(await abortOnSignal(async () => announce())).toEqual(cancels);
  // As during a recovery.
  const ignored = await abortOnSignal(() => withoutSignal(async () => announce()));
  expect(ignored).toMatch(/answer its dialog within 60 seconds$/);
});

test("a keyring that hangs is given up soon, and keytar is not left waiting for it", async () => {
  newStore();
  const asked = vi.spyOn(keytar, "getPassword");
  await bus.signalKeyring("SIGSTOP");
  onTestFinished(() => bus.signalKeyring("SIGCONT"));
  await expect(getEntry(store, "current")).rejects.toMatchObject({
    kind: "passphraseUnavailable",
    message: "gnome-keyring does not respond (no reply within 5 seconds)",
  });
  expect(asked).not.toHaveBeenCalled();
});

test("a locked keyring without a desktop to ask at is locked, not empty; the line in the hint opens it", async () => {
  newStore();
  await setEntry(store, "current", "kept");
  await bus.lock();
  const errors = await errorsOf(store);
  for (const error of errors) {
    expect(error.kind).toBe("passphraseUnavailable");
    expect(error.message).toBe(
      'the collection "Login" of gnome-keyring is locked and was not unlocked',
    );
  }
  const line = /on a server:\n(read .*unset P)/.exec(errors[0]?.hint ?? "")?.[1] ?? "no line";
  await bus.shell(line, "open sesame\n");
  await bus.keyringIs("ready");
  expect(await bus.shell(`secret-tool lookup service hivemind-sqlcipher account '${store}'`)).toBe(
    "kept",
  );
  // keytar's session in this process ended with the daemon before.
  expect(await getEntry(store, "current")).toBe("kept");
  await setEntry(store, "current", "kept by the new one");
  expect(await getEntry(store, "current")).toBe("kept by the new one");
});
