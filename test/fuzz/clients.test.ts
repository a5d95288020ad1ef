/**
 * What clients are read from: records, rows of the store, files to import; and what is said about
 * them.
 */
import assert from "node:assert/strict";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Encrypter, generateX25519Identity, identityToRecipient } from "age-encryption";
import fc from "fast-check";
import { afterAll, beforeAll } from "vitest";
import { renderRecoverySheet } from "../../src/bundle/sheet.js";
import {
  type Client,
  clientSchema,
  deserializeClient,
  isRevoked,
  newClient,
  serializeClient,
  withoutSecrets,
} from "../../src/client/client.js";
import { type JsonObject, parseJson, sameJson } from "../../src/client/json.js";
import * as permissions from "../../src/client/permissions.js";
import { changeRecord, encodeRecord, migrateRecord } from "../../src/databases/record.js";
import { StoreError } from "../../src/errors.js";
import { exportText } from "../../src/exchange/export.js";
import { applyImport, prepareImport, readImport } from "../../src/exchange/import.js";
import { checkPassphrase, generatePassphrase } from "../../src/keys/passphrase.js";
import { SqlSession } from "../../src/sql/session.js";
import { isComplete, parseStatements, type Statement } from "../../src/sql/statements.js";
import { ClientStore } from "../../src/store/client-store.js";
import { ClientTable } from "../../src/store/client-table.js";
import { Connection } from "../../src/store/connection.js";
import { createSchema, migrateSchema, readSchema } from "../../src/store/schema.js";
import { answerOf, assertRefusal, campaign, secretMark } from "./campaign.js";
import { bytesOf, objectOf, recordFields, secret, wildJson, wildText } from "./inputs.js";

const folder = mkdtempSync(join(tmpdir(), "hivemind-fuzz-"));
afterAll(() => rmSync(folder, { recursive: true }));

function same(a: Client, b: Client): void {
  assert(sameJson({ ...a }, { ...b }), `${serializeClient(a)}\n${serializeClient(b)}`);
}

const anyId = fc.oneof(fc.integer({ min: 1, max: 9 }), fc.constantFrom(0, -1, 2 ** 53 - 1));

campaign("a record is a client or refused; written and read again it is the same client", {
  what: "client records",
  share: 140,
  inputs: fc.tuple(
    bytesOf(objectOf(recordFields(anyId))).map((bytes) => bytes.toString()),
    fc.constantFrom("HiveMind 4" as const, "HiveMind 5" as const),
    wildText,
  ),
  async holds([text, shape, name]) {
    const client = await answerOf(() => deserializeClient(text));
    if (client === undefined) return;
    same(deserializeClient(serializeClient(client)), client);
    assert(
      !JSON.stringify(
        withoutSecrets({ ...client, metadata: {}, name: "", description: "" }),
      ).includes(secretMark),
    );
    const record = parseJson(text) as JsonObject;
    for (const key of Object.keys(record)) {
      const known = Object.hasOwn(clientSchema.shape, key) || key.endsWith("_blacklist");
      assert(known || Object.hasOwn(client.metadata, key), `${key} is lost`);
    }
    const read = deserializeClient(record);
    assert.equal(changeRecord(record, read, shape), record);
    const renamed = changeRecord(record, { ...read, name }, shape);
    same(deserializeClient(renamed), { ...read, name });
    for (const key of Object.keys(record)) {
      if (key !== "name") assert.equal(renamed[key], record[key]);
    }
    same(deserializeClient(encodeRecord(read, "HiveMind 4")), read);
    const migrated = migrateRecord(record);
    assert.equal(migrateRecord(migrated), migrated);
    for (const key of ["intent_blacklist", "skill_blacklist"] as const) {
      const list = read.metadata[key];
      if (Array.isArray(list))
        assert(sameJson(deserializeClient(migrated).metadata[key] ?? null, list));
    }
  },
});

