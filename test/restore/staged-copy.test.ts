/**
 * The clients of a restore are compared before its downtime, and again within it only if something
 * changed the store in between.
 */
import { cp } from "node:fs/promises";
import { join } from "node:path";
import { describe, expect, onTestFinished, test } from "vitest";
import { newClient } from "../../src/client/client.js";
import { StagedCopy } from "../../src/restore/staged-copy.js";
import { ClientStore } from "../../src/store/client-store.js";
import { setJournalMode } from "../../src/store/locked-store.js";
import { temporaryFolder } from "../store/temporary.js";

/** A store with two clients in a journal mode, and a copy of it for a restore. */
async function restoring(mode: "wal" | "delete", readmitRevoked = false) {
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
    confirmed: { revoked: [], widened: [], missing: 0 },
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
