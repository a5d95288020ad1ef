import { execFile, execFileSync } from "node:child_process";
import { createHash } from "node:crypto";
import {
  appendFile,
  copyFile,
  mkdir,
  readdir,
  readFile,
  rm,
  rmdir,
  stat,
  truncate,
  writeFile,
} from "node:fs/promises";
import { join } from "node:path";
import { promisify } from "node:util";
import { armor, Encrypter } from "age-encryption";
import { beforeEach, expect, onTestFinished, test, vi } from "vitest";
import {
  type BundleContents,
  type BundleRequest,
  describeBundle,
  readBundle,
  removeStagedBundles,
  writeBundle,
} from "../../src/bundle/bundle.js";
import { generateRecoveryKey, type RecoveryKey } from "../../src/bundle/recovery-key.js";
import { openEncrypted, type StoreKey } from "../../src/store/cipher.js";
import { copyOfFixture, temporaryFolder } from "../store/temporary.js";

const mocked = vi.hoisted(() => ({ linkCode: undefined as string | undefined }));

vi.mock("node:fs/promises", async (original) => {
  const actual = await original<typeof import("node:fs/promises")>();
  const link: typeof actual.link = async (from, to) => {
    const code = mocked.linkCode;
    if (code !== undefined) throw Object.assign(new Error(code), { code });
    await actual.link(from, to);
  };
  return { ...actual, link };
});

const run = promisify(execFile);
const passphrase = "correct 'horse' battery";

let folder: string;
let store: string;
let key: StoreKey;
let keyId: string;
let recovery: RecoveryKey;
let request: BundleRequest;

beforeEach(async () => {
  folder = join(await temporaryFolder(), "bundles");
  await mkdir(folder);
  store = await copyOfFixture("sqlcipher4-schema2.db");
  const opened = await openEncrypted(store, passphrase, { mode: "readonly" });
  await opened.connection.close();
  ({ key, keyId } = opened);
  recovery = await generateRecoveryKey();
  request = {
    directory: folder,
    storePath: store,
    passphrase,
    key,
    recipients: [recovery.recipient],
  };
});

async function identityFile(): Promise<string> {
  const path = join(await temporaryFolder(), "key.txt");
  await writeFile(path, `# recovery key\n${recovery.identity}\n`);
  return path;
}

/** A bundle with other contents, locked to the recovery key as ours are. */
async function forge(contents: unknown): Promise<string> {
  const encrypter = new Encrypter();
  encrypter.addRecipient(recovery.recipient);
  const text = typeof contents === "string" ? contents : JSON.stringify(contents);
  const path = join(folder, "forged.age");
  await writeFile(path, armor.encode(await encrypter.encrypt(text)));
  return path;
}

test("a bundle is opened by age itself, and says in words how to open the store", async () => {
  const { path, ...bundle } = await writeBundle(request);
  expect(path).toBe(join(folder, `clients.${keyId}.bundle.age`));
  expect(bundle).toEqual({ keyId, recipients: [recovery.recipient], reused: false });
  expect((await stat(path)).mode & 0o777).toBe(0o600);
  const { stdout } = await run("age", ["-d", "-i", await identityFile(), path]);
  const contents = JSON.parse(stdout) as BundleContents;
  expect(contents).toEqual({
    format: "hivemind-sqlcipher-bundle",
    version: 1,
    key_id: keyId,
    passphrase,
    cipher_compatibility: 4,
    database: store,
    created_at: expect.stringMatching(/^\d{4}-\d\d-\d\dT.*Z$/),
    how_to_open: expect.arrayContaining([expect.stringContaining("PRAGMA key = 'PASSPHRASE';")]),
  });
  expect(contents.how_to_open.join()).not.toContain(passphrase);
  expect(await readBundle(path, { identity: recovery.identity })).toEqual(contents);
});

test("neither the bundle nor its proof shows the passphrase, and no unfinished file is left", async () => {
  const { path } = await writeBundle(request);
  expect((await readdir(folder)).sort()).toEqual([
    `clients.${keyId}.bundle.age`,
    `clients.${keyId}.bundle.age.proof.json`,
  ]);
  for (const file of [path, `${path}.proof.json`]) {
    expect(await readFile(file, "latin1")).not.toContain("horse");
    expect((await stat(file)).mode & 0o777).toBe(0o600);
  }
});

