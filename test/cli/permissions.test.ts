/** The hub's verbs, as a user types them. */
import { expect, test } from "vitest";
import { switches, valued } from "../../src/cli/commands/edit-client.js";
import { type Client, newClient } from "../../src/client/client.js";
import type { ClientEdit } from "../../src/client/permissions.js";
import { getEntry } from "../../src/keys/keyring.js";
import { ClientStore } from "../../src/store/client-store.js";
import { Machine } from "./machine.js";
import { onTerminal } from "./terminal.js";

async function opened(machine: Machine): Promise<ClientStore> {
  const passphrase = (await getEntry(machine.store, "current")) as string;
  return ClientStore.open(machine.store, passphrase);
}

async function withClients(): Promise<Machine> {
  const machine = await Machine.make();
  await machine.init();
  await using store = await opened(machine);
  const names = ["kitchen", "hall"];
  await store.addItems(
    names.map((name, index) => newClient({ client_id: index + 1, api_key: `key ${name}`, name })),
  );
  return machine;
}

test("a verb says what was and what is, in words and in JSON, and a second time that nothing changed", async () => {
  const machine = await withClients();
  const cases: [string[], string, unknown, unknown][] = [
    [["rename-client", "1", "--name", "cellar"], "name", "kitchen", "cellar"],
    [["make-admin", "1"], "is_admin", false, true],
    [["blacklist-propagate", "1"], "can_propagate", true, false],
    [["blacklist-skill", "s1", "1"], "skill_blacklist", [], ["s1"]],
  ];
  for (const [args, key, before, after] of cases) {
    const { code, document } = await machine.json(...args);
    expect([code, document.changed]).toEqual([0, { [key]: { before, after } }]);
    expect(document.client).toMatchObject({ client_id: 1 });
    expect(document.client).not.toHaveProperty("password");
  }
  const again = await machine.run(["make-admin", "1"]);
  expect([again.code, again.stdout]).toEqual([0, expect.stringContaining("nothing changed")]);
  const words = await machine.run(["allow-msg", "speak", "2"]);
  expect(words.stdout).toMatch(
    /client 2 \(hall\):\n {2}allowed_types\n {4}before {2}.*b64_audio.*\n {4}after {3}.*, speak\n/,
  );
});

test("every verb does what its name says", () => {
  const before = newClient({ client_id: 1, api_key: "k", is_admin: true });
  const verbs = new Map([
    ...switches.map(([name, , verb]) => [name, verb] as const),
    ...valued.map(([usage, , , verb]) => [usage.replace(/ .*/, ""), verb("x")] as const),
  ]);
  expect(verbs.size).toBe(14);
  for (const [name, verb] of verbs) {
    const allows = /^(allow|make)/.test(name);
    const opposite = verbs.get(
      name.replace(
        /^\w+/,
        (word) => ({ make: "revoke", revoke: "make", allow: "blacklist" })[word] ?? "allow",
      ),
    ) as ClientEdit;
    const start = { ...before, ...opposite(before, 2).changes };
    const { changes } = verb(start, 2);
    const what = name.replace(/^\w+-/, "");
    const fields: Record<string, (client: Client) => boolean> = {
      admin: (client) => client.is_admin,
      msg: (client) => client.allowed_types.includes("x"),
      skill: (client) => !((client.metadata.skill_blacklist ?? []) as string[]).includes("x"),
      intent: (client) => !((client.metadata.intent_blacklist ?? []) as string[]).includes("x"),
      escalate: (client) => client.can_escalate,
      propagate: (client) => client.can_propagate,
      broadcast: (client) => client.can_broadcast,
    };
    const may = fields[what] as (client: Client) => boolean;
    expect([name, may(start), may({ ...start, ...changes })]).toEqual([name, !allows, allows]);
  }
});

test("an id that is missing, wrong, or another's is refused by its exit code, and nothing is written", async () => {
  const machine = await withClients();
  await machine.run(["delete-client", "2"]);
  const listed = async () => (await machine.run(["list-clients", "--revoked", "--json"])).stdout;
  const before = await listed();
  const cases: [string[], number, RegExp][] = [
    [["make-admin"], 2, /missing client id/],
    [["delete-client"], 2, /missing client id/],
    [["make-admin", "one"], 2, /not a client id/],
    [["make-admin", "7"], 10, /no client 7[\s\S]*list-clients/],
    [["make-admin", "2"], 17, /revoked/],
    [["allow-msg", "", "1"], 2, /empty/],
    [["allow-msg"], 2, /missing required argument/],
    [["rename-client", "1"], 2, /--name/],
  ];
  for (const [args, code, says] of cases) {
    const answer = await machine.run(args);
    expect([args, answer.code, answer.stdout]).toEqual([args, code, ""]);
    expect(answer.stderr).toMatch(says);
  }
  expect(await listed()).toBe(before);
});

test("at schema 0 blacklists go into the columns that released hubs read", async () => {
  const machine = await withClients();
  const columns = "skill_blacklist, metadata, allowed_types";
  {
    await using store = await opened(machine);
    await store.connection.exec(
      `PRAGMA user_version = 0; UPDATE clients SET skill_blacklist = '[]', allowed_types = '["speak"]'`,
    );
  }
  await machine.run(["blacklist-skill", "s1", "1"]);
  const last = await machine.run(["blacklist-msg", "speak", "1"]);
  expect(last.stderr).toContain("reads an empty list as the default list");
  await using store = await opened(machine);
  expect(await store.connection.get(`SELECT ${columns} FROM clients WHERE client_id = 1`)).toEqual({
    skill_blacklist: '["s1"]',
    metadata: "{}",
    allowed_types: '["recognizer_loop:utterance"]',
  });
});

test("on a terminal the client is chosen from a list by typing a part of its name", async () => {
  const machine = await withClients();
  const chosen = await onTerminal(
    machine,
    ["make-admin"],
    [
      ["Which client?", "HAL"],
      ["❯ 2  hall", "\r"],
    ],
  );
  expect([chosen.code, chosen.screen]).toEqual([0, expect.stringContaining("client 2 (hall):")]);
  const { document } = await machine.json("show-client", "2");
  expect(document.client).toMatchObject({ is_admin: true });
  const hasty = await onTerminal(
    machine,
    ["delete-client"],
    [
      ["Which client?", "kit\u007f\u007f\u007fhal\r"],
      ["❯ 2  hall", "\u0003"],
    ],
  );
  expect(hasty.screen).not.toContain("(kitchen): revoked");
  const left = await onTerminal(machine, ["delete-client"], [["Which client?", "\u0003"]]);
  expect([left.code, left.screen]).toEqual([130, expect.stringContaining("nothing changed")]);
});

test("the hint for a blacklist that is not a list names a statement that repairs it", async () => {
  const machine = await withClients();
  await using store = await opened(machine);
  await store.updateClient(1, { metadata: { skill_blacklist: "s0", room: "cellar" } });
  await store.close();
  const refused = await machine.run(["blacklist-skill", "s1", "1"]);
  expect([refused.code, refused.stderr]).toEqual([17, expect.stringContaining("is not a list")]);
  const statement = /sql --write "(.*)"/.exec(refused.stderr)?.[1] ?? "";
  const repaired = await machine.run(["sql", "--write", "--yes", statement]);
  expect([repaired.code, repaired.stderr]).toEqual([0, expect.any(String)]);
  const { code, document } = await machine.json("blacklist-skill", "s1", "1");
  expect([code, document.client]).toEqual([
    0,
    expect.objectContaining({ metadata: expect.objectContaining({ room: "cellar" }) }),
  ]);
});
