/** What becomes of older backups after a rotation, and that each command names the way out. */
import { rm } from "node:fs/promises";
import { expect, test } from "vitest";
import { Machine } from "./machine.js";

const idle = ["--hub", "none", "--service", "none"];

test("after rotate, older backups open with the recovery key alone, and prune says why it leaves them", async () => {
  const machine = await Machine.make();
  await machine.init("--to", machine.path("backups"), "--bundle-to", machine.path("bundles"));
  await machine.run(["add-client"]);
  const { document } = await machine.json("backup", "--service", "none");
  const { backup, bundle } = document as Record<"backup" | "bundle", { path: string }>;
  const rotated = await machine.run(["rotate", ...idle]);
  expect(rotated.code).toBe(0);
  expect(rotated.stderr).toMatch(/--keep-previous or --reencrypt-backups .* back up now: /);
  await machine.run(["backup", "--service", "none"]);
  const pruned = await machine.run(["prune", machine.path("backups"), "--keep-last", "1"]);
  expect(pruned.stdout).toContain(`unchanged     ${backup.path}: no known passphrase opens it`);
  expect(pruned.stderr).toMatch(/--keep-previous or --reencrypt-backups/);

  const key = ["--identity", machine.path("safe", "recovery-key.txt")];
  for (const command of [
    ["verify", backup.path],
    ["restore", backup.path, ...idle, "--yes"],
  ]) {
    const refused = await machine.run(command);
    expect(refused.code).toBe(12);
    expect(refused.stderr).toContain(`bundle is ${bundle.path}: add --identity FILE`);
    const opened = await machine.run([...command, ...key]);
    expect([opened.code, opened.stderr]).toEqual([0, expect.any(String)]);
  }
  expect((await machine.json("list-clients")).document.clients).toHaveLength(1);
  await rm(bundle.path);
  const without = await machine.run(["verify", backup.path, ...key]);
  expect([without.code, without.stderr]).toEqual([2, expect.stringContaining("Add --bundle FILE")]);
}, 60_000);