test("each of several recipients opens it, and so does nobody else", async () => {
  const second = await generateRecoveryKey();
  const recipients = [second.recipient, recovery.recipient, second.recipient];
  const { path, recipients: locked } = await writeBundle({ ...request, recipients });
  expect(locked).toEqual([recovery.recipient, second.recipient].sort());
  for (const { identity } of [recovery, second]) {
    expect((await readBundle(path, { identity })).passphrase).toBe(passphrase);
  }
  const { identity } = await generateRecoveryKey();
  await expect(readBundle(path, { identity })).rejects.toMatchObject({
    kind: "wrongPassphrase",
    message: expect.stringContaining("this recovery key does not open"),
  });
  const both = `${identity}\n# the right one:\n${second.identity}\n`;
  expect((await readBundle(path, { identity: both })).passphrase).toBe(passphrase);
});

test("a passphrase bundle opens with its passphrase, by age's own hand too, and not with a recovery key", async () => {
  const bundlePassphrase = "on a sheet of paper";
  const { path, recipients } = await writeBundle({ ...request, bundlePassphrase });
  const { how_to_open } = await readBundle(path, { passphrase: bundlePassphrase });
  expect(how_to_open.at(-1)).toContain("--bundle BUNDLE --bundle-passphrase-file FILE");
  expect(recipients).toEqual([]);
  expect((await describeBundle(path)).opensWith).toBe("bundle passphrase");
  await expect(readBundle(path, { passphrase: "another sheet" })).rejects.toMatchObject({
    kind: "wrongPassphrase",
  });
  await expect(readBundle(path, { identity: recovery.identity })).rejects.toMatchObject({
    kind: "usage",
    hint: expect.stringContaining("--bundle-passphrase-file"),
  });
  // age asks on a terminal only; util-linux's script makes one.
  const typed = run("script", ["-qec", `age -d '${path}'`, "/dev/null"]);
  typed.child.stdin?.write(`${bundlePassphrase}\n`);
  expect((await typed).stdout).toContain(`"passphrase": "${passphrase}"`);
});

test("a bundle that was proven is used again, by a run that cannot open it", async () => {
  const first = await writeBundle(request);
  const bytes = await readFile(first.path);
  expect(await writeBundle(request)).toEqual({ ...first, reused: true });
  expect(await readFile(first.path)).toEqual(bytes);
  expect(await readdir(folder)).toHaveLength(2);
});

test("a passphrase bundle is used again only for the same bundle passphrase", async () => {
  await writeBundle({ ...request, bundlePassphrase: "one" });
  expect((await writeBundle({ ...request, bundlePassphrase: "one" })).reused).toBe(true);
  expect((await writeBundle({ ...request, bundlePassphrase: "two" })).reused).toBe(false);
});

type Spoil = (path: string) => Promise<unknown>;

test.each<[string, Spoil]>([
  ["was altered", (path) => appendFile(path, "\n")],
  ["was cut off", (path) => truncate(path, 300)],
  ["was exchanged for another's with the passphrase of an attacker", (path) => exchange(path)],
  ["has lost its proof", (path) => rm(`${path}.proof.json`)],
  ["has a proof that is no JSON", (path) => writeFile(`${path}.proof.json`, "{")],
  ["has a proof sealed with another key", (path) => edit(path, "mac", "0".repeat(64))],
  ["has a proof with an empty seal", (path) => edit(path, "mac", "")],
])("a bundle that %s is superseded by a new one, and kept", async (_what, spoil) => {
  const { path } = await writeBundle(request);
  await spoil(path);
  const spoilt = await readFile(path);
  vi.useFakeTimers({ now: new Date("2026-11-24T18:50:00.123Z"), toFake: ["Date"] });
  const second = await writeBundle(request).finally(() => vi.useRealTimers());
  expect(second).toMatchObject({ path, reused: false });
  expect((await readBundle(path, { identity: recovery.identity })).passphrase).toBe(passphrase);
  const kept = `clients.${keyId}.bundle.superseded-2026-11-24T18-50-00-123Z.age`;
  expect((await readdir(folder)).sort()).toEqual([
    `clients.${keyId}.bundle.age`,
    `clients.${keyId}.bundle.age.proof.json`,
    kept,
  ]);
  expect(await readFile(join(folder, kept))).toEqual(spoilt);
  expect((await writeBundle(request)).reused).toBe(true);
});

/**
 * Locked to the right key, with a proof whose sum and recipients are right: only the seal cannot be
 * made.
 */
async function exchange(path: string): Promise<void> {
  const forged = await forge({ ...(await contentsOf(path)), passphrase: "the attacker's" });
  await copyFile(forged, path);
  await rm(forged);
  const sum = createHash("sha256").update(await readFile(path));
  await edit(path, "sha256", sum.digest("hex"));
}

async function contentsOf(path: string): Promise<BundleContents> {
  return readBundle(path, { identity: recovery.identity });
}

async function edit(path: string, field: string, value: string): Promise<void> {
  const proof = JSON.parse(await readFile(`${path}.proof.json`, "utf8"));
  await writeFile(`${path}.proof.json`, JSON.stringify({ ...proof, [field]: value }));
}

