import { expect, test } from "vitest";
import { defaultAllowedTypes } from "../../src/client/client.js";
import { Machine } from "./machine.js";

interface Record {
  client_id: number;
  name: string;
  api_key?: string;
  password?: string;
  is_admin: boolean;
}

test("a client is added, found, shown and revoked, and its secrets are shown only when asked for", async () => {
  const machine = await Machine.make();
  await machine.init();
  const added = await machine.json("add-client", "--name", "kitchen", "--admin", "true");
  const client = added.document.client as Record;
  expect(client).toMatchObject({ client_id: 1, name: "kitchen", is_admin: true });
  expect(client.api_key).toMatch(/^[0-9a-f]{32}$/);

  for (const args of [
    ["list-clients"],
    ["find-client", "--by", "name", "kitchen"],
    ["show-client", "1"],
  ]) {
    const shy = await machine.run(args);
    const shyJson = await machine.run([...args, "--json"]);
    const open = await machine.run([...args, "--show-secrets", "--json"]);
    expect([shy.code, shyJson.code, open.code]).toEqual([0, 0, 0]);
    for (const secret of [client.api_key, client.password] as string[]) {
      expect(shy.stdout + shy.stderr + shyJson.stdout).not.toContain(secret);
      expect(open.stdout).toContain(secret);
    }
    expect(shy.stdout).toContain("kitchen");
    expect(shyJson.stdout).not.toContain("api_key");
  }

  expect((await machine.run(["delete-client", "1"])).code).toBe(0);
  const { document } = await machine.json("find-client", client.api_key as string);
  expect(document).toEqual({ clients: [] });
  expect((await machine.json("find-client", "revoked")).document).toEqual({ clients: [] });
  expect((await machine.json("list-clients")).document).toEqual({ clients: [] });
  const all = (await machine.json("list-clients", "--revoked")).document.clients as Record[];
  expect(all).toMatchObject([{ client_id: 1, name: "", is_admin: false }]);
  const again = () => machine.run(["delete-client", "1"]);
  expect((await again()).stdout).toContain("already revoked, nothing changed");
  // As HiveMind's own commands leave it.
  const grant = "UPDATE clients SET can_escalate = 1, can_propagate = 1 WHERE client_id = 1";
  expect((await machine.run(["sql", "--write", "--yes", grant])).code).toBe(0);
  expect((await again()).stdout).toContain("already revoked, its permissions are withdrawn now");
  expect((await again()).stdout).toContain("already revoked, nothing changed");
  const next = (await machine.json("add-client")).document.client as Record;
  expect(next).toMatchObject({ client_id: 2, name: "HiveMind-Node-1" });
});

test("--update adds no client", async () => {
  const machine = await Machine.make();
  await machine.init();
  const unnamed = await machine.run(["add-client", "--update", "--name", "kitchen"]);
  expect([unnamed.code, unnamed.stderr]).toEqual([2, expect.stringContaining("--access-key KEY")]);
  const wrong = await machine.run(["add-client", "--update", "--access-key", "none"]);
  expect([wrong.code, wrong.stderr]).toEqual([10, expect.stringContaining("no client has this")]);
  expect((await machine.json("list-clients")).document.clients).toEqual([]);
});

test("an access key that is taken changes that client only with --update", async () => {
  const machine = await Machine.make();
  await machine.init();
  const key = ["--access-key", "one key"];
  await machine.run(["add-client", ...key, "--name", "first", "--admin", "true"]);
  const refused = await machine.run(["add-client", ...key, "--name", "second"]);
  expect(refused.code).toBe(17);
  expect(refused.stderr).toContain("--update");
  const { document } = await machine.json("add-client", ...key, "--name", "second", "--update");
  expect(document.client).toMatchObject({ client_id: 1, name: "second", is_admin: true });
  // Only a new client's secrets are shown, and once.
  for (const secret of ["api_key", "password", "crypto_key"]) {
    expect(document.client).not.toHaveProperty(secret);
  }
  const shown = await machine.run(["add-client", ...key, "--name", "third", "--update"]);
  expect(shown.stdout).toContain("third");
  expect(shown.stdout).not.toMatch(/password|one key/);
});

