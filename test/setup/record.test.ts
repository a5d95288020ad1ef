/** When a setup or an undo is possible, by what server.json, the store and the record are now. */
import { copyFile, mkdir, writeFile } from "node:fs/promises";
import { dirname, join } from "node:path";
import { afterEach, expect, test, vi } from "vitest";
import { assertUndoable, type SetupRecord, writeSetupRecord } from "../../src/setup/record.js";
import type { SetupRequest } from "../../src/setup/request.js";
import { setUp } from "../../src/setup/set-up.js";
import type { Survey } from "../../src/setup/survey.js";
import { undoSetup } from "../../src/setup/undo.js";
import { fixtures, temporaryFolder } from "../store/temporary.js";

afterEach(() => vi.unstubAllEnvs());

const encrypted = "sqlcipher4-schema2.db";
const plain = "plain-schema1.db";
const sqlite = { module: "hivemind-sqlite-db-plugin" };
const block = (more: object) => ({ "hivemind-sqlite-db-plugin": { name: "clients", ...more } });

/** Makes a hub with the database in its server.json, and with a file as the store. */
async function makeHub(database: object, file: string) {
  const home = await temporaryFolder();
  vi.stubEnv("XDG_CONFIG_HOME", join(home, "config"));
  vi.stubEnv("XDG_DATA_HOME", join(home, "data"));
  const server = join(home, "config", "hivemind-core", "server.json");
  const store = join(home, "data", "hivemind-core", "clients.db");
  for (const path of [server, store]) await mkdir(dirname(path), { recursive: true });
  await writeFile(server, JSON.stringify({ database }));
  await copyFile(`${fixtures}${file}`, store);
  return { store, settingsPath: join(home, "config", "hivemind-sqlcipher", "config.json") };
}

test.each([
  ["json", encrypted, { ...sqlite, ...block({}) }, undefined],
  ["json", encrypted, { module: "hivemind-json-db-plugin", ...block({}) }, undefined],
  ["json", encrypted, { ...sqlite, ...block({ password: "x" }) }, "with a password"],
  ["json", plain, { ...sqlite, ...block({}) }, "which is plain SQLite"],
  ["sqlite", encrypted, { ...sqlite, ...block({}) }, undefined],
  ["sqlite", plain, { ...sqlite, ...block({}) }, undefined],
  ["sqlite", encrypted, { ...sqlite, ...block({ password: "x" }) }, "with a password"],
  ["sqlite", encrypted, { module: "hivemind-redis-db-plugin" }, "does not name"],
  ["sqlcipher", encrypted, { ...sqlite, ...block({}) }, undefined],
  ["sqlcipher", encrypted, { ...sqlite, ...block({ password: "x" }) }, undefined],
  ["sqlcipher", plain, { ...sqlite, ...block({}) }, "which is plain SQLite"],
  ["sqlcipher", encrypted, { module: "hivemind-json-db-plugin" }, "does not name"],
] as const)("a setup from %s, with %s and %j", async (kind, file, database, problem) => {
  const { store } = await makeHub(database, file);
  const undoable = assertUndoable({ store, database: { kind } } as SetupRecord);
  if (problem === undefined) await undoable;
  else await expect(undoable).rejects.toThrow(problem);
});

test("a plan is refused if another setup or undo has run since", async () => {
  const { store, settingsPath } = await makeHub({ ...sqlite, ...block({}) }, encrypted);
  const request = { storePath: store, settingsPath, reporter: {} } as SetupRequest;
  const found = { hubs: [{}], database: { kind: "json" } } as unknown as Survey;
  const setUpAsPlanned = (planned: Partial<Survey>) =>
    setUp(request, { ...found, ...planned }, { steps: [], obstacles: [], notices: [] });
  const refused = expect.objectContaining({
    kind: "refused",
    message: "the hub was changed since the plan was made",
  });
  await expect(setUpAsPlanned({ isHandedOver: false })).rejects.toEqual(refused);
  const record = await writeSetupRecord(settingsPath, {
    ...{ store, phase: "complete", started_at: "2026-01-01T00:00:00Z", drop_in: "/etc/drop-in" },
    unit: { manager: "systemd-user", name: "hub.service" },
    database: {
      ...{ kind: "json", place: "/clients.json", module: null, sqlite_block: null },
      had_block: false,
    },
    recovery_key_file: null,
  });
  await expect(setUpAsPlanned({ isHandedOver: true })).rejects.toEqual(refused);
  await expect(undoSetup(request, { ...record, phase: "setting-up" })).rejects.toEqual(refused);
});