test("other recipients than those it is locked to need a new bundle", async () => {
  const second = await generateRecoveryKey();
  const { path } = await writeBundle(request);
  const recipients = [recovery.recipient, second.recipient];
  expect((await writeBundle({ ...request, recipients })).reused).toBe(false);
  expect((await readBundle(path, { identity: second.identity })).passphrase).toBe(passphrase);
  expect((await writeBundle(request)).reused).toBe(false);
  await expect(readBundle(path, { identity: second.identity })).rejects.toMatchObject({
    kind: "wrongPassphrase",
  });
});

test("an earlier bundle keeps its name until the new bundle replaces it", async () => {
  const { path } = await writeBundle(request);
  const earlier = await readFile(path);
  await rm(`${path}.proof.json`);
  // Fails after the earlier bundle got its second name, as a kill there would.
  await mkdir(`${path}.proof.json`);
  await expect(writeBundle(request)).rejects.toMatchObject({ kind: "refused" });
  expect(await readFile(path)).toEqual(earlier);
  await rmdir(`${path}.proof.json`);
  expect((await writeBundle(request)).reused).toBe(false);
  expect(await readFile(path)).not.toEqual(earlier);
});

test.each([
  ["is copied where hard links are not possible", "EPERM", 2],
  ["is not copied after another error", "EIO", 0],
  ["leaves no incomplete copy on a full disk", "EPERM", 0],
])("an earlier bundle %s", async (what, code, copies) => {
  // tmpfs counts pages: 3 for the earlier bundle, 1 for its record, and 2 for the new bundle.
  const pages = what.includes("full") ? 6 : 20;
  execFileSync("mount", ["-t", "tmpfs", "-o", `size=${pages * 4}k`, "tmpfs", folder]);
  onTestFinished(() => {
    mocked.linkCode = undefined;
    execFileSync("umount", [folder]);
  });
  const { path } = await writeBundle(request);
  const before = await readdir(folder);
  await writeFile(path, Buffer.alloc(3 * 4096));
  mocked.linkCode = code;
  for (const _ of [1, 2]) {
    if (copies === 0) await expect(writeBundle(request)).rejects.toMatchObject({ kind: "io" });
    else await writeBundle(request);
    if (copies > 0) await appendFile(path, "\n");
  }
  const added = (await readdir(folder)).filter((name) => !before.includes(name));
  expect(added).toHaveLength(copies);
  expect(added.every((name) => name.includes(".superseded-"))).toBe(true);
});

test("a bundle of a file whose passphrase was changed under the same salt is superseded", async () => {
  await writeBundle(request);
  const { connection } = await openEncrypted(store, key, { mode: "readwrite" });
  await connection.exec("PRAGMA rekey = 'changed by somebody'");
  await connection.close();
  await expect(
    writeBundle({ ...request, recipients: [recovery.recipient] }),
  ).resolves.toMatchObject({
    reused: true,
  });
  const opened = await openEncrypted(store, "changed by somebody", { mode: "readonly" });
  await opened.connection.close();
  expect(opened.keyId).toBe(keyId);
  const changed = { ...request, passphrase: "changed by somebody", key: opened.key };
  const bundle = await writeBundle(changed);
  expect(bundle.reused).toBe(false);
  expect((await contentsOf(bundle.path)).passphrase).toBe("changed by somebody");
});

test("a passphrase that does not open the store makes no bundle", async () => {
  await expect(writeBundle({ ...request, passphrase: "not it" })).rejects.toMatchObject({
    kind: "wrongPassphrase",
  });
  expect(await readdir(folder)).toEqual([]);
});

test("nothing to lock it with, or a recipient that does not parse: wrong usage, and nothing written", async () => {
  for (const wrong of [
    { recipients: [] },
    { recipients: [recovery.recipient, "age1nobody"] },
    { recipients: [recovery.identity] },
    { bundlePassphrase: "" },
  ]) {
    await expect(writeBundle({ ...request, ...wrong })).rejects.toMatchObject({ kind: "usage" });
  }
  expect(await readdir(folder)).toEqual([]);
});

test("a bundle folder that is not there is not made: its disk may not be mounted", async () => {
  await expect(writeBundle({ ...request, directory: join(folder, "stick") })).rejects.toMatchObject(
    {
      kind: "io",
      hint: expect.stringContaining("Mount its disk"),
    },
  );
});

test("what a killed run left unfinished goes, another's stays", async () => {
  const mine = `.clients.${keyId}.bundle.age.0123456789ab.partial`;
  const other = ".clients.ffffffffffffffff.bundle.age.0123456789ab.partial";
  await writeFile(join(folder, mine), "half");
  await writeFile(join(folder, other), "half");
  await removeStagedBundles(folder, keyId);
  expect(await readdir(folder)).toEqual([other]);
});

