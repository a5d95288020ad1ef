import { execFileSync } from "node:child_process";
import { copyFile, open, readFile, stat, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { expect, test } from "vitest";
import { Connection } from "../../src/store/connection.js";
import { readWal, type WalChanges, type WalPosition } from "../../src/store/wal.js";
import { temporaryFolder } from "./temporary.js";

const headerSize = 32;
const frameSize = 24 + 4096;

/**
 * A database in WAL mode, not encrypted: pages and log have the same shape, and can be looked into.
 */
async function database() {
  const path = join(await temporaryFolder(), "test.db");
  const connection = await Connection.open(path, { mode: "create" });
  await connection.all("PRAGMA journal_mode = WAL");
  await connection.all("PRAGMA wal_autocheckpoint = 0");
  await connection.exec("CREATE TABLE t (id INTEGER PRIMARY KEY, text)");
  return { path, connection };
}

/** The log as a copy of it reads, which stays as it is while the database is written to. */
async function readCopy(path: string, from?: WalPosition) {
  const copy = `${path}-copy`;
  execFileSync("cp", [`${path}-wal`, copy]);
  return readFileAsWal(copy, from);
}

async function readFileAsWal(path: string, from?: WalPosition) {
  await using file = await open(path);
  return await readWal(file, from);
}

function news(read: Awaited<ReturnType<typeof readWal>>): WalChanges {
  if (typeof read === "string") throw new Error(`the log is ${read}`);
  return read;
}

test("every committed page is found, at the place of its newest content", async () => {
  const { path, connection } = await database();
  for (let turn = 0; turn < 50; turn++) {
    await connection.run("INSERT INTO t (text) VALUES (?)", ["x".repeat(3000)]);
  }
  const { position, pages } = news(await readCopy(path));
  const count = await connection.get<{ page_count: number }>("PRAGMA page_count");
  expect(position.pageSize).toBe(4096);
  expect(position.databasePages).toBe(count?.page_count);
  expect(position.frames).toBe(((await stat(`${path}-wal`)).size - headerSize) / frameSize);

  // What SQLite itself makes of the log is the same.
  const copied = await readFile(`${path}-copy`);
  await connection.all("PRAGMA wal_checkpoint(TRUNCATE)");
  await connection.close();
  const main = await readFile(path);
  expect([...pages.keys()].sort((a, b) => a - b)).toEqual(
    Array.from({ length: main.length / 4096 }, (_, index) => index + 1),
  );
  for (const [page, offset] of pages) {
    const there = main.subarray((page - 1) * 4096, page * 4096);
    expect(copied.subarray(offset, offset + 4096).equals(there)).toBe(true);
  }
});

test("reading on from a position gives what came since, and nothing else", async () => {
  const { path, connection } = await database();
  await connection.run("INSERT INTO t (text) VALUES ('one')");
  const first = news(await readCopy(path));
  expect(news(await readCopy(path, first.position)).pages.size).toBe(0);
  await connection.run("INSERT INTO t (text) VALUES ('two')");
  const second = news(await readCopy(path, first.position));
  expect([...second.pages.keys()]).toEqual([2]);
  expect(second.position).toEqual(news(await readCopy(path)).position);
});

test("what is written but not committed does not count, also when it fills much of the log", async () => {
  const { path, connection } = await database();
  const before = news(await readCopy(path)).position;
  await connection.all("PRAGMA cache_size = 5");
  await connection.exec("BEGIN");
  for (let turn = 0; turn < 100; turn++) {
    await connection.run("INSERT INTO t (text) VALUES (?)", ["x".repeat(3000)]);
  }
  expect((await stat(`${path}-wal`)).size).toBeGreaterThan(50 * frameSize);
  expect(news(await readCopy(path))).toMatchObject({ position: before });
  await connection.exec("ROLLBACK");
  await connection.run("INSERT INTO t (text) VALUES ('after')");
  const after = news(await readCopy(path, before));
  expect(after.position.frames).toBe(before.frames + 1);
  expect(after.position).toEqual(news(await readCopy(path)).position);
});

test("a log that was begun anew is not read on from before", async () => {
  const { path, connection } = await database();
  await connection.run("INSERT INTO t (text) VALUES ('one')");
  const { position } = news(await readCopy(path));
  await connection.all("PRAGMA wal_checkpoint(RESTART)");
  await connection.run("INSERT INTO t (text) VALUES ('two')");
  expect(await readCopy(path, position)).toBe("restarted");
  const anew = news(await readCopy(path));
  expect(anew.position.frames).toBe(1);
  expect((await stat(`${path}-wal`)).size).toBeGreaterThan(headerSize + frameSize);
});

test("a last frame that was written over is noticed", async () => {
  const { path, connection } = await database();
  await connection.run("INSERT INTO t (text) VALUES ('one')");
  const { position } = news(await readCopy(path));
  const log = await readFile(`${path}-copy`);
  log.writeUInt32BE(77, headerSize + (position.frames - 1) * frameSize);
  await writeFile(`${path}-copy`, log);
  expect(await readFileAsWal(`${path}-copy`, position)).toBe("restarted");
});

test("a byte that is not as it was written ends the log at the commit before it", async () => {
  const { path, connection } = await database();
  for (const text of ["one", "two", "three"]) {
    await connection.run("INSERT INTO t (text) VALUES (?)", [text]);
  }
  const { position } = news(await readCopy(path));
  const log = await readFile(`${path}-copy`);
  for (const part of [0, 4, 10, 18, 24, 3000]) {
    const damaged = Buffer.from(log);
    const at = headerSize + (position.frames - 2) * frameSize + part;
    damaged.writeUInt8(damaged.readUInt8(at) ^ 1, at);
    await writeFile(`${path}-damaged`, damaged);
    expect(news(await readFileAsWal(`${path}-damaged`)).position.frames).toBe(position.frames - 2);
  }
});

test("a log that is cut off in a frame ends at the commit before it", async () => {
  const { path, connection } = await database();
  await connection.run("INSERT INTO t (text) VALUES ('one')");
  await connection.run("INSERT INTO t (text) VALUES ('two')");
  const { position } = news(await readCopy(path));
  await using file = await open(`${path}-copy`, "r+");
  await file.truncate(headerSize + position.frames * frameSize - 1);
  expect(news(await readWal(file)).position.frames).toBe(position.frames - 1);
});

test("no log, an empty one, and one whose header does not hold are empty; a position in them is lost", async () => {
  const { path, connection } = await database();
  const { position } = news(await readCopy(path));
  const log = await readFile(`${path}-copy`);
  const damaged = Buffer.from(log);
  damaged.writeUInt8(damaged.readUInt8(20) ^ 1, 20);
  for (const bytes of [Buffer.alloc(0), log.subarray(0, 31), damaged, Buffer.alloc(5000)]) {
    await writeFile(`${path}-damaged`, bytes);
    expect(await readFileAsWal(`${path}-damaged`)).toBe("empty");
    expect(await readFileAsWal(`${path}-damaged`, position)).toBe("restarted");
  }
  await connection.close();
});

test("a log in the other byte order is read as well", async () => {
  const { path, connection } = await database();
  await connection.run("INSERT INTO t (text) VALUES ('one')");
  const { position, pages } = news(await readCopy(path));
  const log = await readFile(`${path}-copy`);
  const foreign = Buffer.from(log);
  foreign.writeUInt32BE(log.readUInt32BE(0) ^ 1, 0);
  const big = foreign.readUInt32BE(0) === 0x377f0683;
  const sums: [number, number] = [0, 0];
  const add = (bytes: Buffer) => {
    const read = (at: number) => (big ? bytes.readUInt32BE(at) : bytes.readUInt32LE(at));
    for (let at = 0; at < bytes.length; at += 8) {
      sums[0] = (sums[0] + read(at) + sums[1]) >>> 0;
      sums[1] = (sums[1] + read(at + 4) + sums[0]) >>> 0;
    }
  };
  const seal = (at: number) => {
    foreign.writeUInt32BE(sums[0], at);
    foreign.writeUInt32BE(sums[1], at + 4);
  };
  add(foreign.subarray(0, 24));
  seal(24);
  for (let at = headerSize; at < foreign.length; at += frameSize) {
    add(foreign.subarray(at, at + 8));
    add(foreign.subarray(at + 24, at + frameSize));
    seal(at + 16);
  }
  await writeFile(`${path}-foreign`, foreign);
  const read = news(await readFileAsWal(`${path}-foreign`));
  expect(read.pages).toEqual(pages);
  expect(read.position.frames).toBe(position.frames);
  // SQLite reads it too: the log is as it would have been written on such a machine.
  await copyFile(`${path}-foreign`, `${path}-2.db-wal`);
  execFileSync("cp", [path, `${path}-2.db`]);
  await using other = await Connection.open(`${path}-2.db`, { mode: "readwrite" });
  expect(await other.get("SELECT text FROM t")).toEqual({ text: "one" });
});