/** A value of any type in a column, as SQL. */
const cell: fc.Arbitrary<string> = fc.oneof(
  fc.constantFrom(
    "NULL",
    "0",
    "1",
    "-1",
    "2.5",
    "9e999",
    "9223372036854775807",
    "-9223372036854775808",
  ),
  fc.constantFrom(
    "X''",
    "X'00ff'",
    "X'5b2261225d'",
    "'[\"a\", 1, null]'",
    "'{}'",
    "'[1.0, NaN]'",
    "'[]'",
  ),
  wildText.map((text) => `'${text.replaceAll("'", "''").replaceAll("\0", "")}'`),
  wildJson
    .filter((text) => text.length < 9000)
    .map((text) => `'${text.replaceAll("'", "''").replaceAll("\0", "")}'`),
);

const columns = [
  ...[
    "api_key",
    "name",
    "description",
    "is_admin",
    "last_seen",
    "intent_blacklist",
    "skill_blacklist",
  ],
  ...[
    "message_blacklist",
    "allowed_types",
    "crypto_key",
    "password",
    "can_broadcast",
    "can_escalate",
  ],
  ...["can_propagate", "metadata"],
];

interface WildRow {
  readonly id: string;
  readonly cells: readonly string[];
}

const row: fc.Arbitrary<WildRow> = fc.record({
  id: fc.oneof(
    { arbitrary: fc.integer({ min: 1, max: 60 }).map(String), weight: 40 },
    {
      arbitrary: fc.constantFrom("0", "-5", "9007199254740992", "-9223372036854775808"),
      weight: 1,
    },
  ),
  cells: fc.tuple(
    ...columns.map((name) => (name === "api_key" ? cell.filter((sql) => sql !== "NULL") : cell)),
  ),
});

const tables: Record<string, readonly string[]> = {
  "schema 0": columns,
  "schema 2": columns,
  "released, without metadata": columns.filter((name) => name !== "metadata"),
  "newest, without crypto_key": columns.filter((name) => name !== "crypto_key"),
};

let connection: Connection;
beforeAll(async () => {
  connection = await Connection.open(":memory:", { mode: "create" });
});
afterAll(() => connection.close());

/** Every value of every row, with its type. */
async function rowsOf(connection: Connection, name?: string): Promise<Map<string, string>> {
  const found = await connection.all<{ name: string }>("PRAGMA table_info(clients)");
  const shown = found.map((column) => column.name).filter((column) => column !== name);
  const rows = await connection.all<{ id: string; text: string }>(
    `SELECT CAST(client_id AS TEXT) AS id, ${shown.map((column) => `hex(quote(${column}))`).join(" || ' ' || ")} AS text
      FROM clients ORDER BY client_id`,
  );
  return new Map(rows.map(({ id, text }) => [id, text]));
}

campaign(
  "a row of any types is a client or refused, and what is not changed in it keeps its bytes",
  {
    what: "rows of the store",
    share: 100,
    each: 20,
    inputs: fc.tuple(
      fc.constantFrom(...Object.keys(tables)),
      fc.uniqueArray(row, { minLength: 20, maxLength: 20, selector: ({ id }) => id }),
      wildText,
      fc.boolean(),
    ),
    async holds([kind, rows, name, migrating]) {
      const known = tables[kind] ?? [];
      const version = kind === "schema 2" || kind.startsWith("newest") ? 2 : 0;
      await connection.exec(`DROP TABLE IF EXISTS clients; PRAGMA user_version = ${version};
      CREATE TABLE clients (client_id INTEGER PRIMARY KEY, ${known.map((column) => `${column} ${typeOf(column)}`).join(", ")})`);
      for (const { id, cells } of rows) {
        const values = cells.filter((_, index) => known.includes(columns[index] ?? ""));
        await connection.exec(`INSERT INTO clients VALUES (${[id, ...values].join(", ")})`);
      }
      const table = new ClientTable(connection, await readSchema(connection));
      const before = await rowsOf(connection);
      const clients: Client[] = [];
      for (const { id } of rows) {
        const client = await answerOf(() => table.getClientById(Number(id)));
        if (client !== undefined && String(client.client_id) === id) clients.push(client);
      }
      await answerOf(async () => {
        for await (const client of table) void client;
      });
      await table.counts();
      await answerOf(() => table.searchByValue("name", name));
      assert.deepEqual(await rowsOf(connection), before);

      for (const client of clients) same(deserializeClient(serializeClient(client)), client);
      const [first, second] = clients;
      if (first !== undefined) {
        const others = await rowsOf(connection, "name");
        const renamed = await answerOf(() => table.updateClient(first.client_id, { name }));
        assert.deepEqual(await rowsOf(connection, "name"), others);
        const after = await table.getClientById(first.client_id);
        if (renamed && after) same(after, { ...first, name });
      }
      if (second !== undefined) {
        await table
          .updateItem({ ...second, last_seen: -1, metadata: second.metadata })
          .catch(assertRefusal);
        await table.deleteItem(second.client_id);
        const gone = await table.getClientById(second.client_id);
        assert(gone !== undefined && isRevoked(gone) && gone.password === null);
      }
      if (!migrating) return;
      const untouched = await rowsOf(connection);
      if ((await answerOf(() => migrateSchema(connection))) === undefined && version === 0) {
        const { user_version } =
          (await connection.get<{ user_version: number }>("PRAGMA user_version")) ?? {};
        if (user_version === 0) assert.deepEqual(await rowsOf(connection), untouched);
      }
      const migrated = await rowsOf(connection);
      await answerOf(() => migrateSchema(connection));
      assert.deepEqual(await rowsOf(connection), migrated);
    },
  },
);

