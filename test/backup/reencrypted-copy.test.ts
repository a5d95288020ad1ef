/** A warm copy under another key, and the lock that ends it: what a rotation is made of. */
import { execFile } from "node:child_process";
import { once } from "node:events";
import { readdir, readFile, writeFile } from "node:fs/promises";
import { basename, dirname, join } from "node:path";
import { expect, onTestFinished, test } from "vitest";
import { openEncrypted, type StoreKey } from "../../src/store/cipher.js";
import { ClientStore } from "../../src/store/client-store.js";
import type { Connection } from "../../src/store/connection.js";
import { findPageErrors } from "../../src/store/page-integrity.js";
import { built, root } from "../built.js";
import { temporaryFolder } from "../store/temporary.js";
import { largeClients } from "./hub.js";

const { WarmCopy } =
  await built<typeof import("../../src/backup/warm-copy.js")>("backup/warm-copy.js");
const { createEncrypted, openEncrypted: openBuilt } =
  await built<typeof import("../../src/store/cipher.js")>("store/cipher.js");

const passphrase = "correct horse";

interface Scene {
  readonly path: string;
  readonly staged: string;
  /** The new key. */
  readonly key: StoreKey;
  readonly copy: InstanceType<typeof WarmCopy>;
}

async function sceneWith(clients: number): Promise<Scene> {
  const path = join(await temporaryFolder(), "clients.db");
  await using store = await ClientStore.create(path, passphrase);
  await store.addItems(largeClients(clients));
  const old = await openBuilt(path, passphrase, { mode: "readwrite" });
  await old.connection.close();
  const staged = `${path}.staged`;
  const { connection, key } = await createEncrypted(staged, "another passphrase");
  await connection.close();
  const copy = new WarmCopy(path, old.key, staged, key);
  onTestFinished(() => copy[Symbol.asyncDispose]());
  return { path, staged, key, copy };
}

/** A connection of this process: SQLite keeps it apart from those of the compiled modules. */
async function userOf({ path }: Scene): Promise<Connection> {
  const options = { mode: "readwrite", busyTimeoutMs: 0 } as const;
  const { connection } = await openEncrypted(path, passphrase, options);
  onTestFinished(() => connection.close());
  return connection;
}

async function addRow(user: Connection, description: string): Promise<void> {
  await user.run(
    "INSERT INTO clients (client_id, api_key, description) VALUES ((SELECT max(client_id) + 1 FROM clients), 'k', ?)",
    [description],
  );
}

async function rowsOf(path: string, secret: string): Promise<unknown[]> {
  const { connection } = await openEncrypted(path, secret, { mode: "readonly", immutable: true });
  try {
    expect(await connection.get("PRAGMA integrity_check")).toEqual({ integrity_check: "ok" });
    return await connection.all("SELECT rowid, * FROM clients");
  } finally {
    await connection.close();
  }
}

async function expectSameDatabase({ path, staged, key }: Scene): Promise<void> {
  expect(await rowsOf(staged, "another passphrase")).toEqual(await rowsOf(path, passphrase));
  expect(await findPageErrors(staged, key)).toEqual([]);
}

test("beside a writer that never pauses, the copy under another key has every commit", async () => {
  const scene = await sceneWith(3000);
  const { path, copy } = scene;
  await writeFile(`${path}.pass`, passphrase, { mode: 0o600 });
  const log = `${path}.log`;
  const writer = execFile(process.execPath, [
    `${root}test/backup/writer.mjs`,
    ...[path, `${path}.pass`, log, "0"],
  ]);
  const committed = async () =>
    (await readFile(log, "utf8").catch(() => "")).split("\n").filter(Boolean).map(Number);
  while ((await committed()).length < 50) await new Promise(setImmediate);
  const user = await userOf(scene);
  await copy.warm();
  // Checkpoints come and go meanwhile: by the writer itself, every 1000 pages, and by others.
  const from = (await committed()).length;
  while ((await committed()).length < from + 300) {
    await user.all("PRAGMA wal_checkpoint(PASSIVE)");
    await copy.complete();
    await copy.refresh();
  }
  writer.kill("SIGTERM");
  await once(writer, "exit");
  await user.close();
  const locked = await copy.lock();
  await copy.truncate();
  await locked.release();
  await expectSameDatabase(scene);
  const rows = (await rowsOf(path, passphrase)) as { client_id: number }[];
  expect(rows.at(-1)?.client_id).toBe((await committed()).at(-1));
});

