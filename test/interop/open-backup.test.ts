/**
 * The formats as docs/reference/formats.md has them: a second implementation, open_backup.py, opens
 * what this one writes, and refuses what was tampered with. It was written from that page, and has
 * none of this project's code.
 */
import { spawnSync } from "node:child_process";
import { createHash, createHmac, hkdfSync, pbkdf2Sync } from "node:crypto";
import { existsSync } from "node:fs";
import { cp, mkdtemp, readdir, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { basename, join } from "node:path";
import { armor } from "age-encryption";
import { afterAll, beforeAll, expect, test } from "vitest";
import { manifestSchema } from "../../src/backup/manifest.js";
import { generateRecoveryKey } from "../../src/bundle/recovery-key.js";
import { newClient } from "../../src/client/client.js";
import { settingsSchema } from "../../src/config/settings-file.js";
import { generatePassphrase } from "../../src/keys/passphrase.js";
import { readPassphrasesInFile } from "../../src/keys/passphrase-file.js";
import { journalEntrySchema } from "../../src/operation/journal.js";
import { ClientStore } from "../../src/store/client-store.js";
import { adoptionOperations } from "../../src/swap/adopt-passphrase.js";
import { swapOperations } from "../../src/swap/journal.js";
import { hubOf, resultOf, runJob } from "../backup/hub.js";
import { root } from "../built.js";
import { fixtures, temporaryFolder } from "../store/temporary.js";

const clients = 40;
const names = Array.from({ length: clients }, (_, index) => `nœud "${index + 1}", l'un 🛰`);
const age = join(fixtures, "age");

interface Made {
  format: 3 | 4;
  passphrase: string;
  identity: string;
  backup: string;
  bundle: string;
}

let folder: string;
const made: Made[] = [];

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), "hivemind-open-"));
  for (const format of [4, 3] as const) made.push(await makeBackup(format));
});
afterAll(() => rm(folder, { recursive: true }));

async function makeBackup(
  format: 3 | 4,
  passphrase = format === 4 ? generatePassphrase() : "own passphrase, it's “quoted”",
): Promise<Made> {
  const place = await mkdtemp(join(folder, `format-${format}-`));
  const store = join(place, "clients.db");
  const opened = await ClientStore.create(store, passphrase, { cipherCompatibility: format });
  await opened.addItems(
    names.map((name, index) =>
      newClient({ client_id: index + 1, api_key: `k${index}`, name, description: "d".repeat(500) }),
    ),
  );
  await opened.deleteItem(clients);
  await opened.close();
  const hub = await hubOf(place, store, passphrase);
  const { backup, bundle } = resultOf(await runJob(hub, { service: { service: "none" } }));
  const identity = join(place, "recovery-key.txt");
  await writeFile(identity, `# recovery key\n${hub.recoveryKey.identity}\n`);
  return { format, passphrase, identity, backup: backup.path, bundle: bundle.path };
}

/** Runs the script without any package of this machine. */
function python(...args: string[]) {
  const script = join(root, "tools/open_backup.py");
  const { status, stdout, stderr } = spawnSync("python3", ["-I", "-S", script, ...args], {
    encoding: "utf8",
  });
  return { status, stdout, stderr };
}

/** Opens a backup into a plain file, and reads it with Python's own sqlite3. */
async function plainClients(backup: string, ...how: string[]) {
  const plain = join(await temporaryFolder(), "plain.db");
  const { status, stderr } = python("open", backup, plain, ...how);
  expect(stderr).toContain("NOT encrypted");
  expect(status).toBe(0);
  const read = `import json, sqlite3, sys
db = sqlite3.connect(sys.argv[1])
assert db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
print(json.dumps(db.execute("SELECT client_id, name, api_key FROM clients ORDER BY client_id").fetchall()))`;
  const answer = spawnSync("python3", ["-c", read, plain], { encoding: "utf8" });
  expect(answer.stderr).toBe("");
  return JSON.parse(answer.stdout) as [number, string, string][];
}

test.each([4, 3])("a new backup of format %i and its bundle open", async (format) => {
  const { backup, bundle, identity, passphrase } = of(format);
  const shown = python("show", bundle, "--identity", identity);
  expect(shown.stderr).toBe("");
  expect(JSON.parse(shown.stdout)).toMatchObject({ passphrase, cipher_compatibility: format });
  const found = await plainClients(backup, "--bundle", bundle, "--identity", identity);
  expect(found).toHaveLength(clients);
  expect(found.slice(0, -1).map(([, name]) => name)).toEqual(names.slice(0, -1));
  expect(found.at(-1)).toEqual([clients, "", "revoked"]);
});

