/** The project's own documents, whatever somebody or a disk has made of them. */
import assert from "node:assert/strict";
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { armor, Encrypter } from "age-encryption";
import fc from "fast-check";
import { afterAll, beforeAll } from "vitest";
import {
  formatManifest,
  readManifest,
  signManifest,
  verifyManifestMac,
} from "../../src/backup/manifest.js";
import { describeBundle, readBundle } from "../../src/bundle/bundle.js";
import {
  generateRecoveryKey,
  parseIdentities,
  parseRecipient,
  type RecoveryKey,
} from "../../src/bundle/recovery-key.js";
import { formatJson, type JsonValue, parseJson, sameJson } from "../../src/client/json.js";
import { loadSettings, saveSettings } from "../../src/config/settings-file.js";
import { journalPath } from "../../src/operation/journal.js";
import type { OperationLock } from "../../src/operation/lock.js";
import { recover } from "../../src/recovery/recover.js";
import { StoreKey } from "../../src/store/cipher.js";
import { answerOf, assertRefusal, campaign, secretMark } from "./campaign.js";
import { bytesOf, json, jsonOf, objectOf, secret, wildJson, wildText } from "./inputs.js";

const folder = mkdtempSync(join(tmpdir(), "hivemind-fuzz-"));
afterAll(() => rmSync(folder, { recursive: true }));

/** A file with these bytes. */
function file(name: string, bytes: Uint8Array): string {
  const path = join(folder, name);
  writeFileSync(path, bytes, { mode: 0o600 });
  return path;
}

const paths = fc.oneof(json("/srv/x"), json("~/x"), json("relative"), jsonOf(wildText));

campaign("JSON is read as JSON.parse reads it, and written so that it is read alike", {
  what: "JSON text",
  share: 200,
  inputs: bytesOf(wildJson).map((bytes) => bytes.toString()),
  holds(text) {
    let value: JsonValue;
    try {
      value = parseJson(text);
    } catch (error) {
      assert(error instanceof SyntaxError, String(error));
      if (!error.message.includes("less nesting")) assert.throws(() => JSON.parse(text));
      return;
    }
    if (!/NaN|Infinity/.test(text)) JSON.parse(text);
    const again = formatJson(value);
    assert(sameJson(parseJson(again), value));
    assert.equal(formatJson(parseJson(again)), again);
    for (const style of [{ sortKeys: true, ascii: false }, { indent: 4 }]) {
      assert(sameJson(parseJson(formatJson(value, style)), value));
    }
  },
});

campaign("settings are taken as they are or refused, and the file stays", {
  what: "settings",
  share: 70,
  inputs: bytesOf(
    objectOf({
      store: objectOf({ name: json("clients"), subfolder: json("hivemind-core") }),
      passphrase_source: json("keyring"),
      recipients: jsonOf(fc.array(fc.constant(`age1${"q".repeat(58)}`), { maxLength: 3 })),
      backup: objectOf({ to: paths, bundle_to: paths, unit: json("hub"), service: json("auto") }),
      keep: objectOf({ last: json(7), daily: json(7), weekly: json(4), monthly: json(12) }),
    }),
  ),
  async holds(bytes) {
    const path = file("config.json", bytes);
    const settings = await answerOf(() => loadSettings(path));
    assert(bytes.equals(readFileSync(path)));
    if (settings === undefined) return;
    const other = join(folder, "other.json");
    await saveSettings(other, settings);
    assert.equal(JSON.stringify(await loadSettings(other)), JSON.stringify(settings));
  },
});

const storeKey = new StoreKey(Buffer.alloc(16, 7), Buffer.alloc(32, 9), 4);

const manifestFields = {
  created_at: json("2026-11-24T18:50:00.000Z"),
  file: fc.oneof(json("clients.2026-11-24T18-50-00Z.db"), jsonOf(wildText)),
  size: json(40_960),
  sha256: json("a".repeat(64)),
  key_id: json("0".repeat(16)),
  cipher_compatibility: json(4),
  schema_version: json(2),
  clients: objectOf({ active: json(3), revoked: json(1) }, 40),
  page_size: json(4096),
  hostname: jsonOf(wildText),
  unit: jsonOf(wildText),
  method: json("stopped"),
};