test("before the lock, the log is written into the store's file, however long the copy took", async () => {
  const scene = await sceneWith(100);
  const { copy } = scene;
  const user = await userOf(scene);
  await copy.warm();
  const inUse = async () => {
    const frames = await user.get<{ log: number; checkpointed: number }>(
      "PRAGMA wal_checkpoint(NOOP)",
    );
    return (frames?.log ?? 0) - (frames?.checkpointed ?? 0);
  };
  for (let row = 0; row < 300; row++) await addRow(user, "in the log");
  await user.all("PRAGMA wal_checkpoint(PASSIVE)");
  expect(await inUse()).toBeGreaterThan(300);
  await copy.refresh();
  expect(await inUse()).toBe(0);
  await addRow(user, "after it");
  await copy.refresh();
  await user.close();
  const locked = await copy.lock();
  await copy.truncate();
  await locked.release();
  await expectSameDatabase(scene);
});

test("under the lock nobody reads or writes, and without a replacement the store is as before", async () => {
  const scene = await sceneWith(100);
  const { path, copy } = scene;
  const user = await userOf(scene);
  await copy.warm();
  await addRow(user, "in the log");
  await user.close();
  const locked = await copy.lock();
  expect(locked.journalMode).toBe("wal");
  const names = (await readdir(dirname(path))).filter((name) => name.startsWith(basename(path)));
  expect(names.sort()).toEqual(["clients.db", "clients.db.staged"]);
  const opening = openEncrypted(path, passphrase, { mode: "readwrite", busyTimeoutMs: 0 });
  await expect(opening).rejects.toMatchObject({ kind: "inUse" });
  await locked.unlock();
  const again = await userOf(scene);
  expect(await again.get("PRAGMA journal_mode")).toEqual({ journal_mode: "wal" });
  await addRow(again, "afterwards");
  expect(await again.get("SELECT count(*) AS rows FROM clients")).toEqual({ rows: 102 });
});

test("a store that is in use is not locked, and not even for a moment", async () => {
  const scene = await sceneWith(100);
  const user = await userOf(scene);
  await scene.copy.warm();
  await expect(scene.copy.lock()).rejects.toMatchObject({ kind: "inUse" });
  await addRow(user, "afterwards");
  expect(await user.get("PRAGMA journal_mode")).toEqual({ journal_mode: "wal" });
});

test("a log that was restarted more than once before the lock has the whole store copied again", async () => {
  const scene = await sceneWith(300);
  const { copy } = scene;
  const user = await userOf(scene);
  await addRow(user, "in the log");
  await copy.warm();
  await copy.unpin();
  for (const text of ["first", "second", "third"]) {
    await user.run("UPDATE clients SET description = ? WHERE client_id % 50 = 1", [text]);
    await addRow(user, text);
    await user.all("PRAGMA wal_checkpoint(RESTART)");
  }
  await user.run("UPDATE clients SET name = 'last' WHERE client_id = 7");
  const written = copy.written;
  await copy.completeLocked();
  expect(copy.written - written).toBeGreaterThan(300 * 1000);
  await copy.truncate();
  await user.close();
  await expectSameDatabase(scene);
});

test("a damaged page of the store is an error, and names the page", async () => {
  const scene = await sceneWith(100);
  const bytes = await readFile(scene.path);
  bytes[5 * 4096 + 9] = (bytes[5 * 4096 + 9] ?? 0) ^ 1;
  await writeFile(scene.path, bytes);
  await expect(scene.copy.warm()).rejects.toMatchObject({
    kind: "corrupted",
    message: `page 6 of ${scene.path} is damaged`,
  });
});

test("a damaged page whose new content is in the log is no damage", async () => {
  const scene = await sceneWith(100);
  const user = await userOf(scene);
  await user.all("PRAGMA wal_autocheckpoint = 0");
  await user.run("UPDATE clients SET name = 'changed'");
  const bytes = await readFile(scene.path);
  // As a checkpoint that is writing the page leaves it.
  bytes.fill(0, 5 * 4096 + 2000, 6 * 4096);
  await writeFile(scene.path, bytes, { flag: "r+" });
  expect(await scene.copy.warm()).toBe(0);
  await scene.copy.complete();
  await scene.copy.truncate();
  expect(await findPageErrors(scene.staged, scene.key)).toEqual([]);
});
