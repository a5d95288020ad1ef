import { execFileSync } from "node:child_process";
import { chmod, readdir, stat } from "node:fs/promises";
import { join } from "node:path";
import { describe, expect, test } from "vitest";
import { StoreError } from "../../src/errors.js";
import { createEncrypted, openEncrypted } from "../../src/store/cipher.js";
import { Connection } from "../../src/store/connection.js";
import { root } from "../built.js";
import { copyOfFixture, temporaryFolder } from "./temporary.js";

const fast = { mode: "create", busyTimeoutMs: 20 } as const;

describe("a connection", () => {
  test("keeps all of a transaction, or nothing if it throws", async () => {
    await using connection = await Connection.open(":memory:", fast);
    await connection.run("CREATE TABLE t (v)");
    await connection.transaction(() => connection.run("INSERT INTO t VALUES (?)", [1]));
    await expect(
      connection.transaction(async () => {
        await connection.run("INSERT INTO t VALUES (2)");
        throw new Error("changed my mind");
      }),
    ).rejects.toThrow("changed my mind");
    expect(await connection.all("SELECT v FROM t")).toEqual([{ v: 1 }]);
  });

  test("leaves no storage for asynchronous contexts, which slows every await in Node.js 22", async () => {
    const program = `
      import { executionAsyncResource } from "node:async_hooks";
      import { Connection } from "${root}dist/store/connection.js";
      // With a storage in use, Node.js gives an id to each promise that is awaited.
      const hasIds = async () => {
        await null;
        const symbols = Object.getOwnPropertySymbols(executionAsyncResource());
        return symbols.map(String).includes("Symbol(async_id_symbol)");
      };
      const connection = await Connection.open(":memory:", { mode: "create" });
      const during = await connection.transaction(hasIds);
      await connection.close();
      console.log(during, await hasIds());`;
    const args = ["--no-async-context-frame", "--input-type=module", "--eval", program];
    expect(execFileSync(process.execPath, args, { encoding: "utf8" })).toBe("true false\n");
  });

  test("runs transactions one after the other, and one inside another as a part of it", async () => {
    await using connection = await Connection.open(":memory:", fast);
    await connection.run("CREATE TABLE t (v)");
    const add = (v: number) =>
      connection.transaction(async () => {
        const row = await connection.get<{ n: number }>("SELECT count(*) AS n FROM t");
        await connection.run("INSERT INTO t VALUES (?)", [v * 10 + (row?.n ?? 0)]);
      });
    await Promise.all([add(1), add(2), add(3)]);
    await expect(
      connection.transaction(async () => {
        await add(4);
        throw new Error("undo");
      }),
    ).rejects.toThrow("undo");
    expect(await connection.all("SELECT v FROM t")).toEqual([{ v: 10 }, { v: 21 }, { v: 32 }]);
  });

  test("a prepared statement holds no lock after its first row", async () => {
    const path = join(await temporaryFolder(), "plain.db");
    await using reader = await Connection.open(path, fast);
    await reader.exec("CREATE TABLE t (v); INSERT INTO t VALUES (1), (2)");
    const first = await reader.prepare("SELECT v FROM t");
    expect(await first.get()).toEqual({ v: 1 });
    await using writer = await Connection.open(path, fast);
    // In DELETE mode a commit waits for every reader to end.
    expect(await writer.run("INSERT INTO t VALUES (3)")).toEqual({ changes: 1 });
  });

  test("closes with statements still prepared, and twice", async () => {
    const connection = await Connection.open(":memory:", fast);
    await connection.prepare("SELECT 1");
    const finalized = await connection.prepare("SELECT 2");
    await finalized.finalize();
    await connection.close();
    await connection.close();
  });

  test("another's lock is a store in use", async () => {
    const path = join(await temporaryFolder(), "plain.db");
    await using first = await Connection.open(path, fast);
    await first.run("CREATE TABLE t (v)");
    await using second = await Connection.open(path, fast);
    await first.transaction(async () => {
      await expect(second.run("INSERT INTO t VALUES (1)")).rejects.toMatchObject({
        kind: "inUse",
        message: `${path} is in use by another process: database is locked`,
      });
    });
  });

  test("a missing file is not made unless asked for, and a read-only one not written", async () => {
    const folder = await temporaryFolder();
    for (const mode of ["readonly", "readwrite"] as const) {
      await expect(Connection.open(join(folder, "none.db"), { mode })).rejects.toMatchObject({
        kind: "io",
      });
    }
    expect(await readdir(folder)).toEqual([]);
    const path = await copyOfFixture("plain-schema0.db");
    await using connection = await Connection.open(path, { mode: "readonly" });
    await expect(connection.run("DELETE FROM clients")).rejects.toMatchObject({ kind: "io" });
  });

  test("an error of SQL names the file and keeps its text", async () => {
    await using connection = await Connection.open(":memory:", fast);
    const error = await connection.all("SELECT nonsense").catch((error: unknown) => error);
    expect(error).toBeInstanceOf(StoreError);
    expect(error).toMatchObject({
      kind: "failed",
      message: expect.stringContaining("no such column"),
    });
  });

  test("an immutable file in WAL mode is read without leaving anything beside it, whatever its name", async () => {
    const folder = await temporaryFolder();
    const path = join(folder, "clients %41 #?&=ü 'x'.db");
    const { connection } = await createEncrypted(path, "p");
    await connection.exec("PRAGMA journal_mode = WAL; CREATE TABLE t (v)");
    await connection.close();
    const before = await stat(path);
    await chmod(path, 0o400);
    const copy = await openEncrypted(path, "p", { mode: "readonly", immutable: true });
    expect(await copy.connection.all("SELECT * FROM t")).toEqual([]);
    expect(await readdir(folder)).toEqual(["clients %41 #?&=ü 'x'.db"]);
    await copy.connection.close();
    expect((await stat(path)).mtimeMs).toBe(before.mtimeMs);
  });
});
