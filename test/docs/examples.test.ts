import { execFile } from "node:child_process";
import { mkdir, mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { promisify } from "node:util";
import { afterAll, beforeAll, expect, test } from "vitest";
import { newClient } from "../../src/client/client.js";
import { setEntry } from "../../src/keys/keyring.js";
import { ClientStore } from "../../src/store/client-store.js";
import { root } from "../built.js";

const run = promisify(execFile);
let home = "";
let path = "";

beforeAll(async () => {
  home = await mkdtemp(join(tmpdir(), "examples-"));
  path = join(home, "clients.db");
  await using store = await ClientStore.create(path, "correct horse");
  await store.addItem(newClient({ client_id: 1, api_key: "1", name: "kitchen", is_admin: true }));
  await store.addItem(newClient({ client_id: 2, api_key: "2", name: "attic" }));
  await store.deleteItem(2);
  await setEntry(path, "current", "correct horse");
});

afterAll(() => rm(home, { recursive: true, force: true }));

async function runExample(name: string, ...args: string[]): Promise<string> {
  const env = { ...process.env, XDG_DATA_HOME: home };
  const script = join(root, "examples/library", name);
  return (await run(process.execPath, [script, ...args], { env })).stdout;
}

test("read-clients prints the clients of an encrypted store, without a revoked one", async () => {
  expect(await runExample("read-clients.mjs", path)).toBe("1 kitchen admin\n");
});

test("copy-to-json copies every client and compares the copy", async () => {
  const output = await runExample("copy-to-json.mjs", path, "copy");
  expect(output).toBe("1 active, 1 revoked, verified: true\n");
  const copy = JSON.parse(await readFile(join(home, "copy/clients.json"), "utf8"));
  expect(copy["1"]).toMatchObject({ name: "kitchen", is_admin: true });
});

test("quickstart removes nothing from a directory that it has not made", async () => {
  const backup = join(home, "srv/backups/clients.db");
  await mkdir(join(home, "srv/backups"), { recursive: true });
  await writeFile(backup, "a backup");
  const quickstart = run(join(root, "scripts/quickstart"), ["srv"], { cwd: home });
  await expect(quickstart).rejects.toThrow(`${home}/srv is not empty`);
  expect(await readFile(backup, "utf8")).toBe("a backup");
});
