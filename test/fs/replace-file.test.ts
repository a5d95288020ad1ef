/** A replaced file is open to the same users as before, whatever its directory gives new files. */
import { execFileSync } from "node:child_process";
import { chmod, chown, mkdir, readdir, readFile, stat, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { expect, test } from "vitest";
import { assertReplaceable, replaceFile } from "../../src/fs/atomic.js";
import { root } from "../built.js";
import { asNobody, nobody } from "../files/others.js";
import { temporaryFolder } from "../store/temporary.js";

const group = 1234;

async function sharedDirectory(mode: number): Promise<{ directory: string; path: string }> {
  const directory = join(await temporaryFolder(), "shared");
  await mkdir(directory);
  const path = join(directory, "server.json");
  await writeFile(path, "before");
  await chmod(path, 0o640);
  await chown(directory, 0, group);
  await chmod(directory, mode);
  return { directory, path };
}

test("in a directory that gives its group to new files, the file keeps its group", async () => {
  const { directory, path } = await sharedDirectory(0o2770);
  await replaceFile(path, "after");
  expect(await readFile(path, "utf8")).toBe("after");
  const { uid, gid, mode } = await stat(path);
  expect([uid, gid, mode & 0o7777]).toEqual([0, 0, 0o640]);
  expect(await readdir(directory)).toEqual(["server.json"]);
});

test("where new files get an access control list, the replacement is refused in advance", async () => {
  const { directory, path } = await sharedDirectory(0o700);
  const script = `
import os, struct, sys
entries = [(1, 6, 0xffffffff), (2, 4, ${group}), (4, 0, 0xffffffff), (16, 4, 0xffffffff), (32, 0, 0xffffffff)]
acl = struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in entries)
os.setxattr(sys.argv[1], "system.posix_acl_default", acl)`;
  execFileSync("python3", ["-c", script, directory]);
  const refused = { kind: "refused", hint: expect.stringContaining("setfacl -k") };
  await expect(assertReplaceable(path)).rejects.toMatchObject(refused);
  await expect(replaceFile(path, "after")).rejects.toMatchObject(refused);
  expect(await readFile(path, "utf8")).toBe("before");
  expect(await readdir(directory)).toEqual(["server.json"]);
});

test.each([0o400, 0o444])(
  "its owner, an ordinary user, can replace a read-only file",
  async (mode) => {
    const directory = join(await temporaryFolder(), "own");
    await mkdir(directory);
    const path = join(directory, "server.json");
    await writeFile(path, "before");
    await chmod(path, mode);
    for (const each of [directory, path]) await chown(each, nobody, nobody);
    const script = `const { assertReplaceable, replaceFile } = await import("${root}dist/fs/atomic.js");
await assertReplaceable("server.json");
await replaceFile("server.json", "after");`;
    const [program = "", ...words] = asNobody;
    // The directories above are closed to this user.
    execFileSync(program, [...words, process.execPath, "--input-type=module", "-e", script], {
      cwd: directory,
    });
    expect([await readFile(path, "utf8"), (await stat(path)).mode & 0o7777]).toEqual([
      "after",
      mode,
    ]);
  },
);
