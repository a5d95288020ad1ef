/**
 * What comes between: something else at the store's name while the store is set aside, or while
 * none is there.
 */
import { spawnSync } from "node:child_process";
import { copyFile, readFile, rename, rm } from "node:fs/promises";
import { join } from "node:path";
import { expect, test } from "vitest";
import type { BackupResult } from "../../src/backup/backup.js";
import { openEncrypted } from "../../src/store/cipher.js";
import { root } from "../built.js";
import { Machine } from "../cli/machine.js";
import { resultOf, World } from "./world.js";

const atStep = (commands: Record<string, string>) => ({
  NODE_OPTIONS: `--import=${root}test/faults/at-step.mjs`,
  HIVEMIND_TEST_AT_STEP: JSON.stringify(commands),
});

async function withBackup(): Promise<{ world: World; file: string }> {
  const world = await World.of("sqlcipher4-schema2.db");
  const { backup } = resultOf(
    await world.run<BackupResult>("backup", { ...world.withoutService, to: world.to }),
  );
  return { world, file: backup.path };
}

/**
 * In the store's place, one of somebody else's passphrase, whose last commit is in its log: its
 * process was killed.
 */
async function putStrange(world: World): Promise<void> {
  await rm(world.path);
  const script = `
    import { ClientStore } from ${JSON.stringify(`${root}dist/store/client-store.js`)};
    const store = await ClientStore.create(${JSON.stringify(world.path)}, "strange");
    await store.connection.run("INSERT INTO clients (client_id, api_key) VALUES (7, 'in the log')");
    process.kill(process.pid, "SIGKILL");`;
  spawnSync(process.execPath, ["--input-type=module", "-e", script]);
}

async function strangeClients(path: string): Promise<unknown[]> {
  const { connection } = await openEncrypted(path, "strange", { mode: "readwrite" });
  try {
    return await connection.all("SELECT client_id, api_key FROM clients");
  } finally {
    await connection.close();
  }
}

async function interruptedRestore() {
  const { world, file } = await withBackup();
  await putStrange(world);
  const more = { ...world.withoutService, backup: { file } };
  const killed = await world.run("restore", more, atStep({ "restore.aside": "kill" }));
  expect(killed.signal).toBe("SIGKILL");
  return world;
}

test("init after a restore that was killed while the store was set aside brings that one back, and makes none", async () => {
  const world = await interruptedRestore();
  const machine = Machine.in(world.folder);
  const { code, stderr } = await machine.run([
    ...["init", "--db", world.path, "--recipient", world.recoveryKey.recipient],
  ]);
  expect(stderr).toContain("undid the interrupted restore");
  expect(code).toBe(17);
  expect(await strangeClients(world.path)).toEqual([{ client_id: 7, api_key: "in the log" }]);
});

test("a log is never put beside another store: what was made meanwhile and what was set aside both stay whole", async () => {
  const world = await interruptedRestore();
  const fixture = join(root, "test/fixtures/sqlcipher4-schema2.db");
  await copyFile(fixture, world.path);
  const refused = await world.settle();
  expect(refused.error?.kind).toBe("refused");
  expect(await readFile(world.path)).toEqual(await readFile(fixture));
  await rename(world.path, join(world.folder, "moved-away.db"));
  expect((await world.settle()).error).toBeUndefined();
  expect(await strangeClients(world.path)).toEqual([{ client_id: 7, api_key: "in the log" }]);
  expect(await world.leftovers()).toEqual([]);
});

test("a restore to where there was no store does not replace one that has appeared there since", async () => {
  const { world, file } = await withBackup();
  await rename(world.path, join(world.folder, "moved-away.db"));
  const fixture = join(root, "test/fixtures/plain-schema2.db");
  const more = { ...world.withoutService, backup: { file } };
  const appears = atStep({ "restore.synced": `cp '${fixture}' '${world.path}'` });
  expect((await world.run("restore", more, appears)).error?.kind).toBe("refused");
  expect(await readFile(world.path)).toEqual(await readFile(fixture));
  expect(await world.leftovers()).toEqual([]);
});

test("nor does it move the log of that store away", async () => {
  const { world, file } = await withBackup();
  await rename(world.path, join(world.folder, "moved-away.db"));
  const more = { ...world.withoutService, backup: { file } };
  const log = `${world.path}-wal`;
  const appears = atStep({ "restore.stopped": `echo store >'${world.path}'; echo log >'${log}'` });
  expect((await world.run("restore", more, appears)).error?.kind).toBe("refused");
  expect(await readFile(log, "utf8")).toBe("log\n");
});