campaign("a manifest is read or refused, and its seal holds for nothing else", {
  what: "manifest",
  share: 80,
  inputs: fc.tuple(
    fc.boolean(),
    bytesOf(
      objectOf({
        format: json("hivemind-sqlcipher backup"),
        version: json(1),
        ...manifestFields,
        mac: json("b".repeat(64)),
      }),
    ),
  ),
  async holds([sealing, bytes]) {
    const path = file("manifest.json", bytes);
    const manifest = await answerOf(() => readManifest(path));
    if (manifest === undefined) return;
    assert(!verifyManifestMac(manifest, storeKey));
    if (!sealing) return;
    const { format: _, version: __, mac: ___, ...contents } = manifest;
    const sealed = signManifest(contents, storeKey);
    writeFileSync(path, formatManifest(sealed));
    const again = await readManifest(path);
    assert.equal(JSON.stringify(again), JSON.stringify(sealed));
    assert(verifyManifestMac(again, storeKey));
    const altered = Buffer.from(formatManifest({ ...sealed, size: sealed.size === 0 ? 1 : 0 }));
    writeFileSync(path, altered);
    assert(!verifyManifestMac(await readManifest(path), storeKey));
  },
});

campaign("a sealed manifest whose bytes were altered is refused or says the same", {
  what: "manifest, sealed and altered",
  share: 20,
  inputs: bytesOf(
    fc.constant(
      formatManifest(
        signManifest(
          {
            ...{
              created_at: "2026-11-24T18:50:00.000Z",
              file: "c.db",
              size: 4096,
              page_size: 4096,
            },
            ...{ sha256: "a".repeat(64), key_id: "0".repeat(16), cipher_compatibility: 4 },
            ...{ schema_version: 2, clients: { active: 3, revoked: 1 }, hostname: "hub" },
            ...{ unit: null, method: "stopped" },
          },
          storeKey,
        ),
      ),
    ),
  ),
  async holds(bytes) {
    const path = file("sealed.json", bytes);
    const manifest = await answerOf(() => readManifest(path));
    if (manifest === undefined || !verifyManifestMac(manifest, storeKey)) return;
    assert.deepEqual(
      [manifest.size, manifest.file, manifest.clients],
      [4096, "c.db", { active: 3, revoked: 1 }],
    );
    assert.deepEqual(
      [manifest.created_at, manifest.method],
      ["2026-11-24T18:50:00.000Z", "stopped"],
    );
  },
});

const home = join(folder, "journal");
const storePath = join(home, "clients.db");
const inHome = fc.constantFrom(
  ...["a.partial", "b.db", "sub/c", "clients.db.x"].map((name) => join(home, name)),
);

const journalData = fc.oneof(
  objectOf(
    {
      staged: objectOf({ copy: jsonOf(inHome), manifest: jsonOf(inHome) }, 40),
      bundle: objectOf({ folder: json(home), key_id: json("0".repeat(16)) }, 40),
    },
    40,
  ),
  objectOf(
    {
      staged: jsonOf(inHome),
      aside: fc.oneof(json(null), jsonOf(inHome)),
      keep_aside: json(false),
      source: objectOf({ from: json("file:/x"), to: json("file:/x") }, 40),
      bundle: objectOf({ folder: json(home), key_id: json("0".repeat(16)), made: json(true) }, 40),
    },
    40,
  ),
  wildJson,
);

campaign("a journal is settled or refused, and the store is not touched by what it says", {
  what: "operation journal",
  share: 40,
  inputs: bytesOf(
    objectOf(
      {
        format: json("hivemind-sqlcipher journal"),
        version: json(1),
        operation: jsonOf(
          fc.oneof(
            fc.constantFrom(
              "backup",
              "rotate",
              "encrypt",
              "restore",
              "decrypt",
              "init",
              "upgrade-schema",
            ),
            wildText,
          ),
        ),
        id: json("0b5e"),
        started_at: json("2026-11-24T18:50:00.000Z"),
        pid: json(4711),
        step: jsonOf(
          fc.constantFrom("beginning", "staging", "committing", "cleaning", "reverting", "undone"),
        ),
        data: journalData,
      },
      20,
    ),
  ),
  async holds(bytes) {
    rmSync(home, { recursive: true, force: true });
    mkdirSync(join(home, "sub"), { recursive: true });
    writeFileSync(storePath, "the store");
    writeFileSync(join(home, "mine"), "mine");
    const path = journalPath(storePath);
    writeFileSync(path, bytes, { mode: 0o600 });
    const said = await answerOf(() => recover({ storePath } as OperationLock));
    assert.equal(readFileSync(storePath, "utf8"), "the store");
    assert.equal(readFileSync(join(home, "mine"), "utf8"), "mine");
    assert.equal(existsSync(path), said === undefined || said.cleanupPending !== undefined);
  },
});

let key: RecoveryKey;
let locked: Buffer;
const contents = {
  format: "hivemind-sqlcipher-bundle",
  version: 1,
  key_id: "0123456789abcdef",
  passphrase: `${secretMark}passphrase`,
  cipher_compatibility: 4,
  database: "/srv/clients.db",
  created_at: "2026-11-24T18:50:00.000Z",
  how_to_open: ["with age"],
};

async function lock(text: string): Promise<Uint8Array> {
  const encrypter = new Encrypter();
  encrypter.addRecipient(key.recipient);
  return encrypter.encrypt(text);
}