function typeOf(column: string): string {
  if (column === "last_seen") return "REAL DEFAULT -1";
  return /^(is|can)_/.test(column) ? "BOOLEAN" : "TEXT";
}

const fileRecord = objectOf(recordFields(fc.integer({ min: 1, max: 12 })), 20);
const csvValue = fc.oneof(
  { arbitrary: secret, weight: 3 },
  {
    arbitrary: fc.constantFrom(
      "",
      "None",
      "True",
      "False",
      "true",
      "1",
      '"a"',
      '"a,""b"',
      '"',
      "a,b",
    ),
    weight: 3,
  },
  { arbitrary: wildText, weight: 1 },
);
const csvLine = fc
  .tuple(
    fc.oneof(fc.integer({ min: 1, max: 12 }).map(String), csvValue),
    csvValue,
    csvValue,
    secret,
    csvValue,
    csvValue,
  )
  .map((values) => values.join(","));

const importFile = bytesOf(
  fc.oneof(
    fc
      .array(fileRecord, { maxLength: 5 })
      .map((records) => records.map((text) => text.replace(/\s+/g, " ")).join("\n")),
    fc.array(fileRecord, { maxLength: 5 }).map((records) => `[${records.join(",\n")}]`),
    fc
      .array(fileRecord, { maxLength: 5 })
      .map((records) => `{"clients": [${records.join(",")}], "n": 1}`),
    fc
      .array(fileRecord, { maxLength: 4 })
      .map((all) => `{${all.map((text, index) => `"${index}": ${text}`).join(",\n")}}`),
    fc
      .tuple(
        fc.constantFrom(
          "client_id,name,is_admin,access_key,password,crypto_key",
          "client_id,name,is_admin,access_key,password",
          '"client_id","name","is_admin","access_key","password","crypto_key"',
          "name,access_key",
          "access_key,access_key",
        ),
        fc.array(csvLine, { maxLength: 6 }),
        fc.constantFrom("\n", "\r\n", "\r"),
      )
      .map(([header, lines, end]) => [header, ...lines, ""].join(end)),
    wildJson,
    wildText,
  ),
);

const present = [
  newClient({ client_id: 1, api_key: `${secretMark}1`, name: "one" }),
  newClient({ client_id: 2, api_key: "revoked", allowed_types: [] }),
  newClient({
    client_id: 3,
    api_key: `${secretMark}3`,
    is_admin: true,
    metadata: { skill_blacklist: ["x"] },
  }),
];

let target: ClientTable;
beforeAll(async () => {
  const connection = await Connection.open(":memory:", { mode: "create" });
  await createSchema(connection, 2);
  target = new ClientTable(connection, await readSchema(connection));
  await target.addItems(present);
});
afterAll(() => target.close());

