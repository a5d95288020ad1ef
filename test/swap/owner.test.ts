import { execFileSync } from "node:child_process";
import { chmod, chown, link, rm, stat } from "node:fs/promises";
import { dirname, join } from "node:path";
import { expect, test } from "vitest";
import type { BackupResult } from "../../src/backup/backup.js";
import { withOperation } from "../../src/recovery/recover.js";
import { temporaryFolder } from "../store/temporary.js";
import { resultOf, World } from "./world.js";

test.skipIf(process.geteuid?.() !== 0)(
  "root leaves another user's store to that user, also one that it restores where there was none",
  async () => {
    const world = await World.of("sqlcipher4-schema2.db");
    const { backup } = resultOf(
      await world.run<BackupResult>("backup", { ...world.withoutService, to: world.to }),
    );
    await chown(dirname(world.path), 65534, 65534);
    await chown(world.path, 65534, 65534);
    await chmod(world.path, 0o640);
    resultOf(await world.run("rotate", world.withoutService));
    const rotated = await stat(world.path);
    expect([rotated.uid, rotated.gid, rotated.mode & 0o777]).toEqual([65534, 65534, 0o640]);
    await rm(world.path);
    const opener = { identity: world.recoveryKey.identity };
    const [bundle] = (await world.bundles()).filter((keyId) => keyId === backup.keyId);
    const path = `${world.bundleTo}/clients.${bundle}.bundle.age`;
    const more = { backup: { file: backup.path }, bundle: { path, opener } };
    resultOf(await world.run("restore", { ...world.withoutService, ...more }));
    const restored = await stat(world.path);
    expect([restored.uid, restored.gid, restored.mode & 0o777]).toEqual([65534, 65534, 0o600]);
  },
);

test.skipIf(process.geteuid?.() !== 0)(
  "an operation of root that creates the store's folder leaves it to the owner of the folder above",
  async () => {
    const home = await temporaryFolder();
    await chown(home, 65534, 65534);
    const path = join(home, "hivemind-core", "clients.db");
    const nothing = async () => undefined;
    await withOperation(path, { notice: () => undefined }, nothing, { makeDirectory: true });
    for (const made of [dirname(path), `${path}.lock`]) {
      const { uid, gid } = await stat(made);
      expect([made, uid, gid]).toEqual([made, 65534, 65534]);
    }
  },
);

/**
 * Lets user 1 read and write, and the owner's group nothing: the mode, which shows the most that
 * anybody but the owner may, is 0660.
 */
const letOneUserIn = (attribute: string) => `
import os, struct, sys
entries = [(1, 6, 0xffffffff), (2, 6, 1), (4, 0, 0xffffffff), (16, 6, 0xffffffff), (32, 0, 0xffffffff)]
acl = struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in entries)
os.setxattr(sys.argv[1], "system.${attribute}", acl)
`;

test("a store with an access control list is refused: without it, a new file of that mode would let the group in", async () => {
  const world = await World.of("sqlcipher4-schema2.db");
  execFileSync("python3", ["-c", letOneUserIn("posix_acl_access"), world.path]);
  expect((await stat(world.path)).mode & 0o777).toBe(0o660);
  const refused = await world.run("rotate", world.withoutService);
  expect(refused.error).toMatchObject({
    kind: "refused",
    hint: expect.stringMatching(/setfacl -b/),
  });
  expect(await world.leftovers()).toEqual([]);
});

test("a list that the folder gives to every new file widens nothing: refused, unless the mode keeps it out", async () => {
  const world = await World.of("sqlcipher4-schema2.db");
  execFileSync("python3", ["-c", letOneUserIn("posix_acl_default"), dirname(world.path)]);
  await chmod(world.path, 0o660);
  const refused = await world.run("rotate", world.withoutService);
  expect(refused.error).toMatchObject({
    kind: "refused",
    hint: expect.stringMatching(/setfacl -k/),
  });
  expect(await world.leftovers()).toEqual([]);
  await chmod(world.path, 0o600);
  resultOf(await world.run("rotate", world.withoutService));
  expect((await stat(world.path)).mode & 0o777).toBe(0o600);
});

test("a store that has a second name is refused: the old file, in plain text perhaps, would stay under that", async () => {
  const world = await World.of("plain-schema2.db");
  await link(world.path, `${world.folder}/second`);
  const refused = await world.run("encrypt", world.withoutService);
  expect(refused.error).toMatchObject({
    kind: "refused",
    hint: expect.stringMatching(/-samefile/),
  });
  await rm(`${world.folder}/second`);
  resultOf(await world.run("encrypt", world.withoutService));
});
