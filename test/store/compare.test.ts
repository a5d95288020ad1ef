/**
 * What a comparison of two databases sees: each case is one difference that an export must never
 * leave.
 */
import { join } from "node:path";
import { expect, onTestFinished, test } from "vitest";
import { compareDatabases } from "../../src/store/compare.js";
import { Connection } from "../../src/store/connection.js";
import { temporaryFolder } from "./temporary.js";

const tables = `
  CREATE TABLE clients (client_id INTEGER PRIMARY KEY, name TEXT COLLATE NOCASE);
  CREATE TABLE notes (text, weight);
  CREATE TABLE words (word TEXT PRIMARY KEY, meaning);
  CREATE TABLE pairs (a, b, PRIMARY KEY (a, b)) WITHOUT ROWID;
  CREATE TABLE backwards (id INTEGER PRIMARY KEY DESC, text);
  INSERT INTO clients VALUES (1, 'kitchen'), (9007199254740993, NULL);
  INSERT INTO notes VALUES ('gone', 0), ('twice', 1), ('twice', 1), (NULL, 2.5), (x'00', 3);
  INSERT INTO words VALUES ('gone', ''), ('hub', 'a machine');
  INSERT INTO pairs VALUES (1, 2), (1, 3);
  INSERT INTO backwards VALUES (0, 'gone'), (3, 'c'), (4, 'd');
  DELETE FROM notes WHERE text = 'gone';
  DELETE FROM words WHERE word = 'gone';
  DELETE FROM backwards WHERE text = 'gone';
`;

/**
 * A database and what an export makes of it: rows whose row id is no column's get new ones. Changed
 * by `difference`.
 */
async function compared(difference: string): Promise<unknown> {
  const folder = await temporaryFolder();
  const connection = await Connection.open(join(folder, "one.db"), { mode: "create" });
  onTestFinished(() => connection.close());
  await connection.exec(tables);
  const other = await Connection.open(join(folder, "other.db"), { mode: "create" });
  await other.exec(tables.replace(/INSERT INTO \w+ VALUES [^;]*;|DELETE [^;]*;/g, ""));
  await other.all("ATTACH ? AS source", [join(folder, "one.db")]);
  for (const table of ["clients", "notes", "words", "pairs", "backwards"]) {
    await other.exec(`INSERT INTO main.${table} SELECT * FROM source.${table}`);
  }
  await other.exec("DETACH source");
  await other.exec(difference);
  await other.close();
  await connection.all("ATTACH ? AS staged", [join(folder, "other.db")]);
  return await compareDatabases([connection], "staged", new AbortController().signal).catch(
    (error: unknown) => error,
  );
}

test("rows that nothing names may be numbered anew", async () => {
  expect(await compared("")).toBe(undefined);
});

test.each([
  ["a row is missing", "DELETE FROM clients WHERE client_id = 1"],
  ["a value is another", "UPDATE clients SET name = 'Kitchen' WHERE client_id = 1"],
  ["a large id is the next one", "UPDATE clients SET client_id = client_id - 1 WHERE name IS NULL"],
  ["NULL became empty", "UPDATE clients SET name = '' WHERE name IS NULL"],
  ["a row is there once instead of twice", "DELETE FROM notes WHERE rowid = 1"],
  [
    "one of two has the other's place",
    "UPDATE notes SET text = 'twice', weight = 1 WHERE text IS NULL",
  ],
  ["a whole number became a real one", "UPDATE notes SET weight = 1.0 WHERE rowid = 1"],
  ["bytes became text", "UPDATE notes SET text = char(0) WHERE weight = 3"],
  ["a row with a key in text", "UPDATE words SET meaning = 'A machine'"],
  ["a row without a row id", "UPDATE pairs SET b = 4 WHERE b = 3"],
  ["a key that is not the row id", "UPDATE backwards SET text = 'x' WHERE id = 3"],
  ["a row too many", "INSERT INTO pairs VALUES (0, 0)"],
  ["another schema", "CREATE INDEX names ON clients (name)"],
  ["another version", "PRAGMA user_version = 7"],
])("it is seen that %s", async (_, difference) => {
  expect(await compared(difference)).toMatchObject({ kind: "corrupted" });
});
