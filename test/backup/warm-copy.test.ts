import { execFile, execFileSync } from "node:child_process";
import { once } from "node:events";
import { readdir, readFile, rename, rm, stat, truncate, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { expect, onTestFinished, test } from "vitest";
import { openEncrypted, type StoreKey } from "../../src/store/cipher.js";
import { ClientStore } from "../../src/store/client-store.js";
import type { Connection } from "../../src/store/connection.js";
import { built, root, testProgram } from "../built.js";
import { copyOfFixture, fixturePassphrases, temporaryFolder } from "../store/temporary.js";
import { largeClients } from "./hub.js";

const { WarmCopy } =
  await built<typeof import("../../src/backup/warm-copy.js")>("backup/warm-copy.js");
const { openEncrypted: openBuilt } =
  await built<typeof import("../../src/store/cipher.js")>("store/cipher.js");

const passphrase = "correct horse";

interface TestStore {
  path: string;
  /** As the compiled module knows it. */
  key: StoreKey;
  /** Somebody who uses the store, in this process; SQLite keeps the two connections apart. */
  user: Connection;
}

async function storeWith(clients: number): Promise<TestStore> {
  const path = join(await temporaryFolder(), "clients.db");
  await using store = await ClientStore.create(path, passphrase);
  await store.addItems(largeClients(clients));
  return opened(path, passphrase);
}

async function opened(path: string, secret: string): Promise<TestStore> {
  const { connection: user } = await openEncrypted(path, secret, { mode: "readwrite" });
  onTestFinished(() => user.close());
  const built = await openBuilt(path, secret, { mode: "readwrite" });
  await built.connection.close();
  return { path, key: built.key, user };
}

function warmCopyOf({ path, key }: TestStore, staged = `${path}.staged`) {
  const copy = new WarmCopy(path, key, staged);
  onTestFinished(() => copy[Symbol.asyncDispose]());
  return copy;
}

async function addRow({ user }: TestStore, description = "new"): Promise<void> {
  await user.run(
    "INSERT INTO clients (client_id, api_key, description) VALUES ((SELECT max(client_id) + 1 FROM clients), 'k', ?)",
    [description],
  );
}

/**
 * The bytes that `cp` gives once everybody has let go of the store and its log is in its main file.
 */
async function plainCopy({ path, user }: TestStore): Promise<Buffer> {
  const [row] = await user.all<{ busy: number }>("PRAGMA wal_checkpoint(TRUNCATE)");
  expect(row?.busy).toBe(0);
  execFileSync("cp", [path, `${path}.plain`]);
  return readFile(`${path}.plain`);
}

/** Compares without printing megabytes. */
async function expectSameBytes(staged: string, plain: Buffer): Promise<void> {
  const copy = await readFile(staged);
  expect(copy.length).toBe(plain.length);
  expect(Buffer.compare(copy, plain)).toBe(0);
}

test("a warm copy, brought up to date, is byte for byte what cp gives after a checkpoint", async () => {
  const store = await storeWith(500);
  const copy = warmCopyOf(store);
  await copy.warm();
  await addRow(store);
  const before = copy.written;
  expect(await copy.complete()).toBeGreaterThan(0);
  expect(copy.written - before).toBeLessThan(20 * 4096);
  expect(await copy.complete()).toBe(0);
  await copy.unpin();
  const { size, sha256 } = await copy.finish();
  const plain = await plainCopy(store);
  await expectSameBytes(copy.stagedPath, plain);
  expect(size).toBe(plain.length);
  const [sum] = execFileSync("sha256sum", [copy.stagedPath], { encoding: "utf8" }).split(" ");
  expect(sha256).toBe(sum);
  expect((await stat(copy.stagedPath)).mode & 0o777).toBe(0o600);
});

test("what is left to write in the end does not grow with the store", async () => {
  const written = [];
  for (const clients of [100, 5000]) {
    const store = await storeWith(clients);
    const copy = warmCopyOf(store);
    await copy.warm();
    await addRow(store);
    const before = copy.written;
    await copy.complete();
    written.push(copy.written - before);
    expect(before).toBeGreaterThan(clients * 1000);
  }
  const [small = 0, large = 0] = written;
  expect(Math.abs(large - small)).toBeLessThan(10 * 4096);
});

test("beside a writer that never pauses, no commit before the end is missing", async () => {
  const store = await storeWith(3000);
  await writeFile(`${store.path}.pass`, passphrase, { mode: 0o600 });
  const log = `${store.path}.log`;
  const writer = execFile(process.execPath, [
    testProgram("backup/writer"),
    ...[store.path, `${store.path}.pass`, log, "0"],
  ]);
  const committed = async () => (await readFile(log, "utf8").catch(() => "")).split("\n").length;
  while ((await committed()) < 50) await new Promise(setImmediate);
  const copy = warmCopyOf(store);
  await copy.warm();
  // Checkpoints come and go meanwhile: by the writer itself, every 1000 pages, and by others.
  const from = await committed();
  while ((await committed()) < from + 500) {
    await store.user.all("PRAGMA wal_checkpoint(PASSIVE)");
    await copy.complete();
  }
  writer.kill("SIGTERM");
  await once(writer, "exit");
  await copy.complete();
  await copy.unpin();
  await copy.finish();
  await expectSameBytes(copy.stagedPath, await plainCopy(store));
});

test("an online copy is the store as of one moment, with every commit noted before it", async () => {
  const store = await storeWith(2000);
  await writeFile(`${store.path}.pass`, passphrase, { mode: 0o600 });
  const log = `${store.path}.log`;
  const writer = execFile(process.execPath, [
    testProgram("backup/writer"),
    ...[store.path, `${store.path}.pass`, log, "0"],
  ]);
  onTestFinished(() => void writer.kill("SIGKILL"));
  const committed = async () =>
    (await readFile(log, "utf8").catch(() => "")).split("\n").filter(Boolean).map(Number);
  while ((await committed()).length < 50) await new Promise(setImmediate);
  for (let round = 0; round < 5; round++) {
    const copy = warmCopyOf(store, `${store.path}.staged${round}`);
    await copy.warm();
    const noted = (await committed()).at(-1) ?? 0;
    await copy.complete();
    await copy.unpin();
    await copy.finish();
    const { connection } = await openEncrypted(copy.stagedPath, passphrase, {
      mode: "readonly",
      immutable: true,
    });
    expect(await connection.all("PRAGMA cipher_integrity_check")).toEqual([]);
    expect(await connection.get("PRAGMA integrity_check")).toEqual({ integrity_check: "ok" });
    const row = await connection.get<{ top: number; rows: number }>(
      "SELECT max(client_id) AS top, count(*) AS rows FROM clients",
    );
    expect(row?.top).toBeGreaterThanOrEqual(noted);
    expect(row?.rows).toBe(row?.top);
    await connection.close();
  }
});

test("a log that begins anew while the copy is pinned at a finished one is followed", async () => {
  const store = await storeWith(200);
  // A log with content, all of it checkpointed: the next writer begins it anew.
  await store.user.all("PRAGMA wal_autocheckpoint = 0");
  for (let turn = 0; turn < 30; turn++) await addRow(store, `${turn}`.repeat(500));
  await store.user.all("PRAGMA wal_checkpoint(PASSIVE)");
  const copy = warmCopyOf(store);
  await copy.warm();
  const header = () => execFileSync("head", ["-c", "32", `${store.path}-wal`]).toString("hex");
  const before = header();
  await addRow(store);
  expect(header()).not.toBe(before);
  expect(await copy.complete()).toBeGreaterThan(0);
  await copy.unpin();
  await copy.finish();
  await expectSameBytes(copy.stagedPath, await plainCopy(store));
});

test("a stale content that was taken from a log before it began anew is taken back", async () => {
  const store = await storeWith(200);
  await store.user.all("PRAGMA wal_autocheckpoint = 0");
  for (let turn = 0; turn < 30; turn++) await addRow(store, `${turn}`.repeat(500));
  await store.user.all("PRAGMA wal_checkpoint(PASSIVE)");
  // As the copier may read a log that is being written over: its beginning only, so that pages with
  // older content are the last it sees of them. The store's own log is whole again before anybody
  // else reads it.
  const whole = `${store.path}.whole`;
  const copy = warmCopyOf(store);
  await copy.warm();
  const clean = copy.written;
  execFileSync("cp", [`${store.path}-wal`, whole]);
  const cut = warmCopyOf(store, `${store.path}.cut`);
  await truncate(`${store.path}-wal`, 32 + 12 * (24 + 4096));
  await cut.warm();
  expect(cut.written).toBeLessThan(clean);
  execFileSync("dd", [`if=${whole}`, `of=${store.path}-wal`, "conv=notrunc", "status=none"]);
  await addRow(store);
  for (const each of [copy, cut]) {
    await each.complete();
    await each.unpin();
    await each.finish();
  }
  const plain = await plainCopy(store);
  await expectSameBytes(copy.stagedPath, plain);
  await expectSameBytes(cut.stagedPath, plain);
});

test("a store that a VACUUM shortens meanwhile gives a copy of its new length", async () => {
  const store = await storeWith(3000);
  const copy = warmCopyOf(store);
  await copy.warm();
  await store.user.run("DELETE FROM clients WHERE client_id > 100");
  await store.user.run("VACUUM");
  await copy.complete();
  await copy.unpin();
  const { size } = await copy.finish();
  expect(size).toBeLessThan(1_000_000);
  await expectSameBytes(copy.stagedPath, await plainCopy(store));
});

test("a transaction that is larger than every buffer, and not committed, is left out", async () => {
  const store = await storeWith(100);
  await store.user.all("PRAGMA cache_size = 10");
  const copy = warmCopyOf(store);
  await copy.warm();
  await addRow(store, "committed");
  await store.user.exec("BEGIN");
  for (let turn = 0; turn < 200; turn++) await addRow(store, "x".repeat(4000));
  expect((await stat(`${store.path}-wal`)).size).toBeGreaterThan(100 * 4096);
  await copy.complete();
  await copy.unpin();
  await copy.finish();
  await store.user.exec("ROLLBACK");
  await expectSameBytes(copy.stagedPath, await plainCopy(store));
});

test("a log that is gone, or a store that was replaced, has the whole copied anew", async () => {
  const store = await storeWith(300);
  const gone = warmCopyOf(store, `${store.path}.gone`);
  await gone.warm();
  await addRow(store);
  // An older SQLite that lost its locks deletes a log under its readers; here it is emptied first,
  // as that one does.
  await gone.unpin();
  await plainCopy(store);
  await rm(`${store.path}-wal`);
  await gone.complete();
  await gone.unpin();
  await gone.finish();
  const plain = await readFile(`${store.path}.plain`);
  await expectSameBytes(gone.stagedPath, plain);

  const replaced = warmCopyOf(store, `${store.path}.replaced`);
  await replaced.warm();
  await store.user.close();
  await rename(`${store.path}.plain`, store.path);
  await replaced.complete();
  await replaced.unpin();
  await replaced.finish();
  await expectSameBytes(replaced.stagedPath, plain);
});

for (const [name, secret] of Object.entries(fixturePassphrases)) {
  test(`${name}, which is not in WAL mode, is copied whole`, async () => {
    const path = await copyOfFixture(name);
    const before = await readFile(path);
    const store = await opened(path, secret);
    const copy = warmCopyOf(store);
    await copy.complete();
    expect(await copy.complete()).toBe(0);
    await copy.unpin();
    await copy.finish();
    await expectSameBytes(copy.stagedPath, before);
    expect(Buffer.compare(await readFile(path), before)).toBe(0);
  });

  test(`${name}, brought to WAL mode, is copied warm`, async () => {
    const store = await opened(await copyOfFixture(name), secret);
    await store.user.all("PRAGMA journal_mode = WAL");
    const copy = warmCopyOf(store);
    await copy.warm();
    await addRow(store);
    await copy.complete();
    await copy.unpin();
    await copy.finish();
    await expectSameBytes(copy.stagedPath, await plainCopy(store));
  });
}

test("a journal that a crash left hot is rolled back before a store is copied", async () => {
  const path = await copyOfFixture("sqlcipher4-schema2.db");
  const secret = fixturePassphrases["sqlcipher4-schema2.db"];
  const before = await readFile(path);
  await writeFile(`${path}.pass`, secret, { mode: 0o600 });
  const program = `
    import { openEncrypted } from "${root}dist/store/cipher.js";
    const { connection } = await openEncrypted(${JSON.stringify(path)}, ${JSON.stringify(secret)}, { mode: "readwrite" });
    await connection.all("PRAGMA cache_size = 5");
    await connection.exec("BEGIN");
    for (let i = 0; i < 200; i++)
      await connection.run("INSERT INTO clients (api_key, description) VALUES ('k', ?)", ["x".repeat(4000)]);
    process.kill(process.pid, "SIGKILL");`;
  const crashing = execFile(process.execPath, ["--input-type=module", "--eval", program]);
  await once(crashing, "exit");
  expect((await stat(`${path}-journal`)).size).toBeGreaterThan(0);
  expect(Buffer.compare(await readFile(path), before)).not.toBe(0);
  // The key, from the fixture itself: nothing opens the store before the copy does.
  const { key } = await opened(await copyOfFixture("sqlcipher4-schema2.db"), secret);
  const copy = new WarmCopy(path, key, `${path}.staged`);
  await copy.complete();
  await copy.unpin();
  const { size } = await copy.finish();
  await copy[Symbol.asyncDispose]();
  expect(size).toBe(before.length);
  // Rolling back encrypts the pages anew, so what compares is what they say.
  const rows = [];
  for (const [file, immutable] of [
    [`${path}.staged`, true],
    [await copyOfFixture("sqlcipher4-schema2.db"), false],
  ] as const) {
    const { connection } = await openEncrypted(file, secret, { mode: "readonly", immutable });
    rows.push(await connection.all("SELECT * FROM clients"));
    expect(await connection.all("PRAGMA cipher_integrity_check")).toEqual([]);
    await connection.close();
  }
  expect(rows[0]).toEqual(rows[1]);
});

test("what has the copy's name is not written to, nor through", async () => {
  const store = await storeWith(10);
  await writeFile(`${store.path}.precious`, "precious");
  execFileSync("ln", ["-s", `${store.path}.precious`, `${store.path}.staged`]);
  const copy = warmCopyOf(store);
  await expect(copy.warm()).rejects.toThrow("file exists");
  expect(await readFile(`${store.path}.precious`, "utf8")).toBe("precious");
});

test("a folder that is not there says so in words", async () => {
  const store = await storeWith(10);
  const copy = warmCopyOf(store, `${store.path}.nowhere/clients.db`);
  const error = await copy.warm().catch((reason: unknown) => reason);
  expect(error).toMatchObject({ kind: "io" });
  expect(String(error)).toContain("no such file or directory");
});

test("nothing is left open, and nobody has the store open, between two steps of a copy", async () => {
  const store = await storeWith(100);
  const copy = warmCopyOf(store);
  await copy.warm();
  const children = execFileSync("pgrep", ["-P", String(process.pid), "-f", "copier.js"], {
    encoding: "utf8",
  });
  for (const pid of children.trim().split("\n")) {
    const fds = await readdir(`/proc/${pid}/fd`);
    const targets = fds.map((fd) =>
      execFileSync("readlink", [`/proc/${pid}/fd/${fd}`], { encoding: "utf8" }).trim(),
    );
    expect(targets).not.toContain(store.path);
    expect(targets).not.toContain(`${store.path}-wal`);
  }
});

test("disposing of a copy ends its process and frees the store", async () => {
  const store = await storeWith(100);
  const copy = warmCopyOf(store);
  await copy.warm();
  await addRow(store);
  await store.user.all("PRAGMA busy_timeout = 0");
  const pinned = await store.user.get("PRAGMA wal_checkpoint(TRUNCATE)");
  expect(pinned).toMatchObject({ busy: 1 });
  await copy[Symbol.asyncDispose]();
  expect(await store.user.get("PRAGMA wal_checkpoint(TRUNCATE)")).toMatchObject({ busy: 0 });
  await expect(copy.finish()).rejects.toThrow("ended");
});
