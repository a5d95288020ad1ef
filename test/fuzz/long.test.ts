/** Texts of many megabytes, which recursion and backtracking of any kind run out of stack on. */

import { createCipheriv } from "node:crypto";
import { mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { deflateSync } from "node:zlib";
import { expect, it } from "vitest";
import { clientSchema, newClient } from "../../src/client/client.js";
import { parseJson } from "../../src/client/json.js";
import { jsonPlugin } from "../../src/databases/json.js";
import { readServerJson } from "../../src/hub/server-json.js";
import { removePassword } from "../../src/hub/server-json-edit.js";
import { checkPassphrase } from "../../src/keys/passphrase.js";
import { parseStatements } from "../../src/sql/statements.js";
import { temporaryFolder } from "../store/temporary.js";

const many = 12_000_000;

it("a name of many megabytes is told from one with half a surrogate pair in it", () => {
  const named = (name: string) =>
    clientSchema.safeParse(newClient({ client_id: 1, api_key: "k", name }));
  expect(named("é".repeat(many)).success).toBe(true);
  expect(named(`${"é".repeat(many)}\ud800`).error?.issues[0]?.message).toBe(
    "contains half of a surrogate pair",
  );
});

it("SQL with a string, a name or a comment of many megabytes is taken apart", () => {
  const long = "𝒳".repeat(many);
  for (const text of [
    `SELECT '${long}'`,
    `SELECT "${long}"`,
    `SELECT 1 /*${long}*/`,
    `SELECT 1 --${long}`,
  ]) {
    expect(parseStatements(`${text}\n; SELECT 2`)).toHaveLength(2);
  }
  expect(() => parseStatements(`SELECT '${long}`)).toThrow("unterminated");
});

it("JSON of many megabytes, or of many levels, is read or refused", () => {
  expect(parseJson(`"${"a\\n".repeat(many / 8)}"`)).toHaveLength(many / 4);
  expect(() => parseJson("[".repeat(many))).toThrow(SyntaxError);
  expect(checkPassphrase("AB ".repeat(many / 8)).kind).toBe("other");
});

it("server.json with a line of a hundred thousand spaces is edited", async () => {
  const path = join(await temporaryFolder(), "server.json");
  const spaces = " ".repeat(150_000);
  const block = `{"name": "x",${spaces}\n${spaces}"password": "p"${spaces}\n}`;
  writeFileSync(path, `{"x": 1,${spaces}"database": {"hivemind-sqlite-db-plugin": ${block}}}`);
  expect(await removePassword(path)).toBe(true);
  expect((await readServerJson(path)).text).not.toContain("password");
});

it("an encrypted JSON store whose few kilobytes would fill the memory is refused", async () => {
  const folder = await temporaryFolder();
  const before = process.env.XDG_DATA_HOME;
  process.env.XDG_DATA_HOME = folder;
  try {
    const password = "0123456789abcdef";
    const cipher = createCipheriv("aes-128-gcm", password, Buffer.alloc(16), { authTagLength: 16 });
    const bomb = deflateSync(Buffer.alloc(300_000_000, " "));
    const ciphertext = Buffer.concat([cipher.update(bomb), cipher.final()]).toString("hex");
    const tag = cipher.getAuthTag().toString("hex");
    mkdirSync(join(folder, "hivemind-core"));
    writeFileSync(
      join(folder, "hivemind-core", "clients.ejson"),
      JSON.stringify({ ciphertext, tag, nonce: "00".repeat(16) }),
    );
    await expect(jsonPlugin.open({ password }, { mode: "readonly" })).rejects.toMatchObject({
      kind: "corrupted",
    });
  } finally {
    process.env.XDG_DATA_HOME = before;
  }
});