beforeAll(async () => {
  key = await generateRecoveryKey();
  locked = Buffer.from(await lock(JSON.stringify(contents)));
});

campaign("an altered bundle opens to what was locked in it, or not at all", {
  what: "bundle, altered",
  share: 15,
  inputs: bytesOf(fc.boolean().map((armored) => (armored ? armor.encode(locked) : locked))),
  async holds(bytes) {
    const path = file("clients.0123456789abcdef.bundle.age", bytes);
    await answerOf(() => describeBundle(path));
    const opened = await answerOf(() => readBundle(path, { identity: key.identity }));
    if (opened !== undefined) assert.deepEqual(opened, contents);
  },
});

campaign("whatever was locked into a bundle is taken as one or refused", {
  what: "bundle, contents",
  share: 15,
  inputs: bytesOf(
    objectOf({
      format: json(contents.format),
      version: json(1),
      key_id: json(contents.key_id),
      passphrase: jsonOf(secret),
      cipher_compatibility: json(4),
      database: jsonOf(wildText),
      created_at: json(contents.created_at),
      how_to_open: json(["with age"]),
    }),
  ),
  async holds(bytes) {
    const path = file("made.age", await lock(bytes.toString("latin1")));
    const opened = await answerOf(() => readBundle(path, { identity: key.identity }));
    if (opened !== undefined) assert.equal(typeof opened.passphrase, "string");
  },
});

campaign("a bundle's header of any kind is told from a bundle", {
  what: "bundle, header",
  share: 15,
  inputs: bytesOf(
    fc
      .tuple(
        fc.constantFrom("age-encryption.org/v1", "age-encryption.org/v2", "age-encryption.org/v1 "),
        fc.array(
          fc.constantFrom(
            "-> X25519 TEiF0ypqr+bpvcqXNyCVJpL7OuwPdVwPL7KQEbFDOCc\nEmECAEcKN+n/Vs9SbWiV+Hu0r+E8R77DdWYyd83nw7U",
            "-> scrypt AAAAAAAAAAAAAAAAAAAAAA 2\nEmECAEcKN+n/Vs9SbWiV+Hu0r+E8R77DdWYyd83nw7U",
            "-> scrypt AAAAAAAAAAAAAAAAAAAAAA 63\nEmECAEcKN+n/Vs9SbWiV+Hu0r+E8R77DdWYyd83nw7U",
            "-> X25519 \n\n",
            "-> grease a b\n",
            "-> ",
          ),
          { maxLength: 4 },
        ),
        fc.constantFrom("--- fgMiVLJHMlg9fW7CVG/hPS5EAU4Zeg19LyCP7SoH5nA", "---", "--- "),
      )
      .map(([version, stanzas, mac]) => [version, ...stanzas, mac, "payload"].join("\n")),
  ),
  async holds(bytes) {
    const path = file("header.age", bytes);
    await answerOf(() => describeBundle(path));
    assert.equal(await answerOf(() => readBundle(path, { identity: key.identity })), undefined);
    assert.equal(await answerOf(() => readBundle(path, { passphrase: "x" })), undefined);
  },
});

campaign("a bundle's proof record says nothing or what it says, and never stops anybody", {
  what: "bundle, proof record",
  share: 20,
  inputs: bytesOf(
    objectOf({
      format: json("hivemind-sqlcipher-bundle-proof"),
      version: json(1),
      sha256: json("a".repeat(64)),
      recipients: jsonOf(fc.array(wildText, { maxLength: 3 })),
      mac: json("b".repeat(64)),
    }),
  ),
  async holds(bytes) {
    const path = file("proven.age", locked);
    writeFileSync(`${path}.proof.json`, bytes);
    const { proof } = await describeBundle(path);
    assert(proof === null || !proof.matches);
  },
});

campaign("a recovery key and its recipient are told from everything else", {
  what: "recovery key",
  share: 20,
  inputs: fc.tuple(
    bytesOf(
      fc
        .constant(null)
        .map(() => `# created: now\n# public key: ${key.recipient}\n${key.identity}\n`),
    ),
    bytesOf(fc.constant(null).map(() => key.recipient)),
    wildText,
  ),
  holds([identities, recipient, other]) {
    for (const text of [identities.toString(), other]) {
      try {
        for (const found of parseIdentities(text).usable)
          assert(/^AGE-SECRET-KEY-1[0-9A-Z]{58}$/.test(found));
      } catch (error) {
        assertRefusal(error);
        const said = error.message + (error.hint ?? "");
        assert(!said.includes(key.identity.slice(20, 50)));
      }
    }
    for (const text of [recipient.toString(), other]) {
      try {
        assert.equal(parseRecipient(text), key.recipient);
      } catch (error) {
        assertRefusal(error);
      }
    }
  },
});
