/**
 * What somebody can make who knows the public recipient, the store's name and a backup's key_id,
 * and no passphrase: a whole set of store, manifest and bundle, which fit together. That cannot be
 * told from a real one by a machine that knows nothing; so it is shown and asked about, and a
 * machine that knows the passphrase is not taken in.
 */
import { copyFile, mkdir, readFile, writeFile } from "node:fs/promises";
import { basename, join } from "node:path";
import { expect, onTestFinished, test } from "vitest";
import { writeBundle } from "../../src/bundle/bundle.js";
import { newClient } from "../../src/client/client.js";
import { deleteEntry, getEntry } from "../../src/keys/keyring.js";
import { deriveKey, openEncrypted } from "../../src/store/cipher.js";
import { ClientStore } from "../../src/store/client-store.js";
import { Connection } from "../../src/store/connection.js";
import { createSchema } from "../../src/store/schema.js";
import { Machine } from "../cli/machine.js";
import { onTerminal } from "../cli/terminal.js";
import { report } from "../prove-report.js";
import { temporaryFolder } from "../store/temporary.js";
import { backUp } from "./support.js";

const theirs = "the attacker's own";

/** A store with the attacker as its admin, under any salt they like: a real store's is public. */
async function forge(recipient: string, salt: Buffer, name = "mallory") {
  const folder = await temporaryFolder();
  await mkdir(join(folder, "backups"));
  const path = join(folder, "clients.db");
  const key = await deriveKey(theirs, salt, 4);
  const connection = await Connection.open(path, { mode: "create" });
  const raw = key.key.toString("hex") + salt.toString("hex");
  await connection.all(`PRAGMA key = "x'${raw}'"`);
  await createSchema(connection, 0);
  await connection.close();
  const opened = await openEncrypted(path, theirs, { mode: "readwrite" });
  const store = await ClientStore.from(opened);
  await store.addItem(newClient({ client_id: 1, api_key: "known to them", name, is_admin: true }));
  const now = new Date().toISOString().slice(0, 19).replaceAll(":", "-");
  const backup = await backUp(store, folder, `${now}Z`);
  await store.close();
  const bundle = await writeBundle({
    ...{ directory: folder, storePath: path, passphrase: theirs, key },
    recipients: [recipient],
  });
  return { backup: backup.path, bundle: bundle.path, keyId: bundle.keyId };
}

async function victim() {
  const machine = await Machine.make();
  onTestFinished(async () => {
    await deleteEntry(machine.store, "current");
  });
  await machine.init("--bundle-to", machine.path("bundles"), "--to", machine.path("backups"));
  await machine.run(["add-client", "--name", "kitchen"]);
  const settings = JSON.parse(
    await readFile(machine.path("config", "hivemind-sqlcipher", "config.json"), "utf8"),
  );
  return { machine, recipient: settings.recipients[0] as string };
}

const opener = (machine: Machine, bundle: string) => [
  ...["--bundle", bundle, "-i", machine.path("safe", "recovery-key.txt")],
];
const alone = ["--service", "none", "--hub", "none"];

async function findings(machine: Machine): Promise<string[]> {
  const { document } = await machine.json("doctor", "--service", "none");
  const checks = document.checks as { name: string; ok: boolean }[];
  return checks.filter(({ ok }) => !ok).map(({ name }) => name);
}

test("a whole set made by somebody who knows only the recipient is shown and asked about", async () => {
  const { machine, recipient } = await victim();
  const set = await forge(recipient, Buffer.alloc(16, 0x55));
  const before = await readFile(machine.store);
  const passphrase = await getEntry(machine.store, "current");

  // Unattended: refused, with everything that a person would have to know.
  const refused = await machine.run([
    "restore",
    set.backup,
    ...opener(machine, set.bundle),
    ...alone,
  ]);
  expect(refused.code).toBe(2);
  expect(refused.stderr).toMatch(/No passphrase on this machine confirms/);
  expect(refused.stderr).toMatch(new RegExp(`key_id ${set.keyId}`));
  expect(refused.stderr).toMatch(/1 active client and 0 revoked/);
  expect(refused.stderr).toMatch(/and the admins 1 \(mallory\)/);
  expect(refused.stderr).toMatch(/1 \(mallory\) would be an admin again/);
  expect(await readFile(machine.store)).toEqual(before);
  expect(await getEntry(machine.store, "current")).toBe(passphrase);

  // To verify it is to see that it fits together, and this is said to be all.
  const verified = await machine.run(["verify", set.backup, ...opener(machine, set.bundle)]);
  expect(verified.code).toBe(0);
  expect(verified.stderr).toMatch(/its passphrase is unknown on this machine/);
  // Without the bundle in hand it is no backup of this store's.
  expect((await machine.run(["verify", set.backup])).code).toBe(12);
  expect((await machine.run(["restore", set.backup, ...alone])).code).toBe(12);
  const imported = await machine.run([
    ...["bundle", "import", set.bundle, "-i", machine.path("safe", "recovery-key.txt")],
  ]);
  expect(imported.code).toBe(17);
  expect(await getEntry(machine.store, "current")).toBe(passphrase);
  report("forged set: restore, verify, import", 5, 0);
}, 180_000);

