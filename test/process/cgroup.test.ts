import { closeSync, linkSync, mkdirSync, openSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { expect, onTestFinished, test } from "vitest";
import { findOpenStore } from "../../src/process/cgroup.js";
import { temporaryFolder } from "../service/units.js";

test("an open store is told from another by its inode, not by its path", () => {
  const folder = temporaryFolder();
  onTestFinished(() => rmSync(folder, { recursive: true }));
  const store = join(folder, "clients.db");
  const [linked, other] = ["linked", "other"].map((name) => {
    mkdirSync(join(folder, name));
    return join(folder, name, "clients.db");
  }) as [string, string];
  writeFileSync(store, "");
  writeFileSync(other, "");
  linkSync(store, linked);
  const find = () => findOpenStore([process.pid], store);
  const open = (path: string) => {
    const file = openSync(path, "r");
    onTestFinished(() => closeSync(file));
  };
  expect(find()).toBeUndefined();
  open(other);
  expect(find()).toEqual({ path: other, isOther: true });
  open(linked);
  expect(find()).toEqual({ path: linked, isOther: false });
  rmSync(store);
  expect(find()?.isOther).toBe(true);
});
