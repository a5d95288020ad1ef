import { execFile } from "node:child_process";
import { existsSync } from "node:fs";
import { mkdtemp, rm, symlink } from "node:fs/promises";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { promisify } from "node:util";
import { expect, onTestFinished, test } from "vitest";
import { root } from "./built.js";
import { hubScript } from "./hub/support.js";

const exec = promisify(execFile);
const privateSession = join(root, "scripts/private-session");

async function temporaryHome(): Promise<string> {
  const home = await mkdtemp(join(tmpdir(), "session-"));
  onTestFinished(() => rm(home, { recursive: true, force: true }));
  return home;
}

test("a private session does not see the caller's settings: quickstart leaves them as they are", async () => {
  const home = await temporaryHome();
  const settings = { HIVEMIND_SQLCIPHER_CONFIG: "/a", HIVEMIND_SQLCIPHER_PASSPHRASE_SOURCE: "b" };
  const { stdout } = await exec(privateSession, ["--no-bus", home, "env"], {
    env: { ...process.env, ...settings },
  });
  expect(stdout).toContain("HOME=");
  expect(stdout).not.toContain("HIVEMIND_SQLCIPHER_");
});

test("quickstart does the main job, after its installation", async () => {
  const byHand = join(root, ".cache/by-hand");
  if (!existsSync(byHand)) {
    await symlink(dirname(dirname(await hubScript("released"))), byHand);
    onTestFinished(() => rm(byHand));
  }
  const demo = await temporaryHome();
  const args = [join(demo, "home"), join(root, "scripts/quickstart"), "--inside", demo];
  const { stdout } = await exec(privateSession, args);
  expect(stdout).toContain("opened it: 251 clients");
  expect(stdout).toContain(`Done. Everything is in ${demo}`);
});
