/**
 * What restore asks about: what an older store would let its clients do that they may not do now.
 */
import { join } from "node:path";
import { expect, onTestFinished, test } from "vitest";
import { type Client, defaultAllowedTypes, newClient } from "../../src/client/client.js";
import { assertConfirmed, confirmRestore } from "../../src/restore/confirm.js";
import { compareClients, type Widened } from "../../src/restore/differences.js";
import { openTable } from "../../src/restore/present-store.js";
import type { VerifiedBackup } from "../../src/restore/verified-backup.js";
import type { ClientTable } from "../../src/store/client-table.js";
import { Connection } from "../../src/store/connection.js";
import { createSchema } from "../../src/store/schema.js";
import { temporaryFolder } from "../store/temporary.js";

const utterance = "recognizer_loop:utterance";

async function tableWith(fields: Partial<Client>, version: 0 | 2): Promise<ClientTable> {
  const path = join(await temporaryFolder(), "clients.db");
  await using made = await Connection.open(path, { mode: "create" });
  await createSchema(made, version);
  const table = await openTable(path, undefined);
  onTestFinished(() => table.connection.close());
  await table.addItem(newClient({ client_id: 1, api_key: "k", name: "kitchen", ...fields }));
  return table;
}

/** What is asked about client 1, whose list of message types is `now`, and was `then`. */
async function asked(now: string[], then: string[], version: 0 | 2 = 0): Promise<string> {
  const present = await tableWith({ allowed_types: now }, version);
  const older = await tableWith({ allowed_types: then }, version);
  const { widened } = await compareClients(present, older);
  return widened.flatMap(({ what }) => what).join("; ");
}

test.each([0, 2] as const)(
  "an empty list that no hub reads as more than now is not asked about, one that any hub does is, at schema %i",
  async (version) => {
    expect(await asked([...defaultAllowedTypes, "speak"], [], version)).toBe("");
    expect(await asked(defaultAllowedTypes.slice(1), [], version)).toBe("");
    expect(await asked(["speak"], [], version)).toMatch(
      /an empty list of allowed messages, with which HiveMind 4 lets it send recognizer/,
    );
    expect(await asked([], [...defaultAllowedTypes], version)).toMatch(/could send recog.* again/);
    expect(await asked(["speak"], ["speak", utterance], version)).toBe(
      `could send ${utterance} again`,
    );
  },
);

test("a column that should hold a list and does not is asked about, unless it stays as it is", async () => {
  const write = (table: ClientTable, column: string, text: string) =>
    table.connection.run(`UPDATE clients SET ${column} = ?`, [text]);
  const now = await tableWith({}, 0);
  const older = await tableWith({}, 0);
  const what = async () => (await compareClients(now, older)).widened.flatMap((one) => one.what);
  expect(await what()).toEqual([]);
  // To Python this is a list of two types.
  await write(older, "allowed_types", `{"${utterance}": 1, "speak": 1}`);
  expect((await what()).join()).toMatch(/no valid list in allowed_types/);
  await write(now, "allowed_types", `{"${utterance}": 1, "speak": 1}`);
  expect(await what()).toEqual([]);
  await write(now, "skill_blacklist", '{"skill-a": 1}');
  expect((await what()).join()).toMatch(/no valid list in skill_blacklist/);
});

const none = { revoked: [], stayRevoked: [], readmitted: [], widened: [], missing: 0 };

test("a refusal counts the clients that it does not name", () => {
  const readmitted = Array.from({ length: 25 }, (_, index) => index + 1);
  const found = { ...none, revoked: readmitted, readmitted };
  expect(() => assertConfirmed(found, none, true)).toThrow(/: 1, 2, [^a-z]*, 20 and 5 more$/);
  expect(() => assertConfirmed(found, none, false)).not.toThrow();
});

test.each([true, false])(
  "a question names the key of the first revoked clients, which HiveMind 4 admits: %s",
  async (isFirstRevoked) => {
    const questions: string[] = [];
    const ask = (widened: Widened[]) =>
      confirmRestore(
        {
          lock: { storePath: "/nowhere" },
          source: { kind: "keyring" },
          reporter: {
            notice: () => {},
            detail: () => {},
            confirm: async (question) => void questions.push(question),
          },
        },
        {
          location: "/nowhere",
          backup: { doubt: undefined } as VerifiedBackup,
          present: { replaced: { state: "absent" }, differences: { ...none, widened } },
          isFirstRevoked,
        },
      );
    await ask([]);
    expect(questions).toEqual([]);
    await ask([{ clientId: 1, name: "kitchen", what: ["would be an admin again"] }]);
    expect(questions.join().includes('the access key "revoked"')).toBe(isFirstRevoked);
  },
);
