/** Access control lists: what a file's mode says of its group is not true where it has one. */
import { execFileSync } from "node:child_process";
import { chmod, readdir, readFile, stat, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { expect, test } from "vitest";
import { replaceFile } from "../../src/fs/atomic.js";
import { hasAccessList } from "../../src/fs/metadata.js";
import { temporaryFolder } from "../store/temporary.js";

/** Lets user 1 read, and the owner's group nothing: the mode is 0640 then. */
const letOneUserIn = `
import os, struct, sys
entries = [(1, 6, 0xffffffff), (2, 4, 1), (4, 0, 0xffffffff), (16, 4, 0xffffffff), (32, 0, 0xffffffff)]
acl = struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in entries)
os.setxattr(sys.argv[1], "system.posix_acl_access", acl)
`;

test("a file with a list, server.json perhaps, is not replaced by one that lets its group in", async () => {
  const folder = await temporaryFolder();
  const path = join(folder, "server.json");
  await writeFile(path, "a password", { mode: 0o600 });
  execFileSync("python3", ["-c", letOneUserIn, path]);
  expect((await stat(path)).mode & 0o777).toBe(0o640);
  await expect(replaceFile(path, "another")).rejects.toMatchObject({ kind: "refused" });
  expect(await readFile(path, "utf8")).toBe("a password");
  expect(await readdir(folder)).toEqual(["server.json"]);
  // Where the mode lets in nobody but the owner, neither does the list.
  await chmod(path, 0o600);
  expect(await hasAccessList(path, await stat(path))).toBe(false);
  await replaceFile(path, "another");
  expect(await readFile(path, "utf8")).toBe("another");
});
