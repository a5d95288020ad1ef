/** SQLCipher's addon: which one is loaded, and what is reported when it cannot be. */
import { createHash } from "node:crypto";
import { cp, mkdir, readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { afterEach, expect, test, vi } from "vitest";
import type { StoreError } from "../../src/errors.js";
import { loadAddon } from "../../src/store/addon.js";
import { root } from "../built.js";
import { temporaryFolder } from "./temporary.js";

const binding = join(root, "node_modules/@journeyapps/sqlcipher");
const name = `${process.platform}-${process.arch}/node_sqlite3.node`;

afterEach(() => vi.unstubAllEnvs());

/**
 * Makes native/ as a package has it, with this addon, and returns its path with a slash at its end.
 */
async function nativeWith(addon: Buffer, path = name): Promise<string> {
  const native = `${await temporaryFolder()}/`;
  await mkdir(join(native, path, ".."), { recursive: true });
  await writeFile(join(native, path), addon);
  for (const file of ["sqlite3.js", "trace.js"])
    await cp(join(binding, "lib", file), native + file);
  await writeFile(`${native}sqlite3-binding.js`, `module.exports = require("./${name}");\n`);
  const checksum = createHash("sha256").update(addon).digest("hex");
  await writeFile(`${native}checksums.json`, JSON.stringify({ [path]: checksum }));
  return native;
}

const builtAddon = () => readFile(join(binding, "build/Release/node_sqlite3.node"));

/** The addon after a string in it was replaced by another one of the same length. */
async function addonWith(found: RegExp, replacement: string): Promise<Buffer> {
  const addon = (await builtAddon()).toString("latin1");
  const changed = addon.replace(found, replacement);
  expect(changed.length).toBe(addon.length);
  expect(changed).not.toBe(addon);
  return Buffer.from(changed, "latin1");
}

function failureOf(native: string): StoreError {
  try {
    loadAddon(native);
  } catch (error) {
    return error as StoreError;
  }
  throw new Error("it was loaded");
}

test("the addon of the package is loaded", async () => {
  expect(loadAddon(await nativeWith(await builtAddon()))).toHaveProperty("Database");
});

test("one changed byte is refused before the addon is loaded", async () => {
  const addon = await builtAddon();
  const native = await nativeWith(addon);
  addon[addon.length >> 1] = (addon[addon.length >> 1] ?? 0) ^ 1;
  await writeFile(native + name, addon);
  expect(failureOf(native)).toMatchObject({
    kind: "corrupted",
    message: `the SQLCipher addon ${native}${name} was changed: its sha256 differs`,
    hint: expect.stringContaining("Install hivemind-sqlcipher again"),
  });
});

test("unreadable checksums are refused", async () => {
  const native = await nativeWith(await builtAddon());
  await writeFile(`${native}checksums.json`, "{");
  expect(failureOf(native)).toMatchObject({
    kind: "corrupted",
    message: `cannot read the addon's checksums in ${native}checksums.json`,
  });
});

test("a machine without a ready-made addon uses the compiled one, in units and timers too", async () => {
  const native = await nativeWith(Buffer.from("not this one"), "linux-riscv64/node_sqlite3.node");
  expect(loadAddon(native)).toHaveProperty("Database");
});

test("an older libc is reported by the version that it lacks", async () => {
  const addon = await addonWith(/GLIBC_2\.3\d(?=\0)/g, "GLIBC_2.99");
  expect(failureOf(await nativeWith(addon))).toMatchObject({
    kind: "failed",
    message: expect.stringMatching(/cannot load the SQLCipher addon: .*GLIBC_2\.99.* not found/),
    hint: expect.stringContaining("glibc 2.34 or later is needed"),
  });
});

test("a missing library is reported by its name, and the hint names its package", async () => {
  const addon = await addonWith(/libcrypto\.so\.3/, "libcrypto.so.9");
  expect(failureOf(await nativeWith(addon))).toMatchObject({
    kind: "failed",
    message: expect.stringMatching(/cannot load the SQLCipher addon: libcrypto\.so\.9: .*No such/),
    hint: expect.stringContaining("libssl3"),
  });
});

test("the variable chooses the compiled addon, and has no other value", async () => {
  const native = await nativeWith(Buffer.from("not an addon"));
  vi.stubEnv("HIVEMIND_SQLCIPHER_ADDON", "compiled");
  expect(loadAddon(native)).toHaveProperty("Database");
  vi.stubEnv("HIVEMIND_SQLCIPHER_ADDON", "other");
  expect(failureOf(native)).toMatchObject({ kind: "usage" });
});
