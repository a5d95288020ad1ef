import fc from "fast-check";
import { expect, test } from "vitest";
import { isComplete, parseStatements } from "../../src/sql/statements.js";

const kinds = (sql: string) => parseStatements(sql).map(({ kind }) => kind);

test("statements are told apart by semicolons outside strings, names and comments", () => {
  const sql = `SELECT ';' AS ";", [;], \`;\` -- ; one
    /* ; */ FROM t; ; UPDATE t SET a = 'it''s;'; -- nothing more`;
  expect(parseStatements(sql)).toEqual([
    { text: expect.stringMatching(/^SELECT[\s\S]*FROM t$/), kind: "select" },
    { text: "UPDATE t SET a = 'it''s;'", kind: "change" },
  ]);
});

test("a statement is complete when its semicolon is there", () => {
  expect(isComplete("SELECT 1;")).toBe(true);
  expect(isComplete("-- nothing")).toBe(true);
  for (const open of [
    "SELECT 1",
    "SELECT ';",
    'SELECT ";',
    "SELECT [;",
    "SELECT 1 /* ;",
    "SELECT 1; SELECT",
  ]) {
    expect([open, isComplete(open)]).toEqual([open, false]);
  }
  expect(isComplete("SELECT 1 -- ;\n")).toBe(false);
  expect(isComplete("SELECT '''';")).toBe(true);
});

test("what reads is told from what changes", () => {
  expect(kinds("select 1; VALUES (1); WITH a(replace) AS (DELETE) SELECT 1")).toEqual([
    "select",
    "select",
    "select",
  ]);
  expect(
    kinds(
      "PRAGMA user_version; pragma main.table_info(clients); EXPLAIN QUERY PLAN DELETE FROM clients",
    ),
  ).toEqual(["report", "report", "report"]);
  expect(
    kinds(
      "WITH a AS (SELECT 1) DELETE FROM t; REPLACE INTO t VALUES (1); DROP TABLE t; CREATE INDEX i ON t(a)",
    ),
  ).toEqual(["change", "change", "change", "change"]);
});

test("what would get round reading, or out of the store, is never run", () => {
  const never = [
    "ATTACH 'x' AS y",
    "/* c */ attach database 'x' as y",
    "DETACH y",
    "VACUUM",
    "VACUUM INTO 'x'",
    "BEGIN",
    "COMMIT",
    "SAVEPOINT a",
    "PRAGMA query_only = OFF",
    "PRAGMA query_only(0)",
    "EXPLAIN PRAGMA query_only = OFF",
    "EXPLAIN QUERY PLAN PRAGMA query_only = OFF",
    "EXPLAIN EXPLAIN SELECT 1",
    "PRAGMA user_version = 7",
    "PRAGMA main.user_version(7)",
    "PRAGMA journal_mode = DELETE",
    "PRAGMA wal_checkpoint",
    "PRAGMA optimize",
    "PRAGMA key = 'x'",
    "PRAGMA rekey = 'x'",
    "PRAGMA writable_schema = ON",
    "PRAGMA 'query_only' = OFF",
    "PRAGMA table_info(clients) = 3",
    "CREATE TRIGGER t AFTER INSERT ON clients BEGIN DELETE FROM clients; END",
    "CREATE TEMP TRIGGER t AFTER INSERT ON clients BEGIN SELECT 1; END",
    "CREATE VIRTUAL TABLE t USING fts5(a)",
  ];
  for (const sql of never) {
    expect(() => parseStatements(sql), sql).toThrow(expect.objectContaining({ kind: "refused" }));
  }
  for (const sql of ["nonsense", "(SELECT 1)", "SELECT 'open", "\u00a0SELECTED 1"]) {
    expect(() => parseStatements(sql), sql).toThrow(expect.objectContaining({ kind: "usage" }));
  }
});

test("no text at all crashes the parser", () => {
  const word = fc.constantFrom(
    "SELECT",
    "PRAGMA",
    "EXPLAIN",
    "WITH",
    "'",
    '"',
    "[",
    "/*",
    "*/",
    "--",
    "\n",
    ";",
    "(",
    ")",
    " ",
    "a",
    "=",
    "é",
    "\0",
  );
  fc.assert(
    fc.property(fc.array(word, { maxLength: 12 }), (words) => {
      const sql = words.join("");
      isComplete(sql);
      try {
        parseStatements(sql);
      } catch (error) {
        expect(error).toMatchObject({ name: "StoreError" });
      }
    }),
  );
});