test("a bundle under a passphrase opens with it, and with no other", async () => {
  const place = join(age, "0a15a11", "bundles", "bundles-passphrase");
  const [name = ""] = (await readdir(place)).filter((found) => found.endsWith(".age"));
  const right = join(age, "bundle-passphrase.txt");
  const shown = python("show", join(place, name), "--bundle-passphrase-file", right);
  const passphrase = (await readFile(join(age, "passphrase.txt"), "utf8")).trim();
  expect(JSON.parse(shown.stdout)).toMatchObject({ passphrase });
  const wrong = join(await temporaryFolder(), "wrong");
  await writeFile(wrong, `${(await readFile(right, "utf8")).trimEnd()} `);
  expect(python("show", join(place, name), "--bundle-passphrase-file", wrong)).toMatchObject({
    status: 1,
    stderr: expect.stringContaining("does not open"),
  });
});

test("a disk without space refuses the backup and keeps no part of the plain file", async () => {
  const { backup, bundle, identity } = of(4);
  const plain = join(await temporaryFolder(), "plain.db");
  const script = join(root, "tools/open_backup.py");
  const limited = `trap '' XFSZ; ulimit -f 1; exec python3 -I -S "$@"`;
  const args = ["open", backup, plain, "--bundle", bundle, "--identity", identity];
  const { status, stderr } = spawnSync("bash", ["-c", limited, "bash", script, ...args], {
    encoding: "utf8",
  });
  expect({ status, stderr }).toEqual({ status: 1, stderr: expect.stringContaining("too large") });
  expect(existsSync(plain)).toBe(false);
});

test("a recovery key without a bundle is a wrong call, not a question for the passphrase", () => {
  const { backup, identity } = of(4);
  expect(python("open", backup, join(folder, "none.db"), "--identity", identity)).toMatchObject({
    status: 2,
    stderr: expect.stringContaining("name it with --bundle"),
  });
});

test("a passphrase typed from paper opens the backup; a mistyped one is told by its group", async () => {
  const { backup, passphrase } = of(4);
  const typed = join(await temporaryFolder(), "typed");
  await writeFile(typed, `${passphrase.toLowerCase().replaceAll("-", " ").replaceAll("0", "o")}\n`);
  expect(await plainClients(backup, "--passphrase-file", typed)).toHaveLength(clients);
  const groups = passphrase.split("-");
  const wrong = groups[6]?.startsWith("7") ? "8" : "7";
  groups[6] = wrong + (groups[6]?.slice(1) ?? "");
  await writeFile(typed, groups.join("-"));
  const plain = join(folder, "nothing.db");
  expect(python("open", backup, plain, "--passphrase-file", typed)).toMatchObject({
    status: 1,
    stderr: expect.stringContaining("group 7"),
  });
});

test("a passphrase file is read as the program reads it: first line or whole text, in UTF-8 or UTF-16", async () => {
  const { backup, passphrase } = of(3);
  const file = join(await temporaryFolder(), "passphrase");
  const utf16 = Buffer.from(`\ufeff${passphrase}\r\nof the hub\r\n`, "utf16le");
  for (const contents of [
    `\ufeff${passphrase}\nof the hub\n`,
    utf16,
    Buffer.from(utf16).swap16(),
  ]) {
    await writeFile(file, contents, { mode: 0o600 });
    expect((await readPassphrasesInFile(file))[0]).toBe(passphrase);
    expect(await plainClients(backup, "--passphrase-file", file)).toHaveLength(clients);
  }
  const lines = `${passphrase}\nand a second line`;
  const whole = await makeBackup(3, lines);
  await writeFile(file, `${lines}\n`);
  expect(await readPassphrasesInFile(file)).toEqual([passphrase, lines]);
  expect(await plainClients(whole.backup, "--passphrase-file", file)).toHaveLength(clients);
});

test.each(["backups", "backups-3"].map((name) => [name]))(
  "the first backup ever made opens: %s",
  async (name) => {
    const place = join(age, "06e2fa8", "backups");
    const [backup = ""] = (await readdir(join(place, name))).filter((found) =>
      found.endsWith(".db"),
    );
    const keyId = (await readFile(join(place, name, backup))).toString("hex", 0, 8);
    const found = await plainClients(
      join(place, name, backup),
      ...["--bundle", join(place, "bundles", `clients.${keyId}.bundle.age`)],
      ...["--identity", join(age, "recovery-key.txt")],
    );
    expect(found.map(([id]) => id)).toEqual([1, 2, 3, 4, 7]);
    expect(found[1]?.[2]).toBe("'; DROP TABLE clients; --");
  },
);

