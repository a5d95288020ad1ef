import { execFileSync } from "node:child_process";
import { expect, onTestFinished, test } from "vitest";
import { DatabaseFactory } from "../../src/databases/registry.js";
import { StoreError } from "../../src/errors.js";
import { deleteEntry, getEntry } from "../../src/keys/keyring.js";

test("what the hint says to type when the keyring has no password puts one where it is found", async () => {
  const settings = { host: "nowhere.example", password_source: "keyring" };
  const error = await DatabaseFactory.create("hivemind-redis-db-plugin", settings).catch(
    (caught: unknown) => caught,
  );
  if (!(error instanceof StoreError)) throw new Error(`no StoreError: ${error}`);
  expect(error.kind).toBe("passphraseUnavailable");
  const [, account = ""] = /account '([^']+)'/.exec(error.hint ?? "") ?? [];
  onTestFinished(() => deleteEntry(account, "current").then(() => undefined));
  const command = /^Store it: (.*)$/.exec(error.hint ?? "")?.[1] ?? "";
  execFileSync("/bin/sh", ["-c", command], { input: "a password" });
  expect(await getEntry(account, "current")).toBe("a password");
});
