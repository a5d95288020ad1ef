/** Two stores whose names begin alike, under one passphrase, with their backups in one folder. */
import { mkdir, readdir, writeFile } from "node:fs/promises";
import { basename } from "node:path";
import { expect, test } from "vitest";
import { Machine } from "./machine.js";

test("the other's backups are neither listed, pruned, restored nor brought under this one's passphrase", async () => {
  const machine = await Machine.make();
  await mkdir(machine.path("safe"));
  const file = machine.path("safe", "passphrase");
  await writeFile(file, "one for both\n", { mode: 0o600 });
  await writeFile(machine.path("safe", "next"), "another\n", { mode: 0o600 });
  const places = ["--to", machine.path("backups"), "--bundle-to", machine.path("bundles")];
  const env = {
    HIVEMIND_SQLCIPHER_SERVICE: "none",
    HIVEMIND_SQLCIPHER_PASSPHRASE_SOURCE: `file:${file}`,
  };
  const recoveryKey = ["--recovery-key-file", machine.path("safe", "recovery-key.txt")];
  const run = async (...args: string[]) => {
    const { code, stdout, stderr } = await machine.run([...args, "--json"], { env });
    if (code !== 0) throw new Error(stderr + stdout);
    return JSON.parse(stdout);
  };
  const [own, other] = ["clients", "clients.test"].map((name) =>
    machine.path("data", "hivemind-core", `${name}.db`),
  );
  await run("init", "--db", `${own}`, ...recoveryKey, ...places);
  const otherKey = machine.path("safe", "other-recovery-key.txt");
  await run("init", "--db", `${other}`, "--recovery-key-file", otherKey);
  const backup = async (store?: string) =>
    (await run("backup", "--db", `${store}`, ...places)).backup.path;
  const ours = await backup(own);
  const theirs = [await backup(other), await backup(other)];

  expect((await run("status", "--db", `${own}`)).last_backup.path).toBe(ours);
  const listed = await run("backups", "--db", `${own}`);
  expect(listed.backups.map(({ path }: { path: string }) => path)).toEqual([ours]);
  expect(listed.others).toEqual([]);
  const { prune } = await run("prune", "--db", `${own}`, "--keep-last", "1");
  expect(prune.removed).toEqual([]);
  const restore = ["restore", "--db", `${own}`, "--from-time", "2100-01-01", "--hub", "none"];
  expect((await run(...restore)).restored.backup).toBe(ours);
  const { backups } = await run(
    ...["rotate", "--db", `${own}`, "--hub", "none", "--passphrase-file"],
    ...[machine.path("safe", "next"), "--reencrypt-backups", machine.path("backups")],
  );
  expect(backups.reencrypted).toHaveLength(1);
  expect(await readdir(machine.path("backups"))).toEqual(
    expect.arrayContaining(theirs.map((path) => basename(path))),
  );
});
