import { open, readFile, stat } from "node:fs/promises";
import { join } from "node:path";
import { describe, expect, test } from "vitest";
import { newClient } from "../../src/client/client.js";
import { identify, openEncrypted } from "../../src/store/cipher.js";
import { ClientStore } from "../../src/store/client-store.js";
import { findIntegrityErrors } from "../../src/store/integrity.js";
import { temporaryFolder } from "./temporary.js";

/** A byte of a file that this process has locked: the file's number and the byte's position. */
type LockedByte = string;

/**
 * The bytes that this process has locked in a store and in its `-shm`, by the kernel's own list.
 * Closing any descriptor of one of these files drops every lock on it: then another process may
 * checkpoint, or delete the `-wal`, under an open read.
 *
 * The kernel merges locks on neighbouring bytes into one range, so ranges cannot be compared.
 */
async function lockedBytes(path: string): Promise<LockedByte[]> {
  const inodes = await Promise.all(
    [path, `${path}-shm`].map(async (name) => String((await stat(name)).ino)),
  );
  const lines = (await readFile("/proc/locks", "utf8")).split("\n");
  return lines.flatMap((line) => {
    const [, , , , pid, file = "", first, last] = line.split(/\s+/);
    const inode = file.split(":").at(-1) ?? "";
    if (pid !== String(process.pid) || !inodes.includes(inode)) return [];
    return range(Number(first), Number(last)).map((byte) => `${inode}:${byte}`);
  });
}

function range(first: number, last: number): number[] {
  return Array.from({ length: last - first + 1 }, (_, index) => first + index);
}

describe.runIf(process.platform === "linux")("the locks on an open store", () => {
  test("are held through everything that this project's store does", async () => {
    const path = join(await temporaryFolder(), "clients.db");
    const made = await ClientStore.create(path, "passphrase");
    await made.addItem(newClient({ client_id: 1, api_key: "k1" }));
    await made.close();

    await using pinning = await ClientStore.open(path, made.key);
    await using other = await ClientStore.open(path, made.key);
    // A read keeps its snapshot, and its lock on the -shm, until the transaction ends.
    await pinning.connection.run("BEGIN");
    await pinning.size();
    const held = await lockedBytes(path);
    expect(held.length).toBeGreaterThanOrEqual(3);

    const client = newClient({ client_id: 2, api_key: "k2", metadata: { site: "lisboa" } });
    const reopened = async () => {
      const store = await ClientStore.open(path, made.key, { mode: "create" });
      await store.close();
    };
    const readOnly = async () => {
      const { connection } = await openEncrypted(path, "passphrase", { mode: "readonly" });
      await connection.close();
    };
    const wrong = () => openEncrypted(path, "wrong", { mode: "readwrite" }).catch(() => undefined);
    const again = () => ClientStore.create(path, "passphrase").catch(() => undefined);
    const operations: [string, () => Promise<unknown>][] = [
      ["identify", () => identify(path)],
      ["open and close", reopened],
      ["open to read", readOnly],
      ["a wrong passphrase", wrong],
      ["create where there is one", again],
      ["addItem", () => other.addItem(client)],
      ["addItems", () => other.addItems([client, { ...client, client_id: 3 }])],
      ["updateItem", () => other.updateItem({ ...client, name: "n" })],
      ["updateClient", () => other.updateClient(2, { last_seen: 1 })],
      ["replaceItem", () => other.replaceItem({ ...client, client_id: 3 }, client)],
      ["deleteItem", () => other.deleteItem(2)],
      ["searchByValue", () => other.searchByValue("name", "n")],
      ["getClientByApiKey", () => other.getClientByApiKey("k1")],
      ["iterate", () => other[Symbol.asyncIterator]().next()],
      ["counts", () => other.counts()],
      ["nextClientId", () => other.nextClientId()],
      ["sync", () => other.sync()],
      ["migrate", () => other.migrate(0)],
      ["integrity", () => findIntegrityErrors(other.connection)],
    ];
    for (const [name, operation] of operations) {
      await operation();
      expect(await lockedBytes(path), name).toEqual(expect.arrayContaining(held));
    }

    // That the test can fail: what nothing here may ever do.
    const file = await open(path, "r");
    await file.close();
    expect(await lockedBytes(path)).not.toEqual(expect.arrayContaining(held));
  });
});