test("a bundle changed in any of its parts, or cut off, is refused", async () => {
  const { bundle, identity } = of(4);
  const text = await readFile(bundle, "latin1");
  const path = join(await temporaryFolder(), "bundle.age");
  // In the armor's lines, at every place where something else begins: version, stanzas, MAC, nonce,
  // text, tag.
  const lines = text.split("\n").length;
  for (let line = 1; line < lines - 2; line += 4) {
    const at = text.split("\n").slice(0, line).join("\n").length + 20;
    const other = text[at] === "A" ? "B" : "A";
    await writeFile(path, text.slice(0, at) + other + text.slice(at + 1), "latin1");
    const { status, stdout } = python("show", path, "--identity", identity);
    expect({ line, status, stdout }).toEqual({ line, status: 1, stdout: "" });
  }
  for (const length of [0, 100, text.length >> 1, text.length - 40]) {
    await writeFile(path, text.slice(0, length), "latin1");
    expect(python("show", path, "--identity", identity)).toMatchObject({ status: 1, stdout: "" });
  }
  // The header's own seal, which is under the file key and not under what a stanza is sealed with.
  const bytes = Buffer.from(armor.decode(text));
  const seal = bytes.indexOf("\n--- ") + 5;
  bytes.write(bytes.toString("latin1", seal, seal + 1) === "A" ? "B" : "A", seal);
  await writeFile(path, bytes);
  expect(python("show", path, "--identity", identity)).toMatchObject({
    status: 1,
    stderr: expect.stringContaining("header was altered"),
  });
  const stranger = join(await temporaryFolder(), "other.txt");
  await writeFile(stranger, (await generateRecoveryKey()).identity);
  expect(python("show", bundle, "--identity", stranger)).toMatchObject({
    status: 1,
    stderr: expect.stringContaining("does not open"),
  });
  const mistyped = (await readFile(identity, "utf8")).replace(/(?<=KEY-1.{10})./, (symbol) =>
    symbol === "Q" ? "P" : "Q",
  );
  await writeFile(stranger, mistyped);
  expect(python("show", bundle, "--identity", stranger)).toMatchObject({
    status: 1,
    stderr: expect.stringContaining("typing mistake"),
  });
});

test.each([4, 3])(
  "a tampered backup of format %i is refused, and nothing is written",
  async (format) => {
    const { backup, bundle, identity, passphrase } = of(format);
    const place = await temporaryFolder();
    const copy = join(place, basename(backup));
    const manifest = copy.replace(/db$/, "manifest.json");
    await cp(backup.replace(/db$/, "manifest.json"), manifest);
    const whole = await readFile(backup);
    const contents = JSON.parse(await readFile(manifest, "utf8"));
    const page = format === 4 ? 4096 : 1024;
    const [rounds, digest] = format === 4 ? [256_000, "sha512"] : [64_000, "sha1"];
    const key = pbkdf2Sync(passphrase, whole.subarray(0, 16), rounds, 32, digest);
    const refused = async (bytes: Buffer, altered: object, says: RegExp, sealed = false) => {
      const changed = { ...contents, ...altered };
      await writeFile(copy, bytes);
      await writeFile(manifest, JSON.stringify(sealed ? seal(changed, bytes, key) : changed));
      const plain = join(place, "plain.db");
      const answer = python("open", copy, plain, "--bundle", bundle, "--identity", identity);
      expect(answer).toMatchObject({ status: 1, stderr: expect.stringMatching(says) });
      expect(await readdir(place)).not.toContain("plain.db");
    };
    const flipped = (at: number) => {
      const bytes = Buffer.from(whole);
      bytes.writeUInt8(bytes.readUInt8(at) ^ 1, at);
      return bytes;
    };
    await refused(flipped(page + 5), {}, /sha256/);
    await refused(whole.subarray(0, whole.length - page), {}, /size/);
    await refused(whole, { clients: { active: 1, revoked: 0 } }, /manifest was altered/);
    await refused(whole, { hostname: "another" }, /manifest was altered/);
    // Sealed anew by somebody who knows the passphrase, the pages speak for themselves.
    const honest = seal(contents, whole, key);
    expect(honest).toEqual(contents);
    for (const at of [page + 5, 2 * page - 1 - (format === 3 ? 12 : 0)]) {
      await refused(flipped(at), {}, /page 2 was altered/, true);
    }
    const swapped = Buffer.from(whole);
    whole.copy(swapped, page, 2 * page, 3 * page);
    whole.copy(swapped, 2 * page, page, 2 * page);
    await refused(swapped, {}, /page 2 was altered/, true);
    const zeroed = Buffer.from(whole);
    zeroed.fill(0, page, 2 * page);
    await refused(zeroed, {}, /page 2 was altered/, true);
    await refused(whole.subarray(0, whole.length - page), {}, /pages are missing/, true);
    await refused(whole.subarray(0, whole.length - 1), {}, /last page is incomplete/, true);
  },
);

