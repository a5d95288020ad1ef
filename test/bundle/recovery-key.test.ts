import { execFile } from "node:child_process";
import { writeFile } from "node:fs/promises";
import { join } from "node:path";
import { promisify } from "node:util";
import { bech32 } from "@scure/base";
import { generateHybridIdentity, identityToRecipient } from "age-encryption";
import { expect, test } from "vitest";
import {
  generateRecoveryKey,
  parseIdentities,
  parseRecipient,
  readIdentityFile,
} from "../../src/bundle/recovery-key.js";
import { StoreError } from "../../src/errors.js";
import { temporaryFolder } from "../store/temporary.js";

const run = promisify(execFile);

function errorOf(body: () => unknown): StoreError {
  try {
    body();
  } catch (error) {
    if (error instanceof StoreError) return error;
  }
  throw new Error("not refused");
}

test("a recovery key is one that age itself knows, with the recipient that age derives from it", async () => {
  const { identity, recipient } = await generateRecoveryKey();
  const file = join(await temporaryFolder(), "key.txt");
  await writeFile(file, `${identity}\n`);
  const { stdout } = await run("age-keygen", ["-y", file]);
  expect(stdout.trim()).toBe(recipient);
  expect(parseRecipient(recipient)).toBe(recipient);
});

test("a file that age-keygen wrote is read, and its recipient is taken", async () => {
  const file = join(await temporaryFolder(), "key.txt");
  const { stderr } = await run("age-keygen", ["-o", file]);
  const recipient = /age1\S+/.exec(stderr)?.[0] ?? "";
  expect(parseRecipient(` ${recipient}\n`)).toBe(recipient);
  const [identity] = parseIdentities(await readIdentityFile(file)).usable;
  expect(await identityToRecipient(identity ?? "")).toBe(recipient);
});

test("a recovery key may be typed in small letters", async () => {
  const { identity } = await generateRecoveryKey();
  expect(parseIdentities(` ${identity.toLowerCase()} \r\n# comment\n\n`).usable).toEqual([
    identity,
  ]);
});

test("a secret given where a recipient belongs is refused without being repeated", async () => {
  const { identity } = await generateRecoveryKey();
  for (const given of [identity, identity.toLowerCase(), `${identity}x`]) {
    const error = errorOf(() => parseRecipient(given));
    expect(error.kind).toBe("usage");
    expect(error.message).toBe("a recovery key was given instead of its recipient");
    expect((error.message + error.hint).toUpperCase()).not.toContain(identity.slice(16, 40));
  }
});

test("every mistyped letter of a recipient or a recovery key is found", async () => {
  const { identity, recipient } = await generateRecoveryKey();
  for (let at = 4; at < recipient.length; at++) {
    // A 1 is easily typed for an l, and does not make the recipient a plugin's.
    for (const wrong of [recipient[at] === "q" ? "p" : "q", "1"]) {
      const mistyped = recipient.slice(0, at) + wrong + recipient.slice(at + 1);
      const error = errorOf(() => parseRecipient(mistyped));
      expect(error.message).toContain("not an age recipient, or a typing mistake in it");
    }
  }
  for (let at = 16; at < identity.length; at++) {
    const wrong = identity[at] === "Q" ? "P" : "Q";
    const error = errorOf(() =>
      parseIdentities(identity.slice(0, at) + wrong + identity.slice(at + 1)),
    );
    expect(error.message).toBe("the recovery key has a typing mistake");
    expect(error.message + error.hint).not.toContain(identity.slice(20, 30));
  }
});

test("recipients of other kinds are refused in words of their own", async () => {
  const hybrid = await identityToRecipient(await generateHybridIdentity());
  const plugin = bech32.encodeFromBytes("age1yubikey", new Uint8Array(33));
  for (const [text, words] of [
    ["", "not an age recipient"],
    ["age1", "not an age recipient"],
    ["somebody@example.org", "or a typing mistake in it: somebody@example.org"],
    [bech32.encodeFromBytes("age", new Uint8Array(31)), "not an age recipient"],
    ["ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAI", "an SSH key"],
    [hybrid, "post-quantum or plugin"],
    [plugin, "post-quantum or plugin"],
  ] as const) {
    const error = errorOf(() => parseRecipient(text));
    expect(error.kind).toBe("usage");
    expect(error.message).toContain(words);
    expect(error.message.length).toBeLessThan(200);
  }
});

test("an identity file that holds none is refused by name, and what it holds is not repeated", async () => {
  const file = join(await temporaryFolder(), "key.txt");
  for (const [contents, words] of [
    ["# only a comment\n", "no recovery key in the file"],
    ["age1qqqqqqq\n", "a recipient was given instead of the recovery key"],
    ["-----BEGIN OPENSSH PRIVATE KEY-----\nabc\n", "an SSH key is not a recovery key"],
    ["-----BEGIN AGE ENCRYPTED FILE-----\nabc\n", "it is a passphrase bundle"],
    ["hunter2\n", "not a recovery key"],
  ] as const) {
    await writeFile(file, contents);
    const error = await readIdentityFile(file).catch((reason: unknown) => reason);
    expect(error).toMatchObject({ kind: "usage", message: expect.stringContaining(words) });
    expect(String(error)).toContain(file);
    expect(String(error)).not.toContain("hunter2");
  }
  await expect(readIdentityFile(`${file}.none`)).rejects.toMatchObject({ kind: "notFound" });
});
