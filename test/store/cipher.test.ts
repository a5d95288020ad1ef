import { execFileSync } from "node:child_process";
import { createHash, pbkdf2Sync } from "node:crypto";
import {
  chmod,
  mkdir,
  readdir,
  readFile,
  rm,
  stat,
  symlink,
  truncate,
  writeFile,
} from "node:fs/promises";
import { join } from "node:path";
import { inspect } from "node:util";
import { describe, expect, test } from "vitest";
import { StoreError } from "../../src/errors.js";
import {
  createEncrypted,
  deriveHkdfKey,
  deriveKey,
  deriveManifestKey,
  identify,
  openEncrypted,
  StoreKey,
} from "../../src/store/cipher.js";
import type { ConnectionOptions } from "../../src/store/connection.js";
import { findIntegrityErrors } from "../../src/store/integrity.js";
import { findPageErrors } from "../../src/store/page-integrity.js";
import { interpreter } from "../interop/python.js";
import { copyOfFixture, fixturePassphrases, fixtures, temporaryFolder } from "./temporary.js";

const readonly = { mode: "readonly" } as const;

async function kindOf(action: Promise<unknown>): Promise<string> {
  const error = await action.then(
    () => undefined,
    (error: unknown) => error,
  );
  if (error instanceof StoreError) return error.kind;
  throw new Error("no StoreError", { cause: error });
}

async function sha256(path: string): Promise<string> {
  return createHash("sha256")
    .update(await readFile(path))
    .digest("hex");
}

describe("stores that other programs encrypted", () => {
  test.each(Object.entries(fixturePassphrases))(
    "%s opens and is whole, and neither its bytes nor its folder change by being read",
    async (name, passphrase) => {
      const path = await copyOfFixture(name);
      const before = await sha256(path);
      const { keyId } = await identify(path);
      for (const mode of ["readonly", "readwrite"] as const) {
        const store = await openEncrypted(path, passphrase, { mode });
        expect(store.keyId).toBe(keyId);
        expect(await store.connection.get("SELECT count(*) AS n FROM clients")).toEqual({ n: 5 });
        expect(await findIntegrityErrors(store.connection)).toEqual([]);
        await store.connection.close();
        expect(await findPageErrors(path, store.key)).toEqual([]);
      }
      expect(await sha256(path)).toBe(before);
      expect(await sha256(join(fixtures, name))).toBe(before);
      expect(await readdir(join(path, ".."))).toEqual([name]);
    },
  );

  test.each([
    ["sqlcipher3-schema2.db", 3],
    ["sqlcipher4-schema2.db", 4],
  ] as const)(
    "%s is found to be of format %i, and stays so when it is written",
    async (name, format) => {
      const path = await copyOfFixture(name);
      const passphrase = fixturePassphrases[name];
      const first = await openEncrypted(path, passphrase, { mode: "readwrite" });
      expect(first.key.cipherCompatibility).toBe(format);
      await first.connection.run("UPDATE clients SET name = 'written' WHERE client_id = 1");
      await first.connection.close();
      await using again = (await openEncrypted(path, first.key, readonly)).connection;
      expect(await again.get("SELECT name FROM clients")).toEqual({ name: "written" });
      expect(await again.get("PRAGMA cipher_page_size")).toEqual({
        cipher_page_size: format === 3 ? "1024" : "4096",
      });
      expect((await identify(path)).keyId).toBe(first.keyId);
    },
  );

  test("a format 3 store in WAL mode opens, with frames still in its WAL", async () => {
    const path = await copyOfFixture("sqlcipher3-schema2.db");
    const passphrase = fixturePassphrases["sqlcipher3-schema2.db"];
    await using writer = (await openEncrypted(path, passphrase, { mode: "readwrite" })).connection;
    await writer.get("PRAGMA journal_mode = WAL");
    await writer.run("UPDATE clients SET name = 'in the WAL' WHERE client_id = 1");
    await using reader = (await openEncrypted(path, passphrase, readonly)).connection;
    expect(await reader.get("SELECT name FROM clients")).toEqual({ name: "in the WAL" });
    expect(await kindOf(openEncrypted(path, "wrong", readonly))).toBe("wrongPassphrase");
    expect(await writer.get("SELECT name FROM clients")).toEqual({ name: "in the WAL" });
  });
});

