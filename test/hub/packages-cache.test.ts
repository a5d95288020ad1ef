import { mkdir, readFile, rename, writeFile } from "node:fs/promises";
import { dirname, join } from "node:path";
import { expect, test } from "vitest";
import { probePackagesCached } from "../../src/hub/packages-cache.js";
import { temporaryFolder } from "../store/temporary.js";
import { hubScript } from "./support.js";

/** An interpreter that counts how often it is started. */
async function counting(line: "released" | "development") {
  const folder = await temporaryFolder();
  const python = join(folder, "python");
  const log = join(folder, "log");
  const real = join(dirname(await hubScript(line)), "python");
  const program = (target: string) => `#!/bin/sh\necho x >>'${log}'\nexec '${target}' "$@"\n`;
  await writeFile(log, "");
  await writeFile(python, program(real), { mode: 0o755 });
  const packages = join(folder, "packages");
  await mkdir(packages);
  const environment = { ...process.env, XDG_STATE_HOME: folder, PYTHONPATH: packages };
  const starts = async () => (await readFile(log, "utf8")).length / 2;
  const ask = () => probePackagesCached([python], { environment });
  const replacePython = async () => {
    await writeFile(`${python}.new`, `${program(real)}\n`, { mode: 0o755 });
    await rename(`${python}.new`, python);
  };
  return { folder, packages, starts, ask, replacePython };
}

test("the hub's packages are asked once, and again after any of them or the Python has changed", async () => {
  const { folder, packages, starts, ask, replacePython } = await counting("development");
  const first = await ask();
  expect(first.takesPassword).toBe(true);
  expect(await ask()).toEqual(first);
  expect(await starts()).toBe(1);
  await mkdir(join(packages, "sqlcipher3-0.9.0.dist-info"));
  await ask();
  expect(await starts()).toBe(2);
  await rename(
    join(packages, "sqlcipher3-0.9.0.dist-info"),
    join(packages, "sqlcipher3-0.9.1.dist-info"),
  );
  await ask();
  await ask();
  expect(await starts()).toBe(3);
  await replacePython();
  await ask();
  expect(await starts()).toBe(4);
  const [record] = await recordsIn(folder);
  await writeFile(record ?? "", "{}");
  expect(await ask()).toEqual(first);
  expect(await starts()).toBe(5);
});

async function recordsIn(folder: string): Promise<string[]> {
  const { readdir } = await import("node:fs/promises");
  const directory = join(folder, "hivemind-sqlcipher");
  return (await readdir(directory)).map((name) => join(directory, name));
}

test("an answer of packages that do not work is not remembered", async () => {
  const { starts, ask } = await counting("released");
  expect((await ask()).takesPassword).toBe(false);
  await ask();
  expect(await starts()).toBe(2);
});