test("a password that HiveMind 5 refuses is refused, unless it is asked for", async () => {
  const machine = await Machine.make();
  await machine.init();
  const weak = ["add-client", "--password", "hunter2"];
  const refused = await machine.run(weak);
  expect([refused.code, refused.stderr]).toEqual([
    2,
    expect.stringMatching(/too weak: at most 23 bits[\s\S]*--allow-weak-password/),
  ]);
  expect((await machine.json("list-clients")).document).toMatchObject({ clients: [] });
  expect((await machine.run([...weak, "--allow-weak-password"])).code).toBe(0);
  expect((await machine.run(["add-client", "--password", "xQ7rTz9!mK2pL"])).code).toBe(0);
});

test("a key can be looked up without being an argument", async () => {
  const machine = await Machine.make();
  await machine.init();
  await machine.run(["add-client", "--access-key", "on stdin"]);
  const { stdout } = await machine.run(["find-client", "-", "--json"], { input: "on stdin\n" });
  expect(JSON.parse(stdout)).toMatchObject({ clients: [{ client_id: 1 }] });
});

test("a list is one JSON document, or with --jsonl a record a line, whatever its length", async () => {
  const machine = await Machine.make();
  await machine.init();
  expect((await machine.json("list-clients")).document).toEqual({ clients: [] });
  const { ClientStore } = await import("../../src/store/client-store.js");
  const { getEntry } = await import("../../src/keys/keyring.js");
  const { newClient } = await import("../../src/client/client.js");
  const passphrase = (await getEntry(machine.store, "current")) as string;
  {
    await using store = await ClientStore.open(machine.store, passphrase);
    await store.addItems(
      Array.from({ length: 2500 }, (_, index) =>
        newClient({
          client_id: index + 1,
          api_key: `key ${index}`,
          name: `client\u001b[2J ${index}`,
        }),
      ),
    );
  }
  const { document } = await machine.json("list-clients");
  expect(document.clients).toHaveLength(2500);
  const lines = (await machine.run(["list-clients", "--jsonl"])).stdout.trimEnd().split("\n");
  expect(lines.map((line) => JSON.parse(line).client_id)).toEqual(
    Array.from({ length: 2500 }, (_, index) => index + 1),
  );
  const table = await machine.run(["list-clients"]);
  expect(table.stdout.trimEnd().split("\n")).toHaveLength(2501);
  expect(table.stdout).not.toContain("\u001b");
});

test("a new client may send what this schema's hub lets a new one send, or just what is named", async () => {
  const machine = await Machine.make();
  await machine.init();
  const released = (await machine.json("add-client")).document.client as Record;
  expect(released).toMatchObject({ allowed_types: defaultAllowedTypes });
  const named = await machine.json(
    "add-client",
    "--allow",
    "speak",
    "--allow",
    "mycroft.stop",
    "--allow",
    "speak",
  );
  expect(named.document.client).toMatchObject({ allowed_types: ["speak", "mycroft.stop"] });

  const newer = await Machine.make();
  await newer.init();
  expect((await newer.run(["upgrade-schema", "--yes"])).code).toBe(0);
  const nothing = await newer.run(["add-client", "--name", "kitchen", "--json"]);
  expect(JSON.parse(nothing.stdout).client).toMatchObject({ allowed_types: [] });
  expect(nothing.stderr).toMatch(/client 1 cannot send any message yet: .*allow-msg TYPE 1/);
  const one = await newer.run(["add-client", "--allow", "speak", "--json"]);
  expect(JSON.parse(one.stdout).client).toMatchObject({ allowed_types: ["speak"] });
  expect(one.stderr).toBe("");
  expect((await newer.run(["add-client", "--allow", "two words"])).code).toBe(2);
});

test("metadata is a JSON object, and --update keeps what it does not name, blacklists too", async () => {
  const machine = await Machine.make();
  await machine.init();
  const key = ["--access-key", "one key"];
  for (const bad of ["{", "[]", '"text"']) {
    const refused = await machine.run(["add-client", "--metadata", bad]);
    expect([refused.code, refused.stderr]).toEqual([2, expect.stringMatching(/JSON/)]);
  }
  await machine.run(["add-client", ...key, "--metadata", '{"room": "kitchen", "floor": 1}']);
  await machine.run(["blacklist-skill", "skill-a", "1"]);
  const { document } = await machine.json(
    "add-client",
    ...key,
    "--update",
    "--metadata",
    '{"floor": 2}',
  );
  expect(document.client).toMatchObject({
    metadata: { room: "kitchen", floor: 2, skill_blacklist: ["skill-a"] },
  });
});
