/**
 * The passphrase is in no argument, no environment, and no file that is not encrypted: looked for
 * in everything that `init` and `backup` and their children execute and write, and in everything
 * that they leave on the disk. The search is proven by planting the passphrase where it must be
 * found.
 */
import { execFileSync } from "node:child_process";
import { readFile } from "node:fs/promises";
import { expect, test } from "vitest";
import { getEntry } from "../../src/keys/keyring.js";
import { identify } from "../../src/store/cipher.js";
import { Machine } from "./machine.js";

/** Every string of a trace whole, so that nothing is cut off before the secret. */
const strace = (log: string) => [
  ...["strace", "-f", "-s", "1000000", "-v", "-o", log],
  ...["-e", "trace=execve,write,pwrite64,writev,pwritev,openat"],
];

function filesHolding(folder: string, secret: string): string[] {
  try {
    const found = execFileSync("grep", [
      "--recursive",
      "--files-with-matches",
      "-F",
      secret,
      folder,
    ]);
    return found.toString().trim().split("\n");
  } catch (error) {
    if ((error as { status?: number }).status === 1) return [];
    throw error;
  }
}

test("init and backup show the passphrase to nobody", async () => {
  const machine = await Machine.make();
  const init = await machine.run(
    [
      "init",
      "--recovery-key-file",
      machine.path("recovery-key.txt"),
      "--bundle-to",
      machine.path("bundles"),
      "--verbose",
    ],
    { before: strace(machine.path("init.trace")) },
  );
  expect(init.stderr).toBe(init.stderr.replace(/^error.*/m, ""));
  expect(init.code).toBe(0);
  const passphrase = (await getEntry(machine.store, "current")) as string;
  expect(passphrase).toMatch(/^([0-9A-Z]{5}-){12}[0-9A-Z]{5}$/);

  const backup = await machine.run(
    [
      "backup",
      "--to",
      machine.path("backups"),
      "--bundle-to",
      machine.path("bundles"),
      "--verbose",
      "--json",
    ],
    { before: strace(machine.path("backup.trace")) },
  );
  expect(backup.code).toBe(0);
  for (const name of ["init.trace", "backup.trace"]) {
    const trace = await readFile(machine.path(name), "latin1");
    expect(trace).toContain("execve(");
    expect(trace).toContain("clients");
    expect(trace).not.toContain(passphrase);
  }
  for (const { stdout, stderr } of [init, backup])
    expect(stdout + stderr).not.toContain(passphrase);
  expect(filesHolding(machine.folder, passphrase)).toEqual([]);
});

test("the key that is kept in the keyring is shown to nobody", async () => {
  const machine = await Machine.make();
  await machine.init();
  for (const name of ["kept.trace", "used.trace"]) {
    const { code } = await machine.run(["list-clients"], { before: strace(machine.path(name)) });
    expect(code).toBe(0);
  }
  const { keyId } = await identify(machine.store);
  const kept = (await getEntry(machine.store, `derived:${keyId}`)) as string;
  const [, , , key = ""] = kept.split(":");
  expect(key).toMatch(/^[0-9a-f]{64}$/);
  for (const name of ["kept.trace", "used.trace"]) {
    const trace = (await readFile(machine.path(name), "latin1")).toLowerCase();
    expect(trace).toContain("clients.db");
    expect(trace).not.toContain(key);
  }
  for (const secret of [key, Buffer.from(key, "hex").toString("base64")]) {
    expect(filesHolding(machine.folder, secret)).toEqual([]);
  }
});

test("the search finds a secret that is an argument, in the environment, or in a file", async () => {
  const machine = await Machine.make();
  const secret = "PLANTED-SECRET-4711";
  const traced = async (args: string[], env: NodeJS.ProcessEnv) => {
    const trace = machine.path("planted.trace");
    await machine.run(args, { before: strace(trace), env });
    return readFile(trace, "latin1");
  };
  expect(await traced(["find-client", secret], {})).toContain(secret);
  expect(await traced(["--version"], { PLANTED: secret })).toContain(secret);
  expect(await traced(["init", "--recovery-key-file", machine.path(secret)], {})).toContain(secret);
  expect(filesHolding(machine.folder, secret)).toContain(machine.path("planted.trace"));
});
