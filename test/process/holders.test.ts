import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { chmodSync, linkSync, mkdtempSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";
import { join } from "node:path";
import { afterEach, beforeEach, expect, test } from "vitest";
import { findHolders, findLastingHolders } from "../../src/process/holders.js";
import { temporaryFolder } from "../service/units.js";

let folder: string;
let store: string;
let children: ChildProcess[];

beforeEach(() => {
  folder = temporaryFolder();
  store = join(folder, "clients.db");
  children = [];
});

afterEach(() => {
  for (const child of children) child.kill("SIGKILL");
  rmSync(folder, { recursive: true });
});

/** Runs a program that prints a line when it is ready, and returns its process id. */
async function ready(program: string, args: string[]): Promise<number> {
  const child = spawn(program, args, {
    stdio: ["ignore", "pipe", "inherit"],
  });
  children.push(child);
  const died = once(child, "exit").then(([code]) => {
    throw new Error(`${program} ended with ${code} before it was ready`);
  });
  await Promise.race([once(child.stdout, "data"), died]);
  died.catch(() => {}); // the end of the test kills it
  return child.pid ?? 0;
}

const holder = (path: string) =>
  ready("sh", ["-c", 'exec 3<"$0"; echo ready; exec sleep infinity', path]);

const pids = async (options = {}) =>
  (await findHolders(store, options)).holders.map(({ pid }) => pid).sort((a, b) => a - b);

test("a store that no process has open has no holders, nor has a store that does not exist", async () => {
  expect(await findHolders(store)).toEqual({ holders: [], isComplete: true });
  writeFileSync(store, "");
  expect(await findHolders(store)).toEqual({ holders: [], isComplete: true });
});

test("a store in memory, below /dev/shm, counts", async () => {
  const directory = mkdtempSync("/dev/shm/holders-");
  try {
    const path = join(directory, "clients.db");
    writeFileSync(path, "");
    const pid = await holder(path);
    expect((await findHolders(path)).holders.map((each) => each.pid)).toEqual([pid]);
  } finally {
    rmSync(directory, { recursive: true });
  }
});

test("the store and each of its sidecars count", async () => {
  const expected: number[] = [];
  for (const suffix of ["", "-wal", "-shm", "-journal"]) {
    writeFileSync(store + suffix, "");
    expected.push(await holder(store + suffix));
  }
  writeFileSync(`${store}.lock`, "");
  await holder(`${store}.lock`);
  expect(await pids()).toEqual(expected.sort((a, b) => a - b));
});

test("a file that is open under another name counts, and so does a deleted or replaced file", async () => {
  writeFileSync(store, "");
  linkSync(store, join(folder, "other name"));
  const linked = await holder(join(folder, "other name"));
  const deleted = await holder(store);
  writeFileSync(join(folder, "new"), "");
  renameSync(join(folder, "new"), store);
  expect(await pids()).toEqual([deleted]);
  linkSync(store, join(folder, "third name"));
  const current = await holder(join(folder, "third name"));
  expect(await pids()).toEqual([deleted, current].sort((a, b) => a - b));
  expect(await pids()).not.toContain(linked);
});

test("in another mount namespace the path may be of another file, and the store may have another path", async () => {
  writeFileSync(store, "");
  const inNamespace = (mount: string, path = store) => {
    const script = `${mount} && exec 3<>"$1" && echo ready && exec sleep infinity`;
    return ready("unshare", ["--mount", "sh", "-c", script, folder, path]);
  };
  await inNamespace('mount -t tmpfs none "$0"');
  expect(await pids()).toEqual([]);
  const same = await inNamespace("true");
  const bound = await inNamespace('mount --bind "$0" /mnt', "/mnt/clients.db");
  expect(await pids()).toEqual([same, bound].sort((a, b) => a - b));
});

test("this process and the processes in `except` do not count", async () => {
  writeFileSync(store, "");
  const first = await holder(store);
  const second = await holder(store);
  expect(await pids({ except: [first] })).toEqual([second]);
});

test("only the program's name is reported, not its arguments", async () => {
  writeFileSync(store, "");
  await holder(store);
  expect((await findHolders(store)).holders[0]?.command).toMatch(/^(sh|sleep)$/);
});

test("without permission to inspect a process, its connection in WAL mode is found by its lock", async () => {
  const sqlcipher = createRequire(import.meta.url).resolve("@journeyapps/sqlcipher");
  const open = `
    const { Database } = require(${JSON.stringify(sqlcipher)});
    const db = new Database(process.argv[1]);
    db.exec("PRAGMA journal_mode = WAL; CREATE TABLE IF NOT EXISTS clients (id); SELECT * FROM clients", () => console.log("ready"));
    setInterval(() => {}, 1e6);`;
  const connected = await ready(process.execPath, ["-e", open, store]);
  const silent = await holder(store);
  expect(await pids()).toEqual([connected, silent].sort((a, b) => a - b));
  chmodSync(folder, 0o755);
  process.seteuid?.(65534);
  try {
    const seen = await findHolders(store);
    expect(seen.isComplete).toBe(false);
    expect(seen.holders).toEqual([{ pid: connected, command: "node" }]);
  } finally {
    process.seteuid?.(0);
  }
});

test("a process that closes the store soon is told from a process that keeps it open", async () => {
  writeFileSync(store, "");
  await ready("sh", ["-c", 'exec 3<"$0"; echo ready; exec sleep 0.3', store]);
  expect((await findLastingHolders(store)).holders).toEqual([]);
  const staying = await holder(store);
  await ready("sh", ["-c", 'exec 3<"$0"; echo ready; exec sleep 0.3', store]);
  expect((await findLastingHolders(store)).holders.map(({ pid }) => pid)).toEqual([staying]);
  expect(await findLastingHolders(store, async ({ pid }) => pid !== staying)).toMatchObject({
    holders: [],
  });
});
