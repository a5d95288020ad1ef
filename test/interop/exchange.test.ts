import { mkdir, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { describe, expect, test } from "vitest";
import { isRevoked } from "../../src/client/client.js";
import { applyImport, prepareImport, readImport } from "../../src/exchange/import.js";
import { ClientStore } from "../../src/store/client-store.js";
import { temporaryFolder } from "../store/temporary.js";
import { type Line, runPython } from "./python.js";

/**
 * The hub's own commands: three clients, one with a comma in its name, one revoked, and its export
 * of them.
 */
const exportAll = `
from hivemind_core.scripts import hmcore_cmds
def hub(*args):
    try: hmcore_cmds(list(args), standalone_mode=False)
    except SystemExit: pass
hub("add-client", "--name", "kitchen, upstairs", "--access-key", "key1", "--password", "correct-Horse-7-battery", "--admin", "true")
hub("add-client", "--name", "gone", "--access-key", "key2")
hub("add-client", "--name", "None", "--access-key", "key3")
hub("delete-client", "2", *given["yes"])
hub("export-clients", "--path", given["folder"])
answer = open(given["folder"] + "/hivemind_clients.csv").read()
`;

describe.each<Line>(["released", "development"])("the %s hub's export-clients", (line) => {
  test("is imported: commas in names, None, True, the revoked row", async () => {
    const home = await temporaryFolder();
    await mkdir(join(home, "hivemind-core"));
    const database = {
      module: "hivemind-sqlite-db-plugin",
      "hivemind-sqlite-db-plugin": { name: "clients", subfolder: "hivemind-core" },
    };
    await writeFile(join(home, "hivemind-core", "server.json"), JSON.stringify({ database }));
    const csv = runPython<string>(line, home, exportAll, {
      folder: home,
      // Newer hubs ask.
      yes: line === "development" ? ["--yes"] : [],
    });
    expect(csv).toContain("1,kitchen, upstairs,True,key1,");

    await using store = await ClientStore.create(join(home, "ours.db"), "passphrase");
    const prepared = await prepareImport(
      await readImport({ file: join(home, "hivemind_clients.csv") }),
      { store },
    );
    const { format, plan } = prepared;
    expect([format, plan.rejected]).toEqual(["csv", []]);
    await applyImport(prepared, { store });
    const clients = [];
    for await (const client of store) clients.push(client);
    expect(clients).toMatchObject([
      { client_id: 1, name: "kitchen, upstairs", is_admin: true, api_key: "key1" },
      { client_id: 2, api_key: "revoked" },
      { client_id: 3, api_key: "key3", is_admin: false },
    ]);
    expect(clients.map(isRevoked)).toEqual([false, true, false]);
    expect(clients[0]?.password).toBe("correct-Horse-7-battery");
  });
});
