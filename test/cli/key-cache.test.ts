/** How often each command derives a key, and what it leaves in the keyring. */
import { readFile } from "node:fs/promises";
import { expect, test } from "vitest";
import { listStoresInKeyring } from "../../src/keys/keyring.js";
import { identify } from "../../src/store/cipher.js";
import { root } from "../built.js";
import { Machine } from "./machine.js";

async function derivations(
  machine: Machine,
  args: string[],
  env: NodeJS.ProcessEnv = {},
): Promise<number> {
  const counted = machine.path("derivations");
  const { code, stderr } = await machine.run(args, {
    env: {
      ...env,
      NODE_OPTIONS: `--import=file://${root}test/cli/derivations.mjs`,
      DERIVATIONS: counted,
    },
  });
  // doctor finds something on any machine.
  expect(code, stderr).toBe(args.includes("doctor") ? 1 : 0);
  return Number(await readFile(counted, "utf8"));
}

/** The key_ids of the files for which a key is kept. */
async function keptFor(machine: Machine): Promise<string[]> {
  const stores = await listStoresInKeyring({ unlock: true });
  const slots = stores.find(({ storePath }) => storePath === machine.store)?.slots ?? [];
  return slots
    .filter((slot) => slot.startsWith("derived:"))
    .map((slot) => slot.slice("derived:".length));
}

async function keyIdOf(machine: Machine): Promise<string> {
  return (await identify(machine.store)).keyId ?? "";
}

const find = ["find-client", "--by", "api_key", "a key", "--json"];

test("commands derive the key once, then open the store with the one that is kept", async () => {
  const machine = await Machine.make();
  await machine.init();
  expect(await derivations(machine, ["add-client", "--access-key", "a key"])).toBe(1);
  expect(await keptFor(machine)).toEqual([await keyIdOf(machine)]);
  for (const args of [find, ["list-clients"], ["sql", "SELECT 1"], ["status"]]) {
    expect(await derivations(machine, args), args.join(" ")).toBe(0);
  }
  expect(await machine.json(...find)).toMatchObject({
    code: 0,
    document: { clients: [{ client_id: 1 }] },
  });
});

test("--no-key-cache and its variable derive it, and forget the one that is kept", async () => {
  const machine = await Machine.make();
  await machine.init();
  for (const [option, env] of [
    [["--no-key-cache"], {}],
    [[], { HIVEMIND_SQLCIPHER_KEY_CACHE: "off" }],
  ] as const) {
    await machine.run(find);
    expect(await keptFor(machine)).toHaveLength(1);
    expect(await derivations(machine, [...find, ...option], env)).toBe(1);
    expect(await keptFor(machine)).toEqual([]);
  }
  const wrong = await machine.run(find, { env: { HIVEMIND_SQLCIPHER_KEY_CACHE: "no" } });
  expect(wrong.code).toBe(2);
  expect(wrong.stdout).toContain("HIVEMIND_SQLCIPHER_KEY_CACHE");
});

test("doctor, a bundle, a backup and a rotation derive each key once, whatever key is kept", async () => {
  const machine = await Machine.make();
  await machine.init();
  await machine.run(find);
  const bundles = machine.path("bundles");
  const backup = ["backup", "--to", machine.path("backups"), "--bundle-to", bundles];
  expect(await derivations(machine, ["doctor"])).toBe(1);
  expect(await derivations(machine, ["bundle", "export", "--bundle-to", bundles])).toBe(1);
  expect(await derivations(machine, backup)).toBe(1);
  expect(await derivations(machine, ["doctor"])).toBe(1);
  expect(await keptFor(machine)).toEqual([await keyIdOf(machine)]);
  expect(
    await derivations(machine, ["rotate", "--hub", "none", "--bundle-to", bundles, "--yes"]),
  ).toBe(2);
});

test("a key that is kept goes with a restore, a rotation, and decrypting", async () => {
  const machine = await Machine.make();
  await machine.init();
  const bundles = machine.path("bundles");
  const done = async (...args: string[]) => {
    const { code, stderr } = await machine.run([...args, "--yes"]);
    expect(code, stderr).toBe(0);
  };
  const keepOne = async () => {
    await done(...find);
    expect(await keptFor(machine)).toEqual([await keyIdOf(machine)]);
  };
  await keepOne();
  const backup = await machine.json(
    ...["backup", "--to", machine.path("backups"), "--bundle-to", bundles],
  );
  const { path } = backup.document.backup as { path: string };
  await done("restore", path);
  expect(await keptFor(machine)).toEqual([]);
  await keepOne();
  await done("rotate", "--hub", "none", "--bundle-to", bundles);
  expect(await keptFor(machine)).toEqual([]);
  await keepOne();
  await done("decrypt", "--hub", "none");
  expect(await keptFor(machine)).toEqual([]);
});
