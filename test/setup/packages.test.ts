/** The hub's own pip installs what an encrypted store needs, from the package index. */
import { execFile } from "node:child_process";
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { promisify } from "node:util";
import { expect, test } from "vitest";
import { temporaryFolder } from "../store/temporary.js";
import { installHub } from "./hub.js";

const exec = promisify(execFile);

/** As ovos-installer's environment: without a plugin for SQLite, and without SQLCipher. */
const installed = [
  ...["hivemind-core==4.0.0", "hivemind-plugin-manager==0.5.0"],
  ...["hivemind-json-db-plugin==0.0.2", "bitstring==4.4.0"],
];

async function makeEnvironment(): Promise<string> {
  const folder = join(await temporaryFolder(), "ovos");
  await exec("python3", ["-m", "venv", folder]);
  await exec(join(folder, "bin", "pip"), ["install", "--quiet", ...installed]);
  return folder;
}

test("setup installs the packages of HiveMind 4, and its hub serves from the encrypted store", async () => {
  const environment = await makeEnvironment();
  const script = join(environment, "bin", "hivemind-core");
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
  const { stdout } = await exec(join(environment, "bin", "pip"), ["list", "--format=freeze"]);
  expect(stdout).toContain("sqlcipher3==");
  expect(stdout).toContain("hivemind-core==4.0.0");
  const { document } = await machine.json("list-clients");
  expect(document.clients).toHaveLength(5);

  const undone = await machine.run(["setup", "--undo", "--yes"]);
  expect([undone.code, await readFile(server, "utf8")]).toEqual([0, before]);
}, 480_000);
