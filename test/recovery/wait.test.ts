import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { chown, rename, rm, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { beforeEach, expect, onTestFinished, test } from "vitest";
import { journalPath } from "../../src/operation/journal.js";
import { acquireLock } from "../../src/operation/lock.js";
import { withOperation } from "../../src/recovery/recover.js";
import { unlockStore } from "../../src/recovery/unlock-store.js";
import { waitForOperation } from "../../src/recovery/wait.js";
import { ClientStore } from "../../src/store/client-store.js";
import { temporaryFolder } from "../store/temporary.js";

let storePath: string;
/** Stands for the process of an operation. */
let other: ChildProcess;

beforeEach(async () => {
  storePath = join(await temporaryFolder(), "clients.db");
  other = spawn("sleep", ["infinity"]);
  await once(other, "spawn");
  onTestFinished(() => {
    other.kill();
  });
});

async function journal(operation: string, step: string, data: object): Promise<void> {
  const entry = {
    ...{ format: "hivemind-sqlcipher journal", version: 1, operation, id: "x" },
    ...{ started_at: new Date().toISOString(), pid: other.pid, step, data },
  };
  await writeFile(journalPath(storePath), JSON.stringify(entry), { mode: 0o600 });
}

/** A store that counts how often it was opened and closed. */
function counted(opening: () => Promise<void> = async () => {}) {
  const counts = { opened: 0, closed: 0 };
  const open = async () => {
    counts.opened += 1;
    await opening();
    return {
      close: async () => {
        counts.closed += 1;
      },
    };
  };
  return { counts, open };
}

const ownCommands = { service: "command", unit: "none" };

test.each([
  ["backup", "backup.stopping", { stopped: { service: "systemd-user", unit: "hub" } }],
  ["rotate", "committing", {}],
  ["rotate", "committing", { stopped: ownCommands, staged: process.execPath }],
])(
  "a command does not open the store while %s keeps others out, and says who it is that it waited for",
  async (operation, step, data) => {
    await journal(operation, step, data);
    const { counts, open } = counted();
    await expect(waitForOperation(storePath, open, 200)).rejects.toMatchObject({
      kind: "inUse",
      message: expect.stringContaining(`${operation} (process ${other.pid})`),
    });
    expect(counts.opened).toBe(0);
  },
);

test.each([
  ["backup", "backup.warm", {}],
  ["rotate", "bundling", {}],
  ["rotate", "starting", { stopped: { service: "systemd-user", unit: "hub" } }],
  ["backup", "backup.stopping", { stopped: ownCommands, staged: { copy: "/a", manifest: "/b" } }],
  ["backup", "backup.stopping", { stopped: ownCommands }],
  ["rotate", "committing", { stopped: ownCommands, staged: "/renamed" }],
])("%s at %s is in nobody's way", async (operation, step, data) => {
  await journal(operation, step, data);
  const { counts, open } = counted();
  await waitForOperation(storePath, open);
  expect(counts).toEqual({ opened: 1, closed: 0 });
});

test.skipIf(process.geteuid?.() !== 0)(
  "root waits for the operation of the store's user, and learns its name",
  async () => {
    await writeFile(storePath, "");
    await using _atWork = await acquireLock(storePath);
    await journal("rotate", "committing", {});
    await chown(journalPath(storePath), 65534, 65534);
    const { open } = counted();
    const message = expect.stringContaining(`rotate (process ${other.pid})`);
    await expect(waitForOperation(storePath, open, 100)).rejects.toMatchObject({ message });
    await expect(acquireLock(storePath)).rejects.toMatchObject({
      message: expect.stringContaining(`(rotate, process ${other.pid}`),
    });
  },
);

test("what a killed operation left is not waited for", async () => {
  await journal("rotate", "committing", {});
  other.kill("SIGKILL");
  await once(other, "exit");
  const { counts, open } = counted();
  await waitForOperation(storePath, open);
  expect(counts.opened).toBe(1);
});

test("a store that was opened just when an operation began is closed, and opened again when that is over", async () => {
  const { counts, open } = counted(async () => {
    if (counts.opened > 1) return;
    await journal("rotate", "stopping", {});
    setTimeout(() => rm(journalPath(storePath)), 1_000);
  });
  await waitForOperation(storePath, open);
  expect(counts).toEqual({ opened: 2, closed: 1 });
});

test("the library opens a store only when the operation that replaces its file has ended", async () => {
  const path = join(await temporaryFolder(), "passphrase");
  await writeFile(path, "words", { mode: 0o600 });
  await (await ClientStore.create(storePath, "words")).close();
  await journal("rotate", "committing", {});
  let hasEnded = false;
  setTimeout(async () => {
    await rm(journalPath(storePath));
    hasEnded = true;
  }, 300);
  // The operation holds the lock, so this process does not recover it.
  await using _lock = await acquireLock(storePath);
  await using _store = await unlockStore(storePath, { kind: "file", path }, { mode: "readwrite" });
  expect(hasEnded).toBe(true);
});

test("what went wrong because the file was just being replaced is tried again; anything else is told", async () => {
  const { counts, open } = counted(async () => {
    if (counts.opened > 1) return;
    await journal("rotate", "committing", {});
    setTimeout(() => rm(journalPath(storePath)), 1_000);
    throw new Error("no passphrase opens it");
  });
  await waitForOperation(storePath, open);
  expect(counts.opened).toBe(2);
  await expect(
    waitForOperation(storePath, () => Promise.reject(new Error("it is damaged"))),
  ).rejects.toThrow("it is damaged");
});

test("a store that was replaced while it was opened is opened again, even if the operation blocks no more", async () => {
  await writeFile(storePath, "old");
  const { counts, open } = counted(async () => {
    if (counts.opened > 1) return;
    await writeFile(`${storePath}.new`, "new");
    await rename(`${storePath}.new`, storePath);
    await journal("rotate", "starting", {});
  });
  await waitForOperation(storePath, open);
  expect(counts).toEqual({ opened: 2, closed: 1 });
});

test("an operation waits for who only looks whether anything is left, and is refused at once by one that is at work", async () => {
  const reporter = { notice: () => undefined };
  const looking = await acquireLock(storePath);
  let isOver = false;
  const waiting = withOperation(storePath, reporter, async () => isOver);
  await expect(acquireLock(storePath)).rejects.toMatchObject({ kind: "inUse" });
  isOver = true;
  await looking.release();
  expect(await waiting).toBe(true);

  await using atWork = await acquireLock(storePath);
  await journal("rotate", "staging", {});
  const refused = withOperation(atWork.storePath, reporter, async () => true);
  await expect(refused).rejects.toMatchObject({
    kind: "inUse",
    message: expect.stringContaining("rotate, process"),
  });
});
