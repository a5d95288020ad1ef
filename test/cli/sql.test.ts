/** SQL as a user types it. */
import { readFile, stat } from "node:fs/promises";
import { expect, test } from "vitest";
import { newClient } from "../../src/client/client.js";
import { getEntry } from "../../src/keys/keyring.js";
import { ClientStore } from "../../src/store/client-store.js";
import { Machine } from "./machine.js";
import { onTerminal } from "./terminal.js";

async function withClients(): Promise<Machine> {
  const machine = await Machine.make();
  await machine.init();
  const passphrase = (await getEntry(machine.store, "current")) as string;
  await using store = await ClientStore.open(machine.store, passphrase);
  await store.addItems([
    newClient({ client_id: 1, api_key: "your-key", name: "kitchen, 1st", is_admin: true }),
    newClient({ client_id: 2, api_key: "k2", name: "hall" }),
  ]);
  return machine;
}

test("the queries of the operations manual work as written", async () => {
  const machine = await withClients();
  const version = await machine.run(["sql", "PRAGMA user_version;"]);
  expect([version.code, version.stdout]).toEqual([
    0,
    expect.stringMatching(/^user_version\n +[02]\n$/),
  ]);
  const list = await machine.run([
    "sql",
    "SELECT client_id, name, is_admin, last_seen FROM clients;",
  ]);
  expect(list.stdout).toBe(
    "client_id  name          is_admin  last_seen\n        1  kitchen, 1st         1       -1.0\n        2  hall                 0       -1.0\n",
  );
  const found = await machine.json("sql", "SELECT * FROM clients WHERE api_key = 'your-key';");
  expect(found.document.columns).toContain("api_key");
  expect((found.document.rows as unknown[][])[0]?.slice(0, 3)).toEqual([
    1,
    "your-key",
    "kitchen, 1st",
  ]);
});

test("answers go into pipes as CSV, and statements come out of them", async () => {
  const machine = await withClients();
  const csv = await machine.run(["sql", "--csv"], { input: "SELECT name, NULL\nFROM clients" });
  expect([csv.code, csv.stdout]).toEqual([0, 'name,NULL\r\n"kitchen, 1st",\r\nhall,\r\n']);
  const tables = await machine.run(["sql", ".tables"]);
  expect(tables.stdout).toBe("name\nclients\n");
});

test("what is wrong, or would change something, is refused by its exit code", async () => {
  const machine = await withClients();
  const cases: [string[], number, RegExp][] = [
    [["sql", "DELETE FROM clients"], 17, /changes the store[\s\S]*--write/],
    [["sql", "--write", "DELETE FROM clients"], 2, /confirmation needed[\s\S]*--yes/],
    [["sql", "--write", "ATTACH 'x' AS y"], 17, /ATTACH is not supported/],
    [["sql", "PRAGMA user_version = 9"], 17, /PRAGMA user_version with a value/],
    [["sql", "SELEKT 1"], 2, /not a supported SQL/],
    [["sql", "SELECT 'a"], 2, /unterminated/],
    [["sql", "SELECT nowhere FROM clients"], 1, /no such column: nowhere/],
    [["sql", "--csv", "SELECT 1; SELECT 2"], 2, /one result/],
    [["sql", ".backup x"], 2, /hivemind-sqlcipher backup/],
    [["sql", "--history", "h", "SELECT 1"], 2, /only for the prompt/],
  ];
  for (const [args, code, says] of cases) {
    const answer = await machine.run(args);
    expect([args, answer.code, answer.stdout]).toEqual([args, code, ""]);
    expect(answer.stderr).toMatch(says);
  }
  expect((await machine.json("sql", "SELECT count(*) FROM clients")).document.rows).toEqual([[2]]);
});

test("with --write, JSON and CSV refuse several results before the commit", async () => {
  const machine = await withClients();
  const rename = "UPDATE clients SET name = 'x' WHERE client_id = 1 RETURNING name";
  for (const mode of ["--json", "--csv"]) {
    for (const second of ["SELECT 1", rename]) {
      const args = ["sql", mode, "--write", "--yes", `${rename}; ${second}`];
      const { code, stdout, stderr } = await machine.run(args);
      expect([code, stdout + stderr]).toEqual([
        2,
        expect.stringContaining("the statements have 2"),
      ]);
    }
  }
  const { stdout } = await machine.run(["sql", "--csv", "SELECT name FROM clients"]);
  expect(stdout).toBe('name\r\n"kitchen, 1st"\r\nhall\r\n');
});

test("with --write a change is shown, and kept when it is confirmed", async () => {
  const machine = await withClients();
  const update = ["sql", "--write", "UPDATE clients SET name = 'x' WHERE client_id = 2"];
  const no = await onTerminal(machine, update, [["[y/N]", "n\r"]]);
  expect([no.code, no.screen]).toEqual([17, expect.stringContaining("1 row changed: UPDATE")]);
  const yes = await onTerminal(machine, update, [["[y/N]", "y\r"]]);
  expect([yes.code, yes.screen]).toEqual([0, expect.stringContaining("saved")]);
  const gone = await machine.run([
    "sql",
    "--write",
    "--yes",
    "--json",
    "DELETE FROM clients WHERE name = 'x'",
  ]);
  expect(JSON.parse(gone.stdout)).toEqual({
    columns: [],
    rows: [],
    changed: 1,
    clients: { before: { active: 2, revoked: 0 }, after: { active: 1, revoked: 0 } },
  });
  expect(gone.stderr).toContain("delete-client, which keeps the row");
});

test("the prompt takes statements over several lines, completes names, goes on after an error, and keeps its history only where asked", async () => {
  const machine = await withClients();
  const history = machine.path("history");
  const { code, screen } = await onTerminal(
    machine,
    ["sql", "--write", "--history", history],
    [
      ["sql> ", "SELECT na"],
      ["SELECT na", "\t"],
      ["me", " FROM clients\r"],
      ["...> ", "ORDER BY 1;\r"],
      ["kitchen, 1st", "SELECT wrong;\r"],
      ["no such column: wrong", "SELECT 'half\r"],
      ["...> ", "\u0003"],
      ["sql> ", ".mode csv\r"],
      ["sql> ", "SELECT 'it''s ' || (6*7);\r"],
      ["it's 42", "UPDATE clients SET name = 'cellar' WHERE client_id = 2;\r"],
      ["[y/N] ", "y\r"],
      ["saved", "SELECT 'now ' || name FROM clients WHERE client_id = 2;\r"],
      ["now cellar", ".quit \r"],
    ],
  );
  expect([code, screen]).toEqual([0, expect.stringContaining("1 row changed")]);
  expect((await stat(history)).mode & 0o777).toBe(0o600);
  expect(await readFile(history, "utf8")).toContain("SELECT name FROM clients\n");
  const without = await onTerminal(machine, ["sql"], [["sql> ", "\u0004"]]);
  expect(without.code).toBe(0);
});
