/**
 * The clients of a restore are compared before its downtime, and again within it only if something
 * changed the store in between.
 */
import { cp, readdir, readFile, stat, writeFile } from "node:fs/promises";
import { dirname, join } from "node:path";
import { setTimeout as delay } from "node:timers/promises";
import { describe, expect, onTestFinished, test, vi } from "vitest";
import { newClient } from "../../src/client/client.js";
import { StoreError } from "../../src/errors.js";
import { withOperation } from "../../src/recovery/recover.js";
import { Comparison } from "../../src/restore/differences.js";
import { restore } from "../../src/restore/restore.js";
import { StagedCopy } from "../../src/restore/staged-copy.js";
import { ClientStore } from "../../src/store/client-store.js";
import { setJournalMode } from "../../src/store/locked-store.js";
import { RowChanges } from "../../src/store/row-changes.js";
import { temporaryFolder } from "../store/temporary.js";
import { backUp, passphrase, twoBackups } from "../tampering/support.js";

/**
 * A store with two clients in a journal mode, and a copy of it for a restore.
 *
 * @param active - clients of the copy
 */
async function restoring(mode: "wal" | "delete", readmitRevoked = false, active = 2) {
  const directory = await temporaryFolder();
  const storePath = join(directory, "clients.db");
  const staged = join(directory, "staged.db");
  const made = await ClientStore.create(storePath, "passphrase");
  for (const id of [1, 2]) await made.addItem(newClient({ client_id: id, api_key: `key ${id}` }));
  await made.close();
  await cp(storePath, staged);
  const present = await ClientStore.open(storePath, made.key);
  onTestFinished(() => present.close());
  await setJournalMode(present.connection, mode);
  const abort = new AbortController();
  const copy = new StagedCopy({
    storePath,
    replaced: { state: "open", secret: made.key },
    readmitRevoked,
    clients: { active, revoked: 0 },
    confirmed: { revoked: [], stayRevoked: [], readmitted: [], widened: [], missing: 0 },
    signal: abort.signal,
  });
  onTestFinished(() => copy[Symbol.asyncDispose]());
  return { storePath, staged, key: made.key, present, copy, abort };
}

describe.each(["wal", "delete"] as const)("journal mode %s", (mode) => {
  test("without a change, nothing is compared under the lock", async () => {
    const { staged, key, present, copy, abort } = await restoring(mode);
    await present.deleteItem(1);
    await copy.prefill(staged, key);
    await present.close();
    const locked = await copy.lock();
    // A comparison would throw.
    abort.abort();
    const completed = await copy.complete(staged, key, locked);
    await locked.release();
    expect(completed).toEqual({ clients: { active: 1, revoked: 1 }, stayedRevoked: [1] });
    await using restored = await ClientStore.open(staged, key);
    expect(await restored.counts()).toEqual({ active: 1, revoked: 1 });
    const row = await restored.connection.get<{ mode: string }>(
      "SELECT journal_mode AS mode FROM pragma_journal_mode",
    );
    expect(row?.mode).toBe(mode);
  });

  test("an interrupted comparison is reported as interrupted", async () => {
    const { staged, key, copy, abort } = await restoring(mode);
    abort.abort();
    await expect(copy.prefill(staged, key)).rejects.toMatchObject({ kind: "interrupted" });
  });

  test("a client that is revoked after the comparison stays revoked", async () => {
    const { staged, key, present, copy } = await restoring(mode);
    await present.deleteItem(1);
    await copy.prefill(staged, key);
    await present.deleteItem(2);
    await present.close();
    const locked = await copy.lock();
    const completed = await copy.complete(staged, key, locked);
    await locked.release();
    expect(completed).toEqual({ clients: { active: 0, revoked: 2 }, stayedRevoked: [1, 2] });
  });

  test("a program that opened the store, and closes it late, is waited for", async () => {
    const { staged, key, present, copy } = await restoring(mode);
    await copy.prefill(staged, key);
    await present.deleteItem(2);
    await present.connection.run("BEGIN");
    await present.size();
    setTimeout(() => present.close(), 300);
    const locked = await copy.lock();
    const completed = await copy.complete(staged, key, locked);
    await locked.release();
    expect(completed.stayedRevoked).toEqual([2]);
  });

  test("a change that was not asked about is refused, and the store can be used again", async () => {
    const { storePath, staged, key, present, copy } = await restoring(mode, true);
    await copy.prefill(staged, key);
    await present.deleteItem(2);
    await present.close();
    const locked = await copy.lock();
    await expect(copy.complete(staged, key, locked)).rejects.toMatchObject({ kind: "refused" });
    await locked.unlock();
    await using again = await ClientStore.open(storePath, key);
    await again.addItem(newClient({ client_id: 3, api_key: "key 3" }));
  });
});