campaign("a file is imported as a whole or not at all, and brings nobody back", {
  what: "CSV, JSON and JSONL to import",
  share: 80,
  inputs: fc.tuple(importFile, fc.boolean(), fc.nat()),
  async holds([bytes, update, cut]) {
    const before = await rowsOf(target.connection);
    const at = bytes.length === 0 ? 0 : cut % bytes.length;
    async function* chunks() {
      yield bytes.subarray(0, at);
      yield bytes.subarray(at);
    }
    const read = await answerOf(() =>
      readImport({ file: chunks() }).then((file) => prepareImport(file, { store: target, update })),
    );
    assert.deepEqual(await rowsOf(target.connection), before);
    if (read === undefined) return;
    for (const { why } of read.plan.rejected) assert(!why.includes(secretMark), why);
    if (read.plan.rejectedCount > 0) return;
    const applied = await answerOf(() => applyImport(read, { store: target }).then(() => true));
    const after = await rowsOf(target.connection);
    if (applied === undefined) {
      assert.deepEqual(after, before);
      return;
    }
    const clients: Client[] = [];
    for await (const client of target) clients.push(client);
    assert.deepEqual(
      clients.map(({ client_id }) => client_id),
      Array.from(clients, (_, index) => index + 1),
    );
    assert.equal(clients.length, 3 + read.plan.added.length);
    const revokedOne = clients[1];
    assert(revokedOne !== undefined && isRevoked(revokedOne));
    if (!update) for (const id of ["1", "2", "3"]) assert.equal(after.get(id), before.get(id));
    const keys = clients.filter((client) => !isRevoked(client)).map(({ api_key }) => api_key);
    assert.equal(new Set(keys).size, keys.length);
    let text = "";
    for await (const part of exportText({ clients: target, format: "json", secrets: true }))
      text += part;
    parseJson(text);
    await target.connection.exec("DELETE FROM clients");
    await target.addItems(present);
  },
});

const verbs: Record<string, (text: string) => permissions.ClientEdit> = {
  rename: permissions.rename,
  admin: () => permissions.setPermission("is_admin", true),
  "no broadcast": () => permissions.setBroadcast(false),
  allow: permissions.allowMessage,
  deny: permissions.denyMessage,
  "blacklist skill": (text) => permissions.addToBlacklist("skill_blacklist", text),
  "allow skill": (text) => permissions.removeFromBlacklist("skill_blacklist", text),
  "blacklist intent": (text) => permissions.addToBlacklist("intent_blacklist", text),
  "allow intent": (text) => permissions.removeFromBlacklist("intent_blacklist", text),
};

campaign("a verb changes a client as asked or refuses, and twice is the same as once", {
  what: "arguments of permissions",
  share: 60,
  inputs: fc.tuple(
    objectOf(recordFields(anyId)),
    fc.constantFrom(...Object.keys(verbs)),
    fc.oneof(wildText, fc.constantFrom("speak", "recognizer_loop:utterance", "x", "skill-x")),
    fc.constantFrom(0, 1, 2),
  ),
  async holds([text, name, argument, schemaVersion]) {
    const client = await answerOf(() => deserializeClient(text));
    if (client === undefined) return;
    const before = serializeClient(client);
    const edit = await answerOf(() => verbs[name]?.(argument)(client, schemaVersion));
    assert.equal(serializeClient(client), before);
    if (edit === undefined) return;
    const after = { ...client, ...edit.changes };
    permissions.findDifferences(client, after);
    const widened = permissions.findWidenings(client, after);
    if (/blacklist|no/.test(name)) assert.deepEqual(widened, []);
    if (name === "deny") {
      // A list that is written out is more than an empty one to the hub of the other line, so this
      // one is asked alone.
      const allowed = permissions.effectiveTypes(client, schemaVersion);
      const left = permissions.effectiveTypes(after, schemaVersion);
      assert.deepEqual(
        left.filter((type) => !allowed.includes(type)),
        [],
      );
    }
    assert.deepEqual(verbs[name]?.(argument)(after, schemaVersion).changes, {});
    if (clientSchema.safeParse(after).success)
      same(deserializeClient(serializeClient(after)), after);
  },
});