test("nor does the key_id of the real store, which is public, make it pass for this store's", async () => {
  const { machine, recipient } = await victim();
  const salt = (await readFile(machine.store)).subarray(0, 16);
  const set = await forge(recipient, Buffer.from(salt));
  const before = await readFile(machine.store);

  const restored = await machine.run([
    "restore",
    set.backup,
    ...opener(machine, set.bundle),
    ...alone,
  ]);
  expect(restored.code).toBe(2);
  expect(restored.stderr).toMatch(/No passphrase on this machine confirms/);
  expect((await machine.run(["restore", set.backup, ...alone, "--yes"])).code).toBe(12);
  const imported = await machine.run([
    ...["bundle", "import", set.bundle, "-i", machine.path("safe", "recovery-key.txt")],
  ]);
  expect(imported.code).toBe(12);
  expect(await readFile(machine.store)).toEqual(before);

  // In the place of the real bundle it lasts until the next backup, which does not take it for the
  // proven one.
  const backup = ["backup", "--service", "none", "--json"];
  const first = JSON.parse((await machine.run(backup)).stdout).bundle.path as string;
  expect(first).toContain(set.keyId);
  await copyFile(set.bundle, first);
  await copyFile(`${set.bundle}.proof.json`, `${first}.proof.json`);
  expect(await findings(machine)).toContain("bundle");
  expect((await machine.run(backup)).code).toBe(0);
  const opened = await machine.run([
    ...["bundle", "show", first, "-i", machine.path("safe", "recovery-key.txt")],
    ...["--show-passphrase", "--json"],
  ]);
  const { contents } = JSON.parse(opened.stdout).bundle;
  expect(contents.passphrase).toBe(await getEntry(machine.store, "current"));
  // And of the forged backup among the real ones nothing is listed as if it were known.
  expect(await findings(machine)).not.toContain("bundle");
  expect(await findings(machine)).not.toContain("last-backup");
  // Later than any real one, in its name too: two of one second would have one name, and the real
  // one would be lost.
  const later = new Date(Date.now() + 60_000).toISOString();
  const second = `${later.slice(0, 19).replaceAll(":", "-")}Z`;
  const forged = machine.path(
    "backups",
    basename(set.backup).replace(/\d{4}-\d\d-\d\dT.{8}Z/, second),
  );
  const manifest = JSON.parse(await readFile(set.backup.replace(/db$/, "manifest.json"), "utf8"));
  await copyFile(set.backup, forged);
  await writeFile(
    forged.replace(/db$/, "manifest.json"),
    JSON.stringify({ ...manifest, file: basename(forged), created_at: later }),
  );
  // Nor does it keep doctor from saying how old the newest real one is.
  expect(await findings(machine)).toContain("last-backup");
  const { document } = await machine.json("backups");
  const listed = document.backups as { path: string; mac: boolean | null }[];
  const pretended = listed.find(({ path }) => path === forged);
  expect(pretended).toBeDefined();
  expect(pretended?.mac).not.toBe(true);
  expect(listed.filter(({ mac }) => mac === true)).toHaveLength(2);
  report("forged set under the real key_id: restore, import, backup, backups", 5, 0);
}, 180_000);

test("what is shown of a forged set cannot rewrite the question that it is shown in", async () => {
  const { machine, recipient } = await victim();
  const name = `\x1b[2K\x1b[1Anone.\nRestore it? \u202e\u009b8m${"m".repeat(500)}`;
  const set = await forge(recipient, Buffer.alloc(16, 0x55), name);
  const { code, screen } = await onTerminal(
    machine,
    ["restore", set.backup, ...opener(machine, set.bundle), ...alone],
    [["[y/N]", "n\r"]],
  );
  const question = screen.slice(0, screen.indexOf("[y/N]"));
  expect(code).toBe(17);
  expect(question).toContain("and the admins 1 (\\u001b[2K");
  for (const mark of ["\u202e", "\u009b", "\x1b[1A", "\nnone"])
    expect(question).not.toContain(mark);
  expect(question).not.toContain("m".repeat(100));
  report("forged set: names that move the cursor", 1, 0);
}, 180_000);