test("a store that is only staged is proven, and the place it will have is what the bundle names", async () => {
  const { path } = await writeBundle({ ...request, database: "/srv/hub/clients.db" });
  expect((await contentsOf(path)).database).toBe("/srv/hub/clients.db");
});

test("the bundle of a format 3 store opens it with Debian's SQLCipher, by its own words", async () => {
  const old = await copyOfFixture("sqlcipher3-schema2.db");
  const opened = await openEncrypted(old, "legacy pass'phrase", { mode: "readonly" });
  await opened.connection.close();
  const { path } = await writeBundle({
    ...request,
    storePath: old,
    passphrase: "legacy pass'phrase",
    key: opened.key,
  });
  const contents = await contentsOf(path);
  expect(contents.cipher_compatibility).toBe(3);
  const words = contents.how_to_open.join("\n");
  const pragmas = [...words.matchAll(/^ {4}((?:PRAGMA|SELECT) [^;]*;)/gm)].map(([, line]) => line);
  expect(pragmas).toHaveLength(3);
  const script = pragmas
    .join("\n")
    .replace("PASSPHRASE", contents.passphrase.replaceAll("'", "''"));
  const shell = run("sqlcipher", [old]);
  shell.child.stdin?.end(`${script}\n`);
  expect((await shell).stdout).toMatch(/^1\|/m);
});

test("a bundle is described without opening it", async () => {
  const { path } = await writeBundle(request);
  const { size } = await stat(path);
  expect(await describeBundle(path)).toEqual({
    path,
    keyId,
    opensWith: "recovery key",
    size,
    sha256: createHash("sha256")
      .update(await readFile(path))
      .digest("hex"),
    proof: { recipients: [recovery.recipient], matches: true },
  });
  await appendFile(path, "\n");
  expect((await describeBundle(path)).proof?.matches).toBe(false);
});

test("a bundle that age re-encrypted without armor is read as well", async () => {
  const { path } = await writeBundle(request);
  const plain = join(folder, "copy.json");
  await writeFile(plain, JSON.stringify(await contentsOf(path)));
  const binary = join(folder, "copy.age");
  await run("age", ["-e", "-r", recovery.recipient, "-o", binary, plain]);
  expect((await contentsOf(binary)).passphrase).toBe(passphrase);
  expect((await describeBundle(binary)).keyId).toBeNull();
});

test("a bundle cut off anywhere, or with any byte changed, is never read as whole", async () => {
  const { path } = await writeBundle(request);
  const whole = await readFile(path);
  const copy = join(folder, "copy.age");
  for (let length = 0; length < whole.length - 2; length += 97) {
    await writeFile(copy, whole.subarray(0, length));
    await expect(contentsOf(copy)).rejects.toMatchObject({ kind: "corrupted" });
  }
  const decoded = armor.decode(whole.toString());
  for (let at = 0; at < decoded.length; at += 41) {
    const changed = Uint8Array.from(decoded);
    changed[at] = (changed[at] ?? 0) ^ 0x20;
    await writeFile(copy, changed);
    await expect(contentsOf(copy)).rejects.toMatchObject({
      kind: expect.stringMatching(/^(corrupted|wrongPassphrase)$/),
    });
  }
});

test.each<[string, unknown, string]>([
  ["no JSON", "hello", "corrupted"],
  ["another JSON", { hello: 1 }, "corrupted"],
  [
    "the contents of a newer version",
    { format: "hivemind-sqlcipher-bundle", version: 2 },
    "newerVersion",
  ],
  [
    "contents without a passphrase",
    { format: "hivemind-sqlcipher-bundle", version: 1 },
    "corrupted",
  ],
])("an age file with %s is refused with its own code", async (_what, contents, kind) => {
  await expect(contentsOf(await forge(contents))).rejects.toMatchObject({ kind });
});

test("what is not there, is no bundle, or is a folder, is said so", async () => {
  await expect(contentsOf(join(folder, "none.age"))).rejects.toMatchObject({ kind: "notFound" });
  await expect(contentsOf(store)).rejects.toMatchObject({ kind: "corrupted" });
  await expect(contentsOf(folder)).rejects.toMatchObject({ kind: "corrupted" });
});

test("the identity that proved it is dropped: what is on disk is locked to one key more, and that is nobody's", async () => {
  const { path } = await writeBundle(request);
  const header = Buffer.from(armor.decode(await readFile(path, "utf8"))).toString("latin1");
  expect(header.match(/^-> X25519 /gm)).toHaveLength(2);
});