const generated = Array.from({ length: 50 }, () => generatePassphrase());

campaign("a passphrase is told apart: made here, mistyped, somebody's own", {
  what: "passphrases",
  share: 60,
  inputs: fc.tuple(
    fc.constantFrom(...generated),
    bytesOf(fc.constantFrom(...generated)).map((bytes) => bytes.toString()),
    wildText.map((text) => (text === "" || text.includes("\0") ? text : secretMark + text)),
    fc.nat(12 * 6 + 4),
    fc.constantFrom(..."0123456789ABCDEFGHJKMNPQRSTVWXYZoil -".split("")),
  ),
  async holds([whole, harmed, other, place, symbol]) {
    for (const text of [harmed, other, `${other}${whole}`]) {
      const checked = await answerOf(() => checkPassphrase(text));
      if (checked?.kind === "generated")
        assert.match(checked.passphrase, /^([0-9A-HJKMNP-TV-Z]{5}-){12}[0-9A-HJKMNP-TV-Z]{5}$/);
      else if (checked) assert.equal(checked.passphrase, text);
    }
    for (const text of [
      whole.toLowerCase(),
      whole.replaceAll("-", ""),
      ` ${whole.replaceAll("-", "  ")}`,
    ]) {
      assert.deepEqual(checkPassphrase(text), { kind: "generated", passphrase: whole });
    }
    const mistyped = checkPassphrase(whole.slice(0, place) + symbol + whole.slice(place + 1));
    if (mistyped.kind === "generated") assert.equal(mistyped.passphrase, whole);
    else assert.equal(mistyped.kind, "mistyped");
  },
});

const sqlWord = fc.oneof(
  {
    arbitrary: fc.constantFrom(
      ..."SELECT FROM clients * name , ( ) WHERE = 1 client_id api_key UNION ALL VALUES WITH x AS INSERT INTO UPDATE SET DELETE EXPLAIN QUERY PLAN PRAGMA main . query_only table_info user_version journal_mode OFF ON ; CREATE VIEW TEMP TABLE TRIGGER DROP ATTACH VACUUM BEGIN COMMIT REPLACE RETURNING ORDER BY LIMIT -- /* */ ' '' \" ` [ ] \n NULL count(*) random() load_extension('x') writefile('x','y') sqlcipher_export('main') cipher_log rekey key".split(
        " ",
      ),
    ),
    weight: 30,
  },
  { arbitrary: wildText, weight: 1 },
);

const sqlText = fc.oneof(
  fc.array(sqlWord, { maxLength: 14 }).map((words) => words.join(" ")),
  bytesOf(
    fc.constantFrom(
      "SELECT name AS n, 'a;b' FROM clients WHERE client_id = 1; -- done",
      "WITH x(y) AS (SELECT 1) SELECT y FROM x UNION VALUES (2)",
      "EXPLAIN QUERY PLAN SELECT * FROM clients",
      "PRAGMA main.table_info('clients'); PRAGMA query_only",
      "UPDATE clients SET name = 'x' WHERE client_id = 1 RETURNING name; DELETE FROM clients",
    ),
  ).map((bytes) => bytes.toString()),
);