describe("what cannot be opened", () => {
  const passphrase = fixturePassphrases["sqlcipher4-schema2.db"];

  test("a wrong passphrase, and a key of another file", async () => {
    const path = await copyOfFixture("sqlcipher4-schema2.db");
    const other = await copyOfFixture("sqlcipher3-schema2.db");
    const before = await sha256(path);
    expect(await kindOf(openEncrypted(path, "wrong", { mode: "readwrite" }))).toBe(
      "wrongPassphrase",
    );
    const { connection, key } = await openEncrypted(path, passphrase, readonly);
    await connection.close();
    expect(await kindOf(openEncrypted(other, key, readonly))).toBe("wrongPassphrase");
    const wrong = new StoreKey(key.salt, Buffer.alloc(32, 1), 4);
    expect(await kindOf(openEncrypted(path, wrong, readonly))).toBe("wrongPassphrase");
    expect(await sha256(path)).toBe(before);
  });

  test("a plaintext store, with the command that encrypts it", async () => {
    const path = await copyOfFixture("plain-schema0.db");
    const before = await sha256(path);
    await expect(openEncrypted(path, "any", { mode: "readwrite" })).rejects.toMatchObject({
      kind: "refused",
      hint: "Encrypt it in place: hivemind-sqlcipher encrypt",
    });
    expect(await identify(path)).toEqual({ format: "plaintext", size: (await stat(path)).size });
    expect(await sha256(path)).toBe(before);
    expect(await readdir(join(path, ".."))).toEqual(["plain-schema0.db"]);
  });

  test("a file that is no database, whatever its size, and a folder", async () => {
    const folder = await temporaryFolder();
    const path = join(folder, "clients.db");
    for (const size of [0, 10, 16, 100, 600, 5_000]) {
      await writeFile(path, "text ".repeat(1_000).slice(0, size));
      expect(await kindOf(openEncrypted(path, "any", { mode: "readwrite" }))).toBe(
        "wrongPassphrase",
      );
      expect(await identify(path)).toEqual({ format: "unknown", size });
      expect((await stat(path)).size).toBe(size);
    }
    await mkdir(join(folder, "a folder"));
    expect((await identify(join(folder, "a folder"))).format).toBe("unknown");
    expect(await kindOf(openEncrypted(join(folder, "a folder"), "any", readonly))).toBe(
      "wrongPassphrase",
    );
  });

  test("a path with nothing there, which stays so", async () => {
    const folder = await temporaryFolder();
    const path = join(folder, "clients.db");
    expect(await kindOf(openEncrypted(path, "any", { mode: "create" }))).toBe("notFound");
    expect(await identify(path)).toEqual({ format: "absent", size: 0 });
    expect(await readdir(folder)).toEqual([]);
  });

  test("a file that was cut off, in the middle of a page or between two", async () => {
    const path = await copyOfFixture("sqlcipher4-schema2.db");
    const { size } = await stat(path);
    await truncate(path, size - 100);
    expect(await kindOf(openEncrypted(path, passphrase, readonly))).toBe("corrupted");
    await truncate(path, size - 4096);
    expect(await kindOf(openEncrypted(path, passphrase, readonly))).toBe("corrupted");
    await truncate(path, 2_000);
    expect(await kindOf(openEncrypted(path, passphrase, readonly))).toBe("wrongPassphrase");
  });

  test.each([4, 3] as const)(
    "a file whose last page is not whole, unless the log has that page and all after it, in format %i",
    async (format) => {
      const path = join(await temporaryFolder(), "clients.db");
      const cut = `${path}.cut`;
      const { connection, key } = await createEncrypted(path, "any", format);
      await connection.all("PRAGMA journal_mode = WAL");
      await connection.all("PRAGMA wal_autocheckpoint = 0");
      await connection.exec("CREATE TABLE t (v); CREATE TABLE one (n); INSERT INTO one VALUES (1)");
      for (let row = 0; row < 50; row++) {
        await connection.run("INSERT INTO t VALUES (?)", [String(row).repeat(1_500)]);
      }
      // By another process, for this one must not close a file of a store that it has open.
      const copy = (from: string, to: string) => execFileSync("cp", [path + from, path + to]);
      copy("-wal", ".all-wal");
      await connection.all("PRAGMA wal_checkpoint(TRUNCATE)");
      copy("", ".whole");
      await connection.run("UPDATE one SET n = 2");
      copy("-wal", ".some-wal");
      await connection.close();
      const { size } = await stat(`${path}.whole`);

      const openCut = async (
        length: number,
        log: string | undefined,
        options: ConnectionOptions,
      ) => {
        for (const suffix of ["", "-wal", "-shm"]) await rm(cut + suffix, { force: true });
        copy(".whole", ".cut");
        await truncate(cut, length);
        if (log !== undefined) copy(log, ".cut-wal");
        const opened = await openEncrypted(cut, key, options);
        await using store = opened.connection;
        expect(await findIntegrityErrors(store)).toEqual([]);
        expect(await store.get("SELECT count(*) AS rows, sum(length(v)) AS size FROM t")).toEqual({
          rows: 50,
          size: 135_000,
        });
      };
      const pageSize = format === 4 ? 4096 : 1024;
      const loggedPage = (await readFile(`${path}.some-wal`)).readUInt32BE(32);
      expect(loggedPage).toBe(3);
      for (const mode of ["readonly", "readwrite"] as const) {
        for (const length of [600, 10 * pageSize + 1, size - 100]) {
          await openCut(length, ".all-wal", { mode });
        }
        await openCut(size, ".all-wal", { mode });
        for (const length of [loggedPage * pageSize - 100, 10 * pageSize + 1, size - 100]) {
          for (const log of [".some-wal", undefined]) {
            expect(await kindOf(openCut(length, log, { mode }))).toBe("corrupted");
          }
        }
      }
      // The log lies beside the file, not beside a link to it.
      const link = join(await temporaryFolder(), "link.db");
      await openCut(600, ".all-wal", readonly);
      await symlink(cut, link);
      await (await openEncrypted(link, key, readonly)).connection.close();
      const immutable = { mode: "readonly", immutable: true } as const;
      expect(await kindOf(openCut(size - 100, ".all-wal", immutable))).toBe("corrupted");
    },
  );

  test.each(Object.entries(fixturePassphrases))(
    "one changed bit in %s is damage, not a wrong passphrase",
    async (name, rightPassphrase) => {
      const path = await copyOfFixture(name);
      const bytes = await readFile(path);
      bytes.writeUInt8(bytes.readUInt8(bytes.length - 500) ^ 1, bytes.length - 500);
      await writeFile(path, bytes);
      const opened = await openEncrypted(path, rightPassphrase, readonly);
      expect(await findPageErrors(path, opened.key)).toEqual([
        "HMAC verification failed for page 3",
      ]);
      await using connection = opened.connection;
      expect(await findIntegrityErrors(connection)).toHaveLength(1);
      expect(
        await kindOf(
          connection.all("SELECT * FROM clients INDEXED BY idx_clients_api_key WHERE api_key > ''"),
        ),
      ).toBe("corrupted");
    },
  );

  test("a passphrase that SQLCipher would not derive a key from", async () => {
    const salt = Buffer.alloc(16);
    for (const passphrase of ["", "a\0b", `x'${"ab".repeat(32)}'`, `X'${"AB".repeat(48)}'`]) {
      expect(await kindOf(deriveKey(passphrase, salt, 4))).toBe("refused");
    }
    await deriveKey(`x'${"ab".repeat(31)}'`, salt, 3);
  });
});