describe("under the lock, in a store with many clients", () => {
  /**
   * A comparison of the client would find its earlier key in the copy, which was not asked about.
   */
  async function withUnnoticed(changes: (present: ClientStore) => Promise<void>) {
    const restored = await restoring("wal", false, 60);
    const { storePath, staged, key, present, copy } = restored;
    const description = "d".repeat(9_000);
    const clients = Array.from({ length: 60 }, (_, index) =>
      newClient({ client_id: 1 + index, api_key: `key ${index}`, password: "a", description }),
    );
    await present.addItems(clients);
    await present.connection.get("PRAGMA wal_checkpoint(TRUNCATE)");
    await cp(storePath, staged);
    await present.updateClient(3, { last_seen: 1.5 });
    await copy.prefill(staged, key);
    await using written = await ClientStore.open(staged, key);
    await written.updateClient(1, { api_key: "earlier" });
    await written.close();
    await changes(present);
    await present.close();
    const locked = await copy.lock();
    onTestFinished(() => locked.release());
    return copy.complete(staged, key, locked);
  }

  test("only what changed is compared again", async () => {
    const completed = await withUnnoticed(async (present) => {
      await present.updateClient(40, { last_seen: 1.5 });
      await present.deleteItem(50);
    });
    expect(completed).toEqual({ clients: { active: 59, revoked: 1 }, stayedRevoked: [50] });
  });

  test.each([
    ["the schema has changed", "CREATE INDEX names ON clients (name)"],
    ["only an overflow page has changed", "UPDATE clients SET password = 'b' WHERE client_id = 40"],
  ])("all clients are compared again if %s", async (_, sql) => {
    const completed = withUnnoticed(async (present) => {
      await present.connection.all(sql);
      await present.updateClient(40, { last_seen: 2.5 });
    });
    await expect(completed).rejects.toMatchObject({ kind: "refused" });
  });
});

test("an interrupted restore stops copying the backup, and leaves nothing", async () => {
  const { store } = await twoBackups(await temporaryFolder());
  const directory = dirname(store);
  const opened = await ClientStore.open(store, passphrase);
  await opened.updateClient(3, { description: "d".repeat(24 << 20) });
  const { path, bytes } = await backUp(opened, directory, "2026-11-26T18-50-00Z");
  await opened.updateClient(3, { description: "" });
  await opened.close();
  const source = { kind: "file", path: join(directory, "passphrase") } as const;
  await writeFile(source.path, passphrase, { mode: 0o600 });
  const before = await readFile(store);
  const known = new Set(await readdir(directory));
  const controller = new AbortController();
  const reporter = { notice: () => {}, detail: () => {}, confirm: async () => {} };
  let isOver = false;
  const restored = withOperation(store, reporter, (lock) =>
    restore({
      ...{ lock, source, reporter, recoveryCommand: ["false"], signal: controller.signal },
      ...{ hub: "none", backup: { file: path } },
      settingsSection: { path: join(directory, "config.json"), store: undefined },
      service: { service: "none", unit: "none", storePath: store },
    }),
  )
    .catch((error: unknown) => error)
    .finally(() => {
      isOver = true;
    });
  let copied = 0;
  while (!isOver) {
    for (const name of await readdir(directory)) {
      if (known.has(name)) continue;
      const file = await stat(join(directory, name)).catch(() => undefined);
      copied = Math.max(copied, file?.size ?? 0);
    }
    // Larger than the journal and the lock.
    if (copied > 1 << 20) controller.abort(new StoreError("interrupted", "by the test"));
    await delay(1);
  }
  expect(await restored).toMatchObject({ kind: "interrupted" });
  expect(copied).toBeLessThan(bytes.length / 2);
  expect((await readFile(store)).equals(before)).toBe(true);
  const left = (await readdir(directory)).filter((name) => !known.has(name));
  expect(left.filter((name) => !name.endsWith(".lock"))).toEqual([]);
});

test("a client that is revoked just after a round has read the log stays revoked", async () => {
  const { staged, storePath, key, present, copy } = await restoring("wal");
  for (let id = 3; id <= 200; id++) {
    await present.addItem(newClient({ client_id: id, api_key: `${id} ${"x".repeat(200)}` }));
  }
  await present.connection.get("PRAGMA wal_checkpoint(TRUNCATE)");
  await cp(storePath, staged);
  const rename = (name: string) =>
    present.connection.run("UPDATE clients SET name = ? WHERE client_id = 1", [name]);
  await rename("in the log");
  const { compare } = Comparison.prototype;
  vi.spyOn(Comparison.prototype, "compare").mockImplementationOnce(async function (
    this: Comparison,
    ...args
  ) {
    await compare.apply(this, args);
    await rename("so that there is a round");
  });
  const { next } = RowChanges.prototype;
  let reads = 0;
  vi.spyOn(RowChanges.prototype, "next").mockImplementation(async function (this: RowChanges) {
    const spans = await next.apply(this);
    reads += 1;
    if (reads === 2) await present.deleteItem(150);
    return spans;
  });
  onTestFinished(() => {
    vi.restoreAllMocks();
  });
  await copy.prefill(staged, key);
  expect(reads).toBeGreaterThanOrEqual(2);
  await present.close();
  const locked = await copy.lock();
  const completed = await copy.complete(staged, key, locked);
  await locked.release();
  expect(completed.stayedRevoked).toEqual([150]);
});