campaign("SQL text is taken apart so that nothing is lost and nothing is added", {
  what: "SQL text",
  share: 50,
  inputs: sqlText,
  async holds(text) {
    isComplete(text);
    const statements = await answerOf(() => parseStatements(text));
    if (statements === undefined) return;
    let rest = text;
    for (const statement of statements) {
      const at = rest.indexOf(statement.text);
      assert(at >= 0);
      assert(!/['"`[\]]/.test(text) || statement.text !== "");
      rest = rest.slice(at + statement.text.length);
    }
    for (const statement of statements) {
      if (
        /;/.test(
          statement.text.replace(
            /'[^']*'|"[^"]*"|`[^`]*`|\[[^\]]*\]|--[^\n]*|\/\*[\s\S]*?\*\//g,
            "",
          ),
        )
      ) {
        assert.fail(`two statements in one: ${statement.text}`);
      }
    }
  },
});

let store: ClientStore;
let session: SqlSession;
beforeAll(async () => {
  store = await ClientStore.create(join(folder, "clients.db"), "fuzz");
  await store.addItems(present);
  session = await SqlSession.on(store);
});
afterAll(() => store.close());

campaign("SQL that is said to read changes nothing, nor does a rehearsal of what changes", {
  what: "SQL, run",
  share: 5,
  inputs: sqlText,
  async holds(text) {
    const statements = await answerOf(() => parseStatements(text));
    if (statements === undefined) return;
    const before = await stateOf(store.connection);
    for (const statement of statements) {
      const run = (one: Statement) =>
        one.kind === "change" ? session.dryRun([one]) : session.read(one);
      await run(statement).catch((error: unknown) => {
        assert(error instanceof StoreError, String(error));
      });
    }
    assert.equal(await stateOf(store.connection), before);
  },
});

async function stateOf(connection: Connection): Promise<string> {
  const settings: unknown[] = [];
  for (const name of ["query_only", "user_version", "schema_version", "journal_mode"]) {
    settings.push(await connection.all(`PRAGMA ${name}`));
  }
  settings.push(
    await connection.all("SELECT name, file FROM pragma_database_list WHERE name <> 'temp'"),
  );
  const rows = [...(await rowsOf(connection))];
  const names = await connection.all(
    "SELECT * FROM sqlite_schema UNION ALL SELECT * FROM sqlite_temp_schema",
  );
  return JSON.stringify([settings, rows, names]);
}

let bundle: string;
beforeAll(async () => {
  bundle = join(folder, "clients.0123456789abcdef.bundle.age");
  const encrypter = new Encrypter();
  encrypter.addRecipient(await identityToRecipient(await generateX25519Identity()));
  writeFileSync(bundle, await encrypter.encrypt("{}"));
});

const tags =
  /<(?!\/?(?:!doctype|html|head|meta|title|style|body|header|h1|h2|p|dl|dt|dd|section|ol|li|code|div|figure|svg|path|figcaption|pre|span|strong)\b)/;

campaign("a recovery sheet shows a passphrase so that it can be typed from it", {
  what: "recovery sheet",
  share: 5,
  inputs: fc.tuple(
    fc.option(wildText, { nil: undefined }),
    fc.oneof(
      wildText.filter((text) => text !== ""),
      fc.constantFrom(...generated),
      fc
        .array(fc.string({ unit: "grapheme-ascii", minLength: 5, maxLength: 5 }), {
          minLength: 13,
          maxLength: 13,
        })
        .map((groups) => groups.join("-")),
    ),
    wildText,
  ),
  async holds([where, passphrase, database]) {
    const page = await renderRecoverySheet({
      ...{ bundle, store: where, withPassphrase: true, printedAt: new Date(0) },
      contents: {
        ...{
          format: "hivemind-sqlcipher-bundle",
          version: 1,
          key_id: "0123456789abcdef",
          passphrase,
        },
        ...{
          cipher_compatibility: 4,
          database,
          created_at: "2026-11-24T18:50:00Z",
          how_to_open: [],
        },
      },
    });
    assert(!tags.test(page), tags.exec(page)?.input.slice(tags.exec(page)?.index ?? 0, 200));
    const [, groups] = /<ol class="groups">(.*?)<\/ol>/s.exec(page) ?? [];
    const [, own] = /<p class="own">(.*?)<\/p>/s.exec(page) ?? [];
    const shown =
      groups
        ?.replace(/^<li>|<\/li>$/g, "")
        .split("</li><li>")
        .join("-") ??
      own ??
      "";
    assert.equal(textOf(shown), passphrase);
  },
});

function textOf(html: string): string {
  const signs: Record<string, string> = { amp: "&", lt: "<", gt: ">", quot: '"' };
  return html.replace(/&(amp|lt|gt|quot);/g, (_, name: string) => signs[name] ?? "");
}
