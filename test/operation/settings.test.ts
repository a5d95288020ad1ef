/** Several processes that change one settings file. */
import { existsSync } from "node:fs";
import { writeFile } from "node:fs/promises";
import { join } from "node:path";
import { expect, test } from "vitest";
import { loadSettings, type Settings } from "../../src/config/settings-file.js";
import { stagedName } from "../../src/fs/atomic.js";
import { lockFile } from "../../src/operation/lock.js";
import { removeSettingsPartials, updateSection } from "../../src/operation/settings.js";
import { temporaryFolder } from "../store/temporary.js";

const stores = ["/srv/a.db", "/srv/b.db", "/srv/c.db"];

test("changes for several stores at the same time are all saved", async () => {
  const path = join(await temporaryFolder(), "config.json");
  const sections = [{ path, store: undefined }, ...stores.map((store) => ({ path, store }))];
  const change = (settings: Settings) => ({ ...settings, passphrase_source: "file:/p" });
  const changes = await Promise.all(sections.map((section) => updateSection(section, change)));
  expect(changes.map(({ isChanged }) => isChanged)).toEqual([true, true, true, true]);
  const saved = { passphrase_source: "file:/p" };
  const expected = { ...saved, stores: Object.fromEntries(stores.map((key) => [key, saved])) };
  expect(await loadSettings(path)).toEqual(expected);
});

test("unfinished files of a killed process are removed, but not those of a running one", async () => {
  const path = join(await temporaryFolder(), "config.json");
  const partial = stagedName(path);
  await writeFile(partial, "");
  const running = await lockFile(path);
  const removal = removeSettingsPartials(path);
  const update = updateSection({ path, store: undefined }, () => ({ recipients: ["age1"] }));
  await new Promise((resolve) => setTimeout(resolve, 300));
  expect([existsSync(partial), existsSync(path)]).toEqual([true, false]);
  await running.close();
  await Promise.all([removal, update]);
  expect([existsSync(partial), existsSync(path)]).toEqual([false, true]);
});

test("without unfinished files, nothing is locked or created", async () => {
  const directory = join(await temporaryFolder(), "moved");
  await removeSettingsPartials(join(directory, "config.json"));
  expect(existsSync(directory)).toBe(false);
});

test("settings that do not change are neither written nor locked", async () => {
  const path = join(await temporaryFolder(), "config.json");
  await writeFile(path, '{"recipients": ["age1"]}');
  const section = { path, store: "/srv/a.db" };
  expect(await updateSection(section, (settings) => settings)).toEqual({ isChanged: false });
  expect(existsSync(`${path}.lock`)).toBe(false);
});
