import { chmod, mkdir, readFile, stat, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { beforeEach, expect, test } from "vitest";
import {
  loadSettings,
  resolveSettings,
  type Settings,
  saveSettings,
} from "../../src/config/settings.js";
import { temporaryFolder } from "../store/temporary.js";

let folder: string;
let path: string;

beforeEach(async () => {
  folder = await temporaryFolder();
  path = join(folder, "config/hivemind-sqlcipher/config.json");
});

const everything: Settings = {
  store: { name: "clients", subfolder: "hivemind-core" },
  passphrase_source: "keyring",
  recipients: ["age1xyz"],
  backup: {
    to: "/srv/backup",
    bundle_to: "~/bundles",
    unit: "hivemind-core",
    service: "command",
    stop_command: "stop it",
    start_command: "start it",
  },
  keep: { last: 1, daily: 7, weekly: 4, monthly: 0 },
};

async function write(contents: unknown): Promise<void> {
  await mkdir(join(path, ".."), { recursive: true });
  await writeFile(path, typeof contents === "string" ? contents : JSON.stringify(contents));
}

test("what is saved is loaded again, every key of it, from a file of its owner's alone", async () => {
  await saveSettings(path, everything);
  expect(await loadSettings(path)).toEqual(everything);
  expect((await stat(path)).mode & 0o777).toBe(0o600);
  expect(await readFile(path, "utf8")).toMatch(/^\{\n {2}"store"/);
});

test("saving keeps the mode that the file was given", async () => {
  await saveSettings(path, everything);
  await chmod(path, 0o640);
  await saveSettings(path, {});
  expect((await stat(path)).mode & 0o777).toBe(0o640);
});

test("a file that is not there means no settings", async () => {
  expect(await loadSettings(path)).toBeUndefined();
  const environment = { HOME: folder, XDG_CONFIG_HOME: join(folder, "config") };
  expect(await resolveSettings({}, undefined, environment)).toMatchObject({ path, missing: false });
});

test("a file that was named and is not there is reported as missing", async () => {
  expect(await resolveSettings({}, path, {})).toMatchObject({ path, missing: true });
  const environment = { HIVEMIND_SQLCIPHER_CONFIG: path };
  expect(await resolveSettings({}, undefined, environment)).toMatchObject({ path, missing: true });
});

test.each([
  [{ recipient: [] }, "unknown key recipient", "recipients"],
  [{ backup: { bundel_to: "/x" } }, "unknown key backup.bundel_to", "bundle_to"],
  [{ keep: { yearly: 1 } }, "unknown key keep.yearly", "monthly"],
  [{ store: { passphrase: "secret" } }, "unknown key store.passphrase", "subfolder"],
])("an unknown key is refused by name: %j", async (contents, message, known) => {
  await write(contents);
  await expect(loadSettings(path)).rejects.toMatchObject({
    kind: "usage",
    message: `${path}: ${message}`,
    hint: expect.stringContaining(known),
  });
});

test.each([
  [{ backup: { to: "relative" } }, "backup.to: must be an absolute path, or begin with ~/"],
  [{ backup: { service: "sysv" } }, "backup.service: "],
  [{ keep: { last: -1 } }, "keep.last: "],
  [{ keep: { last: "3" } }, "keep.last: "],
  [{ recipients: "age1xyz" }, "recipients: "],
  [{ store: { path: "/x", name: "y" } }, "store: has either a path, or a name and a subfolder"],
  [[], "the settings: "],
])("a value that cannot be is refused with its key: %j", async (contents, message) => {
  await write(contents);
  await expect(loadSettings(path)).rejects.toMatchObject({
    kind: "usage",
    message: expect.stringContaining(`${path}: ${message}`),
  });
});

test.each([
  ['{\n  "store": {,}\n}\n', "line 2, column 13"],
  ['{\n  "keep": {"last": 1}\n', "line 3, column 1"],
  ["", "line 1, column 1"],
  ['{"a": 1}}', "line 1, column 9"],
])("broken JSON is refused with its line and column: %j", async (text, where) => {
  await write(text);
  await expect(loadSettings(path)).rejects.toMatchObject({
    kind: "usage",
    message: expect.stringContaining(`${path} is not JSON: ${where}`),
  });
});

test("an option comes before the environment, and the environment before the file", async () => {
  await write({
    ...everything,
    backup: { to: "/file/to", bundle_to: "/file/bundles", unit: "file-unit" },
  });
  const { settings } = await resolveSettings({ backup: { to: "/option/to" } }, path, {
    HIVEMIND_SQLCIPHER_BACKUP_TO: "/environment/to",
    HIVEMIND_SQLCIPHER_BUNDLE_TO: "/environment/bundles",
    HIVEMIND_SQLCIPHER_PASSPHRASE_SOURCE: "credential",
    HIVEMIND_SQLCIPHER_SERVICE: "",
  });
  expect(settings).toEqual({
    ...everything,
    passphrase_source: "credential",
    backup: { to: "/option/to", bundle_to: "/environment/bundles", unit: "file-unit" },
  });
});

test("every setting that is a place or a source can come from the environment", async () => {
  const { settings } = await resolveSettings({}, undefined, {
    HOME: folder,
    HIVEMIND_SQLCIPHER_NAME: "n",
    HIVEMIND_SQLCIPHER_SUBFOLDER: "s",
    HIVEMIND_SQLCIPHER_PASSPHRASE_SOURCE: "file:/p",
    HIVEMIND_SQLCIPHER_BACKUP_TO: "/to",
    HIVEMIND_SQLCIPHER_BUNDLE_TO: "/bundles",
    HIVEMIND_SQLCIPHER_UNIT: "u",
    HIVEMIND_SQLCIPHER_SERVICE: "none",
  });
  expect(settings).toEqual({
    store: { name: "n", subfolder: "s" },
    passphrase_source: "file:/p",
    backup: { to: "/to", bundle_to: "/bundles", unit: "u", service: "none" },
    keep: {},
  });
});

test("a store named by path on one level takes the place of one named by name below it, and the other way round", async () => {
  await write({ store: { path: "/file.db" } });
  const named = await resolveSettings({ store: { name: "other" } }, path, {});
  expect(named.settings.store).toEqual({ name: "other" });
  await write({ store: { name: "n", subfolder: "s" } });
  const byPath = await resolveSettings({}, path, { HIVEMIND_SQLCIPHER_DB: "/environment.db" });
  expect(byPath.settings.store).toEqual({ path: "/environment.db" });
  const partly = await resolveSettings({ store: { subfolder: "t" } }, path, {});
  expect(partly.settings.store).toEqual({ name: "n", subfolder: "t" });
});

test("paths come back absolute, with ~/ as the home folder", async () => {
  await write(everything);
  const { settings } = await resolveSettings({ backup: { to: "here" } }, path, {
    HOME: "/home/hub",
  });
  expect(settings.backup?.to).toBe(join(process.cwd(), "here"));
  expect(settings.backup?.bundle_to).toBe("/home/hub/bundles");
});

test("a service kind that there is not is refused with the ones that there are", async () => {
  await expect(
    resolveSettings({}, path, { HIVEMIND_SQLCIPHER_SERVICE: "sysv" }),
  ).rejects.toMatchObject({ kind: "usage", hint: expect.stringContaining("systemd-user") });
});
