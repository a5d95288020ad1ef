import { execFile } from "node:child_process";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { promisify } from "node:util";
import { expect, onTestFinished, test } from "vitest";

test("a private session does not see the caller's settings: quickstart leaves them as they are", async () => {
  const home = await mkdtemp(join(tmpdir(), "session-"));
  onTestFinished(() => rm(home, { recursive: true, force: true }));
  const settings = { HIVEMIND_SQLCIPHER_CONFIG: "/a", HIVEMIND_SQLCIPHER_PASSPHRASE_SOURCE: "b" };
  const session = new URL("../scripts/private-session", import.meta.url).pathname;
  const { stdout } = await promisify(execFile)(session, ["--no-bus", home, "env"], {
    env: { ...process.env, ...settings },
  });
  expect(stdout).toContain("HOME=");
  expect(stdout).not.toContain("HIVEMIND_SQLCIPHER_");
});
