import { spawnSync } from "node:child_process";
import { chown, mkdir, readdir, readFile, writeFile } from "node:fs/promises";
import { basename, join } from "node:path";
import { afterEach, expect, test, vi } from "vitest";
import { createTargetReporter, withLocalFile } from "../../src/copies/view.js";
import type { Reporter } from "../../src/reporter.js";
import { isRoot, nobody } from "../files/others.js";
import { temporaryFolder } from "../store/temporary.js";

afterEach(() => {
  vi.unstubAllEnvs();
});

/** Makes the private directory of a process in $TMPDIR. Returns its path. */
async function makeViewOf(folder: string, pid: number): Promise<string> {
  vi.stubEnv("TMPDIR", folder);
  const path = join(folder, `hivemind-sqlcipher-view-${pid}-aBc123`);
  await mkdir(path);
  await writeFile(join(path, "clients.db"), "a download");
  return path;
}

/** Reads a backup in parts, which are joined in a private directory. */
async function readParts(folder: string): Promise<string> {
  const path = join(folder, "clients.2026-11-24T18-50-00Z.db");
  await writeFile(`${path}.001`, "first");
  await writeFile(`${path}.002`, "second");
  return await withLocalFile(path, (local) => readFile(local, "utf8"));
}

const viewsIn = async (folder: string) =>
  (await readdir(folder)).filter((name) => name.startsWith("hivemind-sqlcipher-"));

test("the private directory of a killed command is removed, that of a running one is not", async () => {
  const folder = await temporaryFolder();
  await makeViewOf(folder, spawnSync("true").pid);
  const running = await makeViewOf(folder, process.pid);
  expect(await readParts(folder)).toBe("firstsecond");
  expect(await viewsIn(folder)).toEqual([basename(running)]);
});

test.runIf(isRoot)("the private directory of another user stays", async () => {
  const folder = await temporaryFolder();
  const left = await makeViewOf(folder, spawnSync("true").pid);
  await chown(left, nobody, nobody);
  await readParts(folder);
  expect(await viewsIn(folder)).toEqual([basename(left)]);
});

test("a reporter of a view asks every kind of question with the names of the remote", async () => {
  const texts: string[] = [];
  const add = (text: string) => void texts.push(text);
  const ask = async (question: string) => add(question);
  const reporter: Reporter = { notice: add, detail: add, confirm: ask };
  const translatePaths = <Value>(value: Value) =>
    String(value).replace("/tmp/x", "rclone:nas:") as Value;
  const asking = createTargetReporter({ ...reporter, confirmOnTerminal: ask }, { translatePaths });
  asking.notice("1 /tmp/x");
  asking.detail("2 /tmp/x");
  await asking.confirm("3 /tmp/x");
  await asking.confirmOnTerminal?.("4 /tmp/x");
  expect(texts).toEqual(["1 rclone:nas:", "2 rclone:nas:", "3 rclone:nas:", "4 rclone:nas:"]);
  expect(createTargetReporter(reporter, { translatePaths }).confirmOnTerminal).toBeUndefined();
});