describe("a store made here", () => {
  const passphrases = [
    "simple",
    "it's \"quoted\" ''",
    "pä§§ фраза 密碼 🔑",
    "x'not hex'",
    " spaces ",
    "a;--\\n%",
  ];

  test.each(passphrases)(
    "opens in the SQLCipher of Python with the same passphrase: %s",
    async (passphrase) => {
      const path = join(await temporaryFolder(), "clients.db");
      const { connection } = await createEncrypted(path, passphrase);
      await connection.exec("CREATE TABLE t (v); INSERT INTO t VALUES ('héllo')");
      await connection.close();
      const script = `import sqlcipher3, sys
c = sqlcipher3.connect(sys.argv[1])
c.execute("PRAGMA key='%s'" % sys.stdin.read().replace("'", "''"))
print(c.execute("SELECT v FROM t").fetchone()[0])
c.execute("UPDATE t SET v = 'written'")
c.commit()`;
      const output = execFileSync(interpreter("released"), ["-c", script, path], {
        input: passphrase,
        encoding: "utf8",
      });
      expect(output).toBe("héllo\n");
      await using again = (await openEncrypted(path, passphrase, readonly)).connection;
      expect(await again.get("SELECT v FROM t")).toEqual({ v: "written" });
    },
  );

  test("in format 3 opens in Debian's SQLCipher 3.4.1", async () => {
    const path = join(await temporaryFolder(), "clients.db");
    const { connection } = await createEncrypted(path, "it's old", 3);
    await connection.exec("CREATE TABLE t (v); INSERT INTO t VALUES ('old')");
    await connection.close();
    const output = execFileSync("sqlcipher", [path], {
      input: "PRAGMA key = 'it''s old';\nSELECT v FROM t;\n",
      encoding: "utf8",
    });
    expect(output.trimEnd().split("\n").at(-1)).toBe("old");
  });

  test("is for its owner's eyes alone, and never replaces what is there", async () => {
    const path = join(await temporaryFolder(), "clients.db");
    const { connection, keyId } = await createEncrypted(path, "p");
    await connection.close();
    expect((await stat(path)).mode & 0o777).toBe(0o600);
    expect((await readFile(path)).toString("hex", 0, 8)).toBe(keyId);
    expect(await identify(path)).toEqual({ format: "sqlcipher", keyId, size: 4096 });
    expect(await kindOf(createEncrypted(path, "q"))).toBe("refused");
    await using again = (await openEncrypted(path, "p", readonly)).connection;
    expect(again.unlocked).toBe(true);
  });

  test("is not made where it cannot be written", async () => {
    const folder = await temporaryFolder();
    expect(await kindOf(createEncrypted(join(folder, "no folder", "clients.db"), "p"))).toBe("io");
    await chmod(folder, 0o755);
    expect(await readdir(folder)).toEqual([]);
  });
});

