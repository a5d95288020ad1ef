/**
 * What the hub's verbs mean to the hubs themselves: the plugin of each line reads what they wrote.
 */
import { mkdir } from "node:fs/promises";
import { join } from "node:path";
import { describe, expect, test } from "vitest";
import { defaultAllowedTypes, newClient } from "../../src/client/client.js";
import {
  addToBlacklist,
  allowMessage,
  type ClientEdit,
  denyMessage,
  effectiveTypes,
} from "../../src/client/permissions.js";
import { ClientTable } from "../../src/store/client-table.js";
import { Connection } from "../../src/store/connection.js";
import { createSchema, readSchema } from "../../src/store/schema.js";
import { temporaryFolder } from "../store/temporary.js";
import { type Line, runPython } from "./python.js";

const readAll = `
from hivemind_sqlite_database import SQLiteDB
db = SQLiteDB()
answer = [[c.allowed_types, list(c.skill_blacklist)] for c in db]
db.conn.close()`;

const lists = [[], ["speak"], ["recognizer_loop:utterance", "speak"], [...defaultAllowedTypes]];
const verbs: ClientEdit[] = [
  allowMessage("new"),
  denyMessage("speak"),
  denyMessage("speak:b64_audio"),
];

describe.each<[Line, 0 | 2]>([
  ["released", 0],
  ["development", 2],
])("the %s hub, schema %i", (line, version) => {
  test("reads from each list of types what the verb was to make of it, and the blacklist", async () => {
    const home = await temporaryFolder();
    await mkdir(join(home, "hivemind-core"));
    const path = join(home, "hivemind-core", "clients.db");
    const expected: unknown[] = [];
    {
      await using connection = await Connection.open(path, { mode: "create" });
      await createSchema(connection, version);
      const table = new ClientTable(connection, await readSchema(connection));
      let id = 0;
      for (const allowed_types of lists) {
        for (const verb of verbs) {
          id += 1;
          const client = newClient({ client_id: id, api_key: `k${id}`, allowed_types });
          await table.addItem(client);
          const typed = await table.updateClient(id, verb(client, version).changes);
          const { changes } = addToBlacklist("skill_blacklist", "s")(typed, version);
          const after = await table.updateClient(id, changes);
          expected.push([[...effectiveTypes(after, version)], ["s"]]);
        }
      }
    }
    expect(runPython(line, home, readAll, {})).toEqual(expected);
  });
});
