import { copyFile, mkdir, readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { describe, expect, test } from "vitest";
import {
  type Client,
  deserializeClient,
  newClient,
  serializeClient,
} from "../../src/client/client.js";
import { normalizeClient } from "../../src/client/compare.js";
import type { Database } from "../../src/client/database.js";
import { formatJson, type JsonObject } from "../../src/client/json.js";
import { awkwardClients } from "../../src/databases/conformance.js";
import { encodeRecord } from "../../src/databases/record.js";
import { DatabaseFactory } from "../../src/databases/registry.js";
import { fixtures, temporaryFolder } from "../store/temporary.js";
import { type Line, runPython } from "./python.js";

const lines: Line[] = ["released", "development"];

/** Beside the awkward ones, a revoked one and one that is deleted on the way. */
const clients: Client[] = [
  ...awkwardClients(),
  newClient({ client_id: 10, api_key: "key-10", name: "to be deleted" }),
];

function open(home: string, settings: JsonObject = {}): Promise<Database> {
  const subfolder = join(home, "hivemind-core");
  return DatabaseFactory.create("hivemind-json-db-plugin", { subfolder, ...settings });
}

const plugin = `from hivemind_plugin_manager.database import Client, cast2client
from hivemind_json_database import JsonDB
db = JsonDB(**given.get("settings", {}))
`;

const addAll = `${plugin}
for record in given["records"]: db.add_item(cast2client(record))
if not db.commit(): raise SystemExit("not committed")
answer = len(db)`;

const readAll = `${plugin}
answer = {"clients": [c.serialize() for c in db], "found": [[c.client_id for c in db.search_by_value("api_key", key)] for key in given["keys"]]}`;

/** As a constructor of either line takes it: a crypto key is no field of the newer one. */
function records(line: Line, each: readonly Client[]): string[] {
  const shape = line === "released" ? "HiveMind 4" : "HiveMind 5";
  return each.map((client) => formatJson(encodeRecord(client, shape)));
}

function fingerprint(client: Client): string {
  return serializeClient(normalizeClient(client));
}

/** A file's records, each as it is spelled. */
function inOrder(text: string): string[] {
  return text
    .replace(/^\{\n|\n\}$/g, "")
    .split(/(?<=^ {4}\}),?\n/m)
    .sort();
}

async function allOf(database: Database): Promise<string[]> {
  const found = [];
  for await (const client of database) found.push(serializeClient(client));
  return found;
}

describe.each(lines)("the %s line's plugin", (line) => {
  test("writes clients.json as this project does, byte for byte", async () => {
    const home = await temporaryFolder();
    // The newer line keeps a crypto key in metadata, before what else is there.
    const written = clients.map((client) =>
      line === "released" ? client : { ...client, crypto_key: null },
    );
    runPython(line, home, addAll, { records: records(line, written) });
    const theirs = join(home, "hivemind-core");

    const ours = await temporaryFolder();
    await mkdir(join(ours, "hivemind-core"));
    // Which shape it has is told by the file beside it, as to the plugin.
    const version = "clients.schema_version";
    if (line === "development") {
      await copyFile(join(theirs, version), join(ours, "hivemind-core", version));
    }
    await using database = await open(ours);
    await database.addItems(written);
    const text = await readFile(join(ours, "hivemind-core", "clients.json"), "utf8");
    // The newer plugin writes new records in the order of a set, which is none.
    expect(inOrder(text)).toEqual(inOrder(await readFile(join(theirs, "clients.json"), "utf8")));
  });

  test("reads what this project wrote, and what it changes and revokes is read here", async () => {
    const home = await temporaryFolder();
    await using database = await open(home);
    await database.addItems(clients);
    const keys = clients.map((client) => client.api_key);
    const theirs = runPython<{ clients: string[]; found: number[][] }>(line, home, readAll, {
      keys,
    });
    expect(theirs.found).toEqual(clients.map((client) => [client.client_id]));
    expect(theirs.clients.map((text) => fingerprint(deserializeClient(text)))).toEqual(
      clients.map(fingerprint),
    );

    // A released plugin writes the key of what it changes twice.
    runPython(
      line,
      home,
      `${plugin}
client = db.search_by_value("api_key", "key-9")[0]
client.name = "renamed"
db.update_item(client)
db.delete_item(db.search_by_value("api_key", "key-10")[0])
answer = db.commit()`,
      {},
    );
    await database.sync();
    expect(await database.size()).toBe(clients.length);
    expect(await database.getClientById(9)).toMatchObject({ name: "renamed", api_key: "key-9" });
    expect(await database.getClientById(10)).toMatchObject({ api_key: "revoked", name: "" });

    await database.updateItem({ ...clients[0], name: "by us" } as Client);
    await database.deleteItem(9);
    const after = runPython<{ clients: string[]; found: number[][] }>(line, home, readAll, {
      keys: ["key-1", "key-9"],
    });
    expect(after.found).toEqual([[1], []]);
    expect(JSON.parse(after.clients[0] ?? "")).toMatchObject({ name: "by us" });
    expect(after.clients).toHaveLength(clients.length);
  });

  test("reads an encrypted store of this project, and the other way round", async () => {
    const password = "sixteen 'letter'";
    const home = await temporaryFolder();
    const settings = { password };
    await using database = await open(home, settings);
    await database.addItems(clients);
    const read = runPython<{ clients: string[] }>(line, home, readAll, { settings, keys: [] });
    expect(read.clients).toHaveLength(clients.length);
    runPython(line, home, addAll, {
      settings,
      records: records(line, [newClient({ client_id: 11, api_key: "theirs", name: "Zé" })]),
    });
    expect(await database.refresh(11)).toMatchObject({ api_key: "theirs", name: "Zé" });
    expect((await allOf(database)).slice(0, clients.length)).toEqual(clients.map(serializeClient));
  });
});

test("a clients.json of an older plugin keeps its bytes but for what is changed", async () => {
  const home = await temporaryFolder();
  const path = join(home, "hivemind-core", "clients.json");
  await mkdir(join(home, "hivemind-core"));
  await copyFile(join(fixtures, "clients-hivemind-json-db.json"), path);
  const before = await readFile(path, "utf8");
  await using database = await open(home);
  await database.sync();
  const first = await database.getClientById(1);
  await database.updateItem({ ...first, name: "cuisine" } as Client);
  expect(await readFile(path, "utf8")).toBe(before.replace('"kitchen-satellite"', '"cuisine"'));
});

test("migrating the records is what the development line makes of them", async () => {
  const [ours, theirs] = [await temporaryFolder(), await temporaryFolder()];
  const fixture = await readFile(join(fixtures, "clients-hivemind-json-db.json"), "utf8");
  for (const home of [ours, theirs]) {
    await mkdir(join(home, "hivemind-core"));
    await writeFile(join(home, "hivemind-core", "clients.json"), fixture);
  }
  runPython("development", theirs, `${plugin}\nanswer = len(db)`, {});
  await using database = await open(ours);
  await database.migrate(1);
  for (const name of ["clients.json", "clients.schema_version"]) {
    const read = (home: string) => readFile(join(home, "hivemind-core", name), "utf8");
    expect(await read(ours)).toBe(await read(theirs));
  }
});
