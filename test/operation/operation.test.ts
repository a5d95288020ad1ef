import { execFile } from "node:child_process";
import { once } from "node:events";
import { chown, lstat, mkdir, readFile, stat, symlink, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { expect, test } from "vitest";
import { StoreError } from "../../src/errors.js";
import { Journal, journalPath } from "../../src/operation/journal.js";
import { acquireLock, lockPath } from "../../src/operation/lock.js";
import { temporaryFolder } from "../store/temporary.js";

const root = new URL("../..", import.meta.url).pathname;

/** Another process that takes a store's lock, says so, and holds it until it is killed. */
async function holdElsewhere(storePath: string) {
  const program = `
    import { acquireLock } from "${root}dist/operation/lock.js";
    await acquireLock(${JSON.stringify(storePath)});
    console.log("held");
    setInterval(() => {}, 1000);`;
  const child = execFile(process.execPath, ["--input-type=module", "--eval", program]);
  if (!child.stdout) throw new Error("no output");
  await once(createInterface(child.stdout), "line");
  return child;
}

async function errorOf(work: Promise<unknown>): Promise<StoreError> {
  const error = await work.then(
    () => undefined,
    (reason: unknown) => reason,
  );
  if (!(error instanceof StoreError)) throw new Error(`no StoreError: ${error}`);
  return error;
}

test("a store's lock is held by one operation at a time, and free again after it", async () => {
  const store = join(await temporaryFolder(), "clients.db");
  const first = await acquireLock(store);
  expect(await errorOf(acquireLock(store))).toMatchObject({ kind: "inUse" });
  await first.release();
  const second = await acquireLock(store);
  await second.release();
});

test("a lock that another process holds is refused, naming what that one's journal names, and freed by its kill", async () => {
  const store = join(await temporaryFolder(), "clients.db");
  const holder = await holdElsewhere(store);
  await Journal.begin(store, "rotate", "rotate.begun", {});
  const error = await errorOf(acquireLock(store));
  expect(error).toMatchObject({ kind: "inUse" });
  expect(error.message).toContain("rotate");
  expect(error.message).toContain(String(process.pid));
  holder.kill("SIGKILL");
  await once(holder, "exit");
  const lock = await acquireLock(store);
  await lock.release();
});

test("a refused attempt does not free the lock that this process holds", async () => {
  const store = join(await temporaryFolder(), "clients.db");
  await using _lock = await acquireLock(store);
  await errorOf(acquireLock(store));
  const other = `
    import { acquireLock } from "${root}dist/operation/lock.js";
    await acquireLock(${JSON.stringify(store)}).then(() => console.log("taken"), (e) => console.log(e.kind));`;
  const child = execFile(process.execPath, ["--input-type=module", "--eval", other]);
  if (!child.stdout) throw new Error("no output");
  expect(await once(createInterface(child.stdout), "line")).toEqual(["inUse"]);
});

test("the lock's file is private, empty, stays, and nothing lies beside it", async () => {
  const folder = await temporaryFolder();
  const store = join(folder, "clients.db");
  const lock = await acquireLock(store);
  await lock.release();
  const file = await stat(lockPath(store));
  expect(file.mode & 0o777).toBe(0o600);
  expect(file.size).toBe(0);
  await expect(lstat(`${lockPath(store)}-journal`)).rejects.toThrow("ENOENT");
});

test("a lock's name that is a link or a folder is refused, and what a link leads to is left alone", async () => {
  const folder = await temporaryFolder();
  const store = join(folder, "clients.db");
  await writeFile(join(folder, "precious"), "precious");
  await symlink("precious", lockPath(store));
  expect(await errorOf(acquireLock(store))).toMatchObject({ kind: "refused" });
  expect(await readFile(join(folder, "precious"), "utf8")).toBe("precious");
  await mkdir(lockPath(join(folder, "other.db")));
  expect(await errorOf(acquireLock(join(folder, "other.db")))).toMatchObject({ kind: "refused" });
});

test("a lock in a folder that does not exist is the lock of no store", async () => {
  const store = join(await temporaryFolder(), "nowhere", "clients.db");
  const error = await errorOf(acquireLock(store));
  expect(error).toMatchObject({ kind: "notFound" });
  expect(error.message).toContain(store);
});

test("a journal is on disk as it was last written, private, until it is removed", async () => {
  const store = join(await temporaryFolder(), "clients.db");
  expect(await Journal.read(store)).toBeUndefined();
  const journal = await Journal.begin(store, "backup", "backup.beginning", { staged: ["a"] });
  expect((await stat(journalPath(store))).mode & 0o777).toBe(0o600);
  await journal.write("backup.stopping", { staged: ["a", "b"] });
  const found = await Journal.read(store);
  expect(found?.entry).toEqual(journal.entry);
  expect(found?.entry).toMatchObject({
    operation: "backup",
    step: "backup.stopping",
    pid: process.pid,
    data: { staged: ["a", "b"] },
  });
  await journal.remove();
  expect(await Journal.read(store)).toBeUndefined();
});

test("an operation does not begin over the journal of another", async () => {
  const store = join(await temporaryFolder(), "clients.db");
  await Journal.begin(store, "rotate", "rotate.begun", {});
  const error = await errorOf(Journal.begin(store, "backup", "backup.beginning", {}));
  expect(error).toMatchObject({ kind: "refused" });
  expect((await Journal.read(store))?.entry.operation).toBe("rotate");
});

test("a journal of a newer version, and what is no journal, are told apart and left as they are", async () => {
  const store = join(await temporaryFolder(), "clients.db");
  const newer = JSON.stringify({ format: "hivemind-sqlcipher journal", version: 99 });
  await writeFile(journalPath(store), newer);
  expect(await errorOf(Journal.read(store))).toMatchObject({ kind: "newerVersion" });
  expect(await readFile(journalPath(store), "utf8")).toBe(newer);
  for (const text of ["", "{", "[]", '{"format": "hivemind-sqlcipher journal", "version": 1}']) {
    await writeFile(journalPath(store), text);
    expect(await errorOf(Journal.read(store))).toMatchObject({ kind: "corrupted" });
  }
});

test.skipIf(process.geteuid?.() !== 0)(
  "root does not do what another user's journal says, and leaves that user a lock of its own",
  async () => {
    const folder = await temporaryFolder();
    const store = join(folder, "clients.db");
    await writeFile(store, "");
    await chown(folder, 65534, 65534);
    await chown(store, 65534, 65534);
    await using _lock = await acquireLock(store);
    expect(await stat(lockPath(store))).toMatchObject({ uid: 65534, gid: 65534 });
    await Journal.begin(store, "backup", "backup.beginning", {});
    await chown(journalPath(store), 65534, 65534);
    expect(await errorOf(Journal.read(store))).toMatchObject({ kind: "refused" });
  },
);
