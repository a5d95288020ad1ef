import { chmod, chown, rm, stat } from "node:fs/promises";
import { dirname } from "node:path";
import { expect, test } from "vitest";
import type { BackupResult } from "../../src/backup/backup.js";
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
    const [bundle] = (await world.bundles()).filter((keyId) => keyId === backup.key_id);
    const path = `${world.bundleTo}/clients.${bundle}.bundle.age`;
    const more = { backup: { file: backup.path }, bundle: { path, opener } };
    resultOf(await world.run("restore", { ...world.withoutService, ...more }));
    const restored = await stat(world.path);
    expect([restored.uid, restored.gid, restored.mode & 0o777]).toEqual([65534, 65534, 0o600]);
  },
);
