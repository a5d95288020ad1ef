import { mkdir, realpath, symlink, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { beforeEach, expect, test } from "vitest";
import { expandPath, realPath, resolveStorePath } from "../../src/config/paths.js";
import { temporaryFolder } from "../store/temporary.js";

let folder: string;

beforeEach(async () => {
  folder = await realpath(await temporaryFolder());
});

test("the store is where HiveMind's SQLite plugin keeps it, unless told otherwise", async () => {
  const environment = { HOME: folder };
  const shared = join(folder, ".local/share");
  expect(await resolveStorePath({}, environment)).toBe(join(shared, "hivemind-core/clients.db"));
  expect(await resolveStorePath({ name: "hub2", subfolder: "a/b" }, environment)).toBe(
    join(shared, "a/b/hub2.db"),
  );
  const moved = { HOME: folder, XDG_DATA_HOME: join(folder, "data") };
  expect(await resolveStorePath({}, moved)).toBe(join(folder, "data/hivemind-core/clients.db"));
});

test("a relative XDG_DATA_HOME is ignored, as the hub ignores it", async () => {
  const environment = { HOME: folder, XDG_DATA_HOME: "data" };
  expect(await resolveStorePath({}, environment)).toBe(
    join(folder, ".local/share/hivemind-core/clients.db"),
  );
});

test("a link at the store's place leads to its target, through every folder that is a link too", async () => {
  await mkdir(join(folder, "disk"));
  await writeFile(join(folder, "disk/real.db"), "");
  await symlink(join(folder, "disk"), join(folder, "mounted"));
  await symlink("mounted/real.db", join(folder, "clients.db"));
  expect(await resolveStorePath({ path: join(folder, "clients.db") })).toBe(
    join(folder, "disk/real.db"),
  );
});

test("a store that does not exist yet already has its real path", async () => {
  await mkdir(join(folder, "disk"));
  await symlink("disk", join(folder, "link"));
  await symlink("link/not-yet/new.db", join(folder, "clients.db"));
  expect(await resolveStorePath({ path: join(folder, "clients.db") })).toBe(
    join(folder, "disk/not-yet/new.db"),
  );
});

test("links that go round in a circle are refused", async () => {
  await symlink("b.db", join(folder, "a.db"));
  await symlink("a.db", join(folder, "b.db"));
  await symlink("loop", join(folder, "loop"));
  for (const path of ["a.db", "loop/clients.db"]) {
    await expect(resolveStorePath({ path: join(folder, path) })).rejects.toMatchObject({
      kind: "refused",
    });
  }
});

test("a path through a file is an error that names it", async () => {
  await writeFile(join(folder, "file"), "");
  await expect(realPath(join(folder, "file/clients.db"))).rejects.toMatchObject({ kind: "io" });
});

test.each([
  { name: "" },
  { name: ".." },
  { name: "a/b" },
  { name: "a\0b" },
  { subfolder: "../elsewhere" },
  { subfolder: "/etc" },
  { path: "" },
  { path: "a\0b" },
])("what is no name of a store is wrong usage: %j", async (place) => {
  await expect(resolveStorePath(place, { HOME: folder })).rejects.toMatchObject({ kind: "usage" });
});

test("a leading ~/ is the home folder; any other path is relative to where the command runs", () => {
  expect(expandPath("~/x", { HOME: "/home/hub" })).toBe("/home/hub/x");
  expect(expandPath("~", { HOME: "/home/hub" })).toBe("/home/hub");
  expect(expandPath("~other", { HOME: "/home/hub" })).toBe(join(process.cwd(), "~other"));
});
