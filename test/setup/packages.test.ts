/** The hub's own pip installs what an encrypted store needs, from the package index. */
import { execFile } from "node:child_process";
import { readFile } from "node:fs/promises";
import { dirname, join } from "node:path";
import { promisify } from "node:util";
import { expect, test } from "vitest";
import { temporaryFolder } from "../store/temporary.js";
import { installHiveMind4, installHub } from "./hub.js";

const exec = promisify(execFile);

test("setup installs the packages of HiveMind 4, and its hub serves from the encrypted store", async () => {
  const script = await installHiveMind4(join(await temporaryFolder(), "ovos"));
  const { machine, options, server } = await installHub({ script, isReal: true });
  const before = await readFile(server, "utf8");

  const refused = await machine.run(["setup", ...options]);
  expect([refused.code, refused.stderr]).toEqual([
    17,
    expect.stringContaining("--install-hub-packages"),
  ]);
  expect(await readFile(server, "utf8")).toBe(before);

  const done = await machine.run(["setup", ...options, "--install-hub-packages"]);
  expect([done.code, done.stderr]).toEqual([0, expect.stringContaining("installing packages")]);
  const { stdout } = await exec(join(dirname(script), "pip"), ["list", "--format=freeze"]);
  expect(stdout).toContain("sqlcipher3==");
  expect(stdout).toContain("hivemind-core==4.0.0");
  const { document } = await machine.json("list-clients");
  expect(document.clients).toHaveLength(5);

  const undone = await machine.run(["setup", "--undo", "--yes"]);
  expect([undone.code, await readFile(server, "utf8")]).toEqual([0, before]);
}, 480_000);
