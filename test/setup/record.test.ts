/** When an undo is possible, by what server.json and the store are now. */
import { copyFile, mkdir, writeFile } from "node:fs/promises";
import { dirname, join } from "node:path";
import { afterEach, expect, test, vi } from "vitest";
import { assertUndoable, type SetupRecord } from "../../src/setup/record.js";
import { fixtures, temporaryFolder } from "../store/temporary.js";

afterEach(() => vi.unstubAllEnvs());

const encrypted = "sqlcipher4-schema2.db";
const plain = "plain-schema1.db";
const sqlite = { module: "hivemind-sqlite-db-plugin" };
const block = (more: object) => ({ "hivemind-sqlite-db-plugin": { name: "clients", ...more } });

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
  const home = await temporaryFolder();
  vi.stubEnv("XDG_CONFIG_HOME", join(home, "config"));
  vi.stubEnv("XDG_DATA_HOME", join(home, "data"));
  const server = join(home, "config", "hivemind-core", "server.json");
  const store = join(home, "data", "hivemind-core", "clients.db");
  for (const path of [server, store]) await mkdir(dirname(path), { recursive: true });
  await writeFile(server, JSON.stringify({ database }));
  await copyFile(`${fixtures}${file}`, store);
  const undoable = assertUndoable({ store, database: { kind } } as SetupRecord);
  if (problem === undefined) await undoable;
  else await expect(undoable).rejects.toThrow(problem);
});