test("the values in docs/reference/formats.md are those of its fixture", async () => {
  const page = await readFile(join(root, "docs/reference/formats.md"), "utf8");
  const place = join(age, "06e2fa8", "backups", "backups");
  const [name = ""] = (await readdir(place)).filter((found) => found.endsWith(".db"));
  const bytes = await readFile(join(place, name));
  const passphrase = (await readFile(join(age, "passphrase.txt"), "utf8")).trim();
  const { mac, ...unsealed } = JSON.parse(
    await readFile(join(place, name.replace(/db$/, "manifest.json")), "utf8"),
  );
  const salt = bytes.subarray(0, 16);
  const key = pbkdf2Sync(passphrase, salt, 256_000, 32, "sha512");
  const hmacSalt = salt.map((byte) => byte ^ 0x3a);
  const info = (text: string) => Buffer.from(hkdfSync("sha256", key, salt, text, 32));
  const values = [
    passphrase,
    name,
    salt.toString("hex"),
    key.toString("hex"),
    pbkdf2Sync(key, hmacSalt, 2, 32, "sha512").toString("hex"),
    bytes.toString("hex", 4096 - 64, 4096 - 56),
    info("hivemind-sqlcipher manifest").toString("hex"),
    info("hivemind-sqlcipher bundle proof").toString("hex"),
    mac as string,
    canonical(unsealed),
  ];
  for (const value of values) expect(page).toContain(value);
});

test("the fields in docs/reference/formats.md are those that are written", async () => {
  const page = await readFile(join(root, "docs/reference/formats.md"), "utf8");
  const section = (title: string) =>
    page.split(/^## /m).find((part) => part.startsWith(title)) ?? "";
  const fieldsIn = (title: string) =>
    [...section(title).matchAll(/^\| (`[^|]*`) \|/gm)].flatMap(([, cell = ""]) =>
      [...cell.matchAll(/`(\w+)`/g)].map(([, name]) => name),
    );
  expect(fieldsIn("2. Manifest").sort()).toEqual(Object.keys(manifestSchema.shape).sort());
  expect(fieldsIn("9. Settings").sort()).toEqual(Object.keys(settingsSchema.shape).sort());
  const { bundle, identity } = of(4);
  const shown = JSON.parse(python("show", bundle, "--identity", identity).stdout);
  expect(fieldsIn("3. Bundle")).toEqual(Object.keys(shown));
  const proof = JSON.parse(await readFile(`${bundle}.proof.json`, "utf8"));
  expect(fieldsIn("6. Proof record").sort()).toEqual(Object.keys(proof).sort());
  const journal = section("10. Lock and journal");
  const entry = Object.keys(journalEntrySchema.shape);
  const steps = ["beginning", "stopping", "finishing", "claiming"].map((step) => `backup.${step}`);
  for (const name of [...entry, ...steps, ...swapOperations, ...adoptionOperations]) {
    expect(journal).toContain(`\`${name}\``);
  }
});

function of(format: number): Made {
  const found = made.find((each) => each.format === format);
  if (!found) throw new Error(`there is no backup of format ${format}`);
  return found;
}

/** A manifest for other bytes, as whoever has the store's key could make one. */
function seal(contents: Record<string, unknown>, bytes: Buffer, key: Buffer): object {
  const { mac: _mac, ...unsealed } = contents;
  const salt = bytes.subarray(0, 16);
  const macKey = Buffer.from(hkdfSync("sha256", key, salt, "hivemind-sqlcipher manifest", 32));
  const said = { ...unsealed, size: bytes.length, sha256: sha256(bytes) };
  return { ...said, mac: createHmac("sha256", macKey).update(canonical(said)).digest("hex") };
}

function sha256(bytes: Buffer): string {
  return createHash("sha256").update(bytes).digest("hex");
}

/** Every object's keys sorted; the manifest has no lists. */
function canonical(value: unknown): string {
  return JSON.stringify(value, (_key, item) =>
    item && typeof item === "object"
      ? Object.fromEntries(Object.entries(item).sort(([a], [b]) => (a < b ? -1 : 1)))
      : item,
  );
}
