import {
  generateHybridIdentity,
  generateX25519Identity,
  identityToRecipient,
} from "age-encryption";
import { expect, test } from "vitest";
import { StoreError } from "../../src/errors.js";
import { recogniseContent, withFileKind } from "../../src/fs/file-kind.js";

const identity = await generateX25519Identity();
/** Node.js has no encoder for UTF-16 in big-endian order. */
function utf16(text: string, encoding: string): Buffer {
  const bytes = Buffer.from(text, "utf16le");
  return encoding === "utf-16be" ? bytes.swap16() : bytes;
}

const recipient = await identityToRecipient(identity);

test.each([
  ["identity", `# created\n${identity}\n`],
  ["identity", await generateHybridIdentity()],
  ["identity", `\ufeff${identity}\r\n`],
  ["recipients", `# alice\n${recipient}\n${recipient}\n`],
  ["ssh key", "-----BEGIN OPENSSH PRIVATE KEY-----\nabc\n-----END OPENSSH PRIVATE KEY-----\n"],
  ["ssh key", "ssh-ed25519 AAAAC3Nz me@here\n"],
  ["bundle", "age-encryption.org/v1\n-> X25519 abc\ndef\n--- mac\n\x80\x81"],
  ["encrypted with a passphrase", "age-encryption.org/v1\n-> scrypt abc 18\ndef\n--- mac\n"],
  ["database", "SQLite format 3\0rest"],
  ["archive", "\x1f\x8b\x08"],
  ["manifest", '{"format": "hivemind-sqlcipher backup", "version": 9}'],
  ["verification record", '{"format": "hivemind-sqlcipher-bundle-proof"}'],
  ["decrypted bundle", '{"format": "hivemind-sqlcipher-bundle", "passphrase": "x"}'],
  ["settings", '{"recipients": [], "backup": {"to": "/srv"}}'],
  ["server.json", '{"database": {"module": "hivemind-sqlite-db-plugin"}}'],
  ["server.json", '// mine\n{"database": {}, "network_protocol": {},\n// more\n}'],
  ["clients", '{"1": {"client_id": 1, "api_key": "k"}}'],
  ["clients", '[{"client_id": 1, "api_key": "k"}]'],
  ["clients", "client_id,name,is_admin,access_key,password,crypto_key\r\n1,x,,,,\r\n"],
  ["clients", '"client_id";"name";"access_key"\r'],
  ["recovery sheet", "<!doctype html>\n<html>"],
  ["raw key", `x'${"ab".repeat(32)}'\n`],
  ["empty", ""],
  ["passphrase", "correct 'horse' battery\n"],
  ["passphrase", "one\ntwo\n"],
] as const)("%s", (kind, contents) => {
  const isBinary = !contents.startsWith("\ufeff");
  expect(recogniseContent(Buffer.from(contents, isBinary ? "latin1" : "utf8"))).toBe(kind);
});

test.each(["utf-16le", "utf-16be"])("%s with a byte order mark is read as text", (encoding) => {
  const bytes = (text: string) => utf16(`\ufeff${text}`, encoding);
  expect(recogniseContent(bytes(`# created\r\n${identity}\r\n`))).toBe("identity");
  expect(recogniseContent(bytes("correct horse\r\n"))).toBe("passphrase");
  expect(recogniseContent(bytes("client_id,name,access_key\r\n"))).toBe("clients");
  expect(recogniseContent(bytes('{"database": {}}'))).toBe("server.json");
});

test("bytes in whole pages may be an encrypted database; others and long texts are unknown", () => {
  const page = Buffer.alloc(4096, 0xf5);
  expect(recogniseContent(page)).toBe("encrypted database");
  expect(recogniseContent(page, 4096 * 1000)).toBe("encrypted database");
  expect(recogniseContent(page.subarray(1))).toBeUndefined();
  expect(recogniseContent(Buffer.from("a line\n".repeat(100)))).toBeUndefined();
});

test("an error says what the file is and where it belongs, but not that it is what was expected", () => {
  const error = new StoreError("usage", "/x: not a recovery key", { hint: "before" });
  expect(withFileKind(error, "manifest", ["identity"])).toMatchObject({
    kind: "usage",
    message: "/x: not a recovery key; it is the manifest of a backup",
    hint: "Name the backup itself, the .db file next to its manifest.",
  });
  expect(withFileKind(error, "identity", ["identity"])).toBe(error);
  expect(withFileKind(error, undefined, [])).toBe(error);
});

test.each(["toString", "constructor", "__proto__"])(
  "a JSON file of the format %s has no kind",
  (format) => {
    expect(recogniseContent(Buffer.from(JSON.stringify({ format })))).toBeUndefined();
  },
);
