/** What a restore does in the keyring besides putting the backup's passphrase there. */
import { mkdir, symlink } from "node:fs/promises";
import { join } from "node:path";
import { expect, test } from "vitest";
import type { BackupResult } from "../../src/backup/backup.js";
import { setEntry } from "../../src/keys/keyring.js";
import type { RestoreResult } from "../../src/restore/restore.js";
import { ClientStore } from "../../src/store/client-store.js";
import { Machine } from "../cli/machine.js";
import { resultOf, World } from "../swap/world.js";

async function withBackup() {
  const world = await World.of("sqlcipher4-schema2.db");
  const { backup } = resultOf(
    await world.run<BackupResult>("backup", { ...world.withoutService, to: world.to }),
  );
  return { world, more: { ...world.withoutService, backup: { file: backup.path } } };
}

test("a pending passphrase that opens the present store is not overwritten: the replaced store still opens", async () => {
  const { world, more } = await withBackup();
  resultOf(await world.run("rotate", { ...world.withoutService, keepPrevious: true }));
  const { current: rotated = "" } = await world.slots();
  await setEntry(world.path, "pending", rotated);
  await setEntry(world.path, "current", "something else");
  const { restored } = resultOf(await world.run<RestoreResult>("restore", more));
  const slots = await world.slots();
  expect(Object.values(slots)).toContain(rotated);
  expect(Object.values(slots)).toContain("something else");
  expect(slots).not.toHaveProperty("pending");
  await (await ClientStore.open(restored.replaced ?? "", rotated)).close();
});

test("--to by way of a link: the keyring has the passphrase under the name that the next command looks for", async () => {
  const { world, more } = await withBackup();
  await mkdir(join(world.folder, "beside"), { mode: 0o700 });
  await symlink(join(world.folder, "beside"), join(world.folder, "link"));
  const to = join(world.folder, "link", "restored.db");
  const { restored } = resultOf(await world.run<RestoreResult>("restore", { ...more, to }));
  expect(restored.path).toBe(join(world.folder, "beside", "restored.db"));
  const { code, stderr } = await Machine.in(world.folder).run(["list-clients", "--db", to]);
  expect(stderr).not.toContain("error");
  expect(code).toBe(0);
});

test("an operation on a store in a folder that is not there says that there is no store", async () => {
  const { world } = await withBackup();
  const ran = await world.run("rotate", { storePath: join(world.folder, "nowhere", "clients.db") });
  expect(ran.error?.kind).toBe("notFound");
});