describe("a store's key", () => {
  test("is PBKDF2 of the passphrase's UTF-8 bytes", async () => {
    const salt = Buffer.from("000102030405060708090a0b0c0d0e0f", "hex");
    const { key } = await deriveKey("pä§§", salt, 4);
    expect(key).toEqual(pbkdf2Sync(Buffer.from("pä§§", "utf8"), salt, 256_000, 32, "sha512"));
    const old = await deriveKey("pä§§", salt, 3);
    expect(old.key).toEqual(pbkdf2Sync(Buffer.from("pä§§", "utf8"), salt, 64_000, 32, "sha1"));
  });

  test("shows neither when printed, nor in JSON, nor in an error, nor in a copy", () => {
    const key = new StoreKey(Buffer.alloc(16, 7), Buffer.alloc(32, 0xab), 4);
    const shown = [
      inspect(key, { depth: null, showHidden: true, getters: true }),
      JSON.stringify({ key, copy: { ...key } }),
      `${key}`,
      inspect(new Error("x", { cause: key })),
    ].join("\n");
    expect(shown).not.toMatch(/(?:ab[ ,]*){3}|171/i);
    expect(shown).toContain("0707070707070707");
  });

  test("gives other keys for other uses, the same each time", async () => {
    const key = new StoreKey(Buffer.alloc(16, 7), Buffer.alloc(32, 0xab), 4);
    const other = new StoreKey(Buffer.alloc(16, 8), Buffer.alloc(32, 0xab), 4);
    const manifest = deriveManifestKey(key);
    expect(manifest).toHaveLength(32);
    expect(manifest).toEqual(deriveManifestKey(key));
    const all = [
      manifest,
      deriveHkdfKey(key, "a"),
      deriveHkdfKey(key, "b"),
      deriveHkdfKey(other, "a"),
      key.key,
    ];
    expect(new Set(all.map((bytes) => bytes.toString("hex"))).size).toBe(all.length);
  });
});
