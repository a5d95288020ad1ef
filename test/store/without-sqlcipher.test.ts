import { readdir, readFile } from "node:fs/promises";
import { join } from "node:path";
import sqlite3 from "@journeyapps/sqlcipher";
import { expect, test, vi } from "vitest";
import { createEncrypted, identify, openEncrypted } from "../../src/store/cipher.js";
import { ClientStore } from "../../src/store/client-store.js";
import { Connection } from "../../src/store/connection.js";
import { copyOfFixture, temporaryFolder } from "./temporary.js";

// A library built without SQLCipher knows none of its pragmas: it ignores them, and writes plain
// text.
const { all } = sqlite3.Database.prototype;
vi.spyOn(sqlite3.Database.prototype, "all").mockImplementation(function (
  this: sqlite3.Database,
  sql: string,
  ...rest: unknown[]
) {
  const ignored = /^PRAGMA (?:key|cipher)/.test(sql);
  return all.call(this, ignored ? "PRAGMA nothing_of_the_kind" : sql, ...rest) as sqlite3.Database;
});

const refusal = { kind: "refused", message: expect.stringContaining("built without SQLCipher") };

test("the stand-in would write plain text, as such a build does", async () => {
  const path = join(await temporaryFolder(), "clients.db");
  const connection = await Connection.open(path, { mode: "create" });
  await connection.all("PRAGMA key = 'secret'");
  await connection.run("CREATE TABLE t (v)");
  await connection.close();
  expect((await readFile(path)).toString("latin1", 0, 15)).toBe("SQLite format 3");
});

test("a build without SQLCipher makes no store", async () => {
  const folder = await temporaryFolder();
  const path = join(folder, "clients.db");
  await expect(createEncrypted(path, "p")).rejects.toMatchObject(refusal);
  await expect(ClientStore.create(path, "p")).rejects.toMatchObject(refusal);
  await expect(ClientStore.open(path, "p", { mode: "create" })).rejects.toMatchObject(refusal);
  expect(await readdir(folder)).toEqual([]);
});

test("a build without SQLCipher opens no store, and changes no byte of one", async () => {
  for (const name of ["sqlcipher4-schema2.db", "plain-schema0.db"]) {
    const path = await copyOfFixture(name);
    const before = await readFile(path);
    await expect(openEncrypted(path, "p", { mode: "readwrite" })).rejects.toMatchObject(refusal);
    await expect(identify(path)).rejects.toMatchObject(refusal);
    expect((await readFile(path)).equals(before)).toBe(true);
    expect(await readdir(join(path, ".."))).toEqual([name]);
  }
});
