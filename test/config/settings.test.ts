import { chmod, mkdir, readFile, rename, stat, symlink, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { beforeEach, describe, expect, test } from "vitest";
import {
  mergeServiceSettings,
  resolveSettings,
  type ServiceSettings,
} from "../../src/config/settings.js";
import {
  findSection,
  loadSection,
  loadSettings,
  type Settings,
  saveSettings,
} from "../../src/config/settings-file.js";
import { updateSection } from "../../src/operation/settings.js";
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
  expect(await resolveSettings({}, { environment })).toMatchObject({ path, missing: false });
});

test("a file that was named and is not there is reported as missing", async () => {
  expect(await resolveSettings({}, { config: path, environment: {} })).toMatchObject({
    path,
    missing: true,
  });
  const environment = { HIVEMIND_SQLCIPHER_CONFIG: path };
  expect(await resolveSettings({}, { environment })).toMatchObject({ path, missing: true });
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
  const { settings } = await resolveSettings(
    { backup: { to: "/option/to" } },
    {
      config: path,
      environment: {
        HIVEMIND_SQLCIPHER_BACKUP_TO: "/environment/to",
        HIVEMIND_SQLCIPHER_BUNDLE_TO: "/environment/bundles",
        HIVEMIND_SQLCIPHER_PASSPHRASE_SOURCE: "credential",
        HIVEMIND_SQLCIPHER_SERVICE: "",
      },
    },
  );
  expect(settings).toEqual({
    ...everything,
    passphrase_source: "credential",
    backup: { to: "/option/to", bundle_to: "/environment/bundles", unit: "file-unit" },
  });
});

test("every setting that is a place or a source can come from the environment", async () => {
  const { settings } = await resolveSettings(
    {},
    {
      environment: {
        HOME: folder,
        HIVEMIND_SQLCIPHER_NAME: "n",
        HIVEMIND_SQLCIPHER_SUBFOLDER: "s",
        HIVEMIND_SQLCIPHER_PASSPHRASE_SOURCE: "file:/p",
        HIVEMIND_SQLCIPHER_BACKUP_TO: "/to",
        HIVEMIND_SQLCIPHER_BUNDLE_TO: "/bundles",
        HIVEMIND_SQLCIPHER_UNIT: "u",
        HIVEMIND_SQLCIPHER_SERVICE: "none",
      },
    },
  );
  expect(settings).toEqual({
    store: { name: "n", subfolder: "s" },
    passphrase_source: "file:/p",
    backup: { to: "/to", bundle_to: "/bundles", unit: "u", service: "none" },
    keep: {},
  });
});

test("a store named by path on one level takes the place of one named by name below it, and the other way round", async () => {
  await write({ store: { path: "/file.db" } });
  const named = await resolveSettings(
    { store: { name: "other" } },
    { config: path, environment: {} },
  );
  expect(named.settings.store).toEqual({ name: "other" });
  await write({ store: { name: "n", subfolder: "s" } });
  const byPath = await resolveSettings(
    {},
    { config: path, environment: { HIVEMIND_SQLCIPHER_DB: "/environment.db" } },
  );
  expect(byPath.settings.store).toEqual({ path: "/environment.db" });
  const partly = await resolveSettings(
    { store: { subfolder: "t" } },
    { config: path, environment: {} },
  );
  expect(partly.settings.store).toEqual({ name: "n", subfolder: "t" });
});

test("paths come back absolute, with ~/ as the home folder", async () => {
  await write(everything);
  const { settings } = await resolveSettings(
    { backup: { to: "here" } },
    {
      config: path,
      environment: {
        HOME: "/home/hub",
      },
    },
  );
  expect(settings.backup?.to).toBe(join(process.cwd(), "here"));
  expect(settings.backup?.bundle_to).toBe("/home/hub/bundles");
});

test("a service kind that there is not is refused with the ones that there are", async () => {
  await expect(
    resolveSettings({}, { config: path, environment: { HIVEMIND_SQLCIPHER_SERVICE: "sysv" } }),
  ).rejects.toMatchObject({ kind: "usage", hint: expect.stringContaining("systemd-user") });
});

describe("several stores in one file", () => {
  const other = "/srv/other/clients.db";
  const ofOther = { passphrase_source: "file:/p", backup: { to: "/srv/backup-of-other" } };

  async function of(db: string | undefined, environment = {}) {
    return resolveSettings(db === undefined ? {} : { store: { path: db } }, {
      config: path,
      environment: { HOME: folder, ...environment },
    });
  }

  test("the top level belongs to the store that it names, a section to its own", async () => {
    await write({ ...everything, store: { path: "/srv/main.db" }, stores: { [other]: ofOther } });
    const main = await of(undefined);
    expect(main).toMatchObject({ storePath: "/srv/main.db", section: { path, store: undefined } });
    expect(main.settings).toMatchObject({ recipients: ["age1xyz"], keep: { daily: 7 } });
    const second = await of(other);
    expect(second.section).toEqual({ path, store: other });
    expect(second.inFile).toEqual(ofOther);
    expect(second.settings).toEqual({
      ...ofOther,
      store: { path: other },
      keep: {},
    });
    const third = await of("/srv/third.db");
    expect(third.inFile).toEqual({});
    expect(third.settings).toEqual({ store: { path: "/srv/third.db" }, backup: {}, keep: {} });
  });

  test("without a named store the top level is that of the default store, if there is one", async () => {
    await write({ backup: { to: "/srv/backup" } });
    const isDefault = async (db: string | undefined) =>
      (await of(db, { XDG_DATA_HOME: folder })).settings.backup?.to === "/srv/backup";
    const defaultStore = join(folder, "hivemind-core", "clients.db");
    expect([await isDefault(undefined), await isDefault(defaultStore)]).toEqual([true, true]);
    // As version 0.1.0 wrote it for a store that each command names.
    expect(await isDefault(other)).toBe(true);
    await mkdir(join(folder, "hivemind-core"));
    await writeFile(defaultStore, "");
    expect([await isDefault(defaultStore), await isDefault(other)]).toEqual([true, false]);
  });

  test("saving a store's settings leaves those of the others as they are", async () => {
    await write({ ...everything, store: { path: "/srv/main.db" } });
    const { section } = await of(other);
    await updateSection(section, () => ({ ...ofOther, store: { path: other } }));
    expect(await loadSettings(path)).toEqual({
      ...everything,
      store: { path: "/srv/main.db" },
      stores: { [other]: ofOther },
    });
    const main = (await of(undefined)).section;
    await updateSection(main, () => ({ store: { path: "/srv/main.db" }, keep: { last: 2 } }));
    expect(await loadSettings(path)).toEqual({
      store: { path: "/srv/main.db" },
      keep: { last: 2 },
      stores: { [other]: ofOther },
    });
    expect(await loadSection(section)).toEqual(ofOther);
  });

  test("an unreachable path of another store stops no command", async () => {
    await symlink("circle", join(folder, "circle"));
    const unreachable = join(folder, "circle", "clients.db");
    const stores = { [unreachable]: ofOther, [other]: ofOther };
    await write({ store: { path: unreachable }, stores });
    expect((await of(other)).section.store).toBe(other);
    await write({ store: { path: unreachable } });
    expect((await of(other)).section.store).toBe(other);
  });

  test("the first store of a file gets the top level, a new one beside it a section", async () => {
    const section = async (db: string) =>
      (
        await resolveSettings(
          { store: { path: db } },
          { config: path, environment: { HOME: folder }, isNewStore: true },
        )
      ).section.store;
    expect(await section(other)).toBeUndefined();
    await write({ store: { path: "/srv/main.db" } });
    expect(await section("/srv/main.db")).toBeUndefined();
    expect(await section(other)).toBe(other);
  });

  test("a section stays its store's when the directory moves behind a link", async () => {
    await mkdir(join(folder, "old"));
    const key = join(folder, "old", "clients.db");
    await write({ store: { path: "/srv/main.db" }, stores: { [key]: ofOther } });
    await rename(join(folder, "old"), join(folder, "new"));
    await symlink(join(folder, "new"), join(folder, "old"));
    expect((await of(key)).settings.passphrase_source).toBe("file:/p");
    expect((await of(join(folder, "new", "clients.db"))).settings.passphrase_source).toBe(
      "file:/p",
    );
    expect(await findSection(path, join(folder, "new", "clients.db"))).toEqual({
      path,
      store: key,
    });
    expect(await findSection(path, "/srv/main.db")).toEqual({ path, store: undefined });
  });

  test.each([
    [{ stores: { [other]: { store: {} } } }, /unknown key stores\..*\.store/],
    [{ stores: { "relative.db": {} } }, /stores\.relative\.db/],
    [{ stores: { [other]: { keep: { yearly: 1 } } } }, /keep\.yearly/],
  ])("a section is checked as the top level is: %j", async (contents, message) => {
    await write(contents);
    await expect(loadSettings(path)).rejects.toMatchObject({
      kind: "usage",
      message: expect.stringMatching(message),
    });
  });
});

describe("a caller that goes on in spite of broken settings", () => {
  async function problemsIn(contents: unknown, environment = {}) {
    await write(contents);
    const problems: string[] = [];
    const { settings } = await resolveSettings(
      {},
      {
        config: path,
        environment: { HOME: folder, ...environment },
        onProblem: ({ message }) => problems.push(message),
      },
    );
    return { settings, problems };
  }

  test("unknown keys and invalid values are reported, and the rest is used", async () => {
    const { settings, problems } = await problemsIn({
      store: { path: "/srv/main.db" },
      pasphrase_source: "typo",
      passphrase_source: "file:/p",
      backup: { to: "relative", bundel_to: "/x", unit: "hub" },
      keep: "all",
    });
    expect(settings).toEqual({
      store: { path: "/srv/main.db" },
      passphrase_source: "file:/p",
      backup: { unit: "hub" },
      keep: {},
    });
    expect(problems.join()).toMatch(/pasphrase_source/);
    expect(problems.join()).toMatch(/backup\.to/);
    expect(problems.join()).toMatch(/bundel_to/);
    expect(problems.join()).toMatch(/keep/);
  });

  test("of a list with an invalid element, the list is ignored, and nothing else", async () => {
    const { settings, problems } = await problemsIn({
      passphrase_source: "file:/p",
      recipients: ["", "age1xyz", ""],
      hooks: { failure: ["notify.sh"], success: ["/bin/true", "done"] },
      backup: { copies: ["nas:backup", "/srv/copy"], unit: "hub" },
    });
    expect(settings).toEqual({
      store: {},
      passphrase_source: "file:/p",
      hooks: { success: ["/bin/true", "done"] },
      backup: { unit: "hub" },
      keep: {},
    });
    expect(problems.join()).toMatch(
      /hooks\.failure\.0.*backup\.copies\.0|backup\.copies\.0.*hooks/,
    );
  });

  test("an error that another error has hidden is reported, and the rest is used", async () => {
    const { settings, problems } = await problemsIn({
      passphrase_source: "file:/p",
      store: { path: "/srv/main.db", name: "main", colour: "red" },
    });
    expect(settings).toEqual({ store: {}, passphrase_source: "file:/p", backup: {}, keep: {} });
    expect(problems).toEqual([
      expect.stringContaining("store.colour"),
      expect.stringContaining("either a path"),
    ]);
  });

  test.each([['{"store": '], [[]], ["null"]])(
    "a file that is no settings at all: %j",
    async (contents) => {
      const { settings, problems } = await problemsIn(contents);
      expect(settings).toEqual({ store: {}, backup: {}, keep: {} });
      expect(problems).toHaveLength(1);
    },
  );

  test("a file that others can change is not obeyed", async () => {
    await write({ passphrase_source: "command:evil" });
    await chmod(path, 0o666);
    const problems: string[] = [];
    const { settings } = await resolveSettings(
      {},
      { config: path, environment: {}, onProblem: ({ message }) => problems.push(message) },
    );
    expect(settings.passphrase_source).toBeUndefined();
    expect(problems.join()).toMatch(/can be changed/);
  });

  test("a variable with a value that there is not", async () => {
    const { problems } = await problemsIn({}, { HIVEMIND_SQLCIPHER_SERVICE: "sysv" });
    expect(problems.join()).toMatch(/HIVEMIND_SQLCIPHER_SERVICE/);
  });
});

test.each<[string, ServiceSettings, ServiceSettings, ServiceSettings]>([
  [
    "commands over none",
    { stop_command: "a", start_command: "b" },
    { service: "none" },
    { service: "command", stop_command: "a", start_command: "b" },
  ],
  [
    "a command over the other in the file",
    { stop_command: "a" },
    { unit: "hub", start_command: "b" },
    { service: "command", stop_command: "a", start_command: "b" },
  ],
  [
    "a unit over commands",
    { unit: "hub" },
    { service: "command", stop_command: "a", start_command: "b" },
    { service: "auto", unit: "hub" },
  ],
  [
    "a unit over another manager's unit",
    { unit: "hub" },
    { service: "systemd-user", unit: "old" },
    { service: "auto", unit: "hub" },
  ],
  [
    "a manager, with the unit of the file",
    { service: "systemd" },
    { service: "systemd-user", unit: "hub" },
    { service: "systemd", unit: "hub" },
  ],
  ["a search over a unit", { service: "auto" }, { unit: "hub" }, { service: "auto" }],
  ["none over a unit", { service: "none" }, { unit: "hub" }, { service: "none" }],
  [
    "command, with the commands of the file",
    { service: "command" },
    { service: "none", stop_command: "a", start_command: "b" },
    { service: "command", stop_command: "a", start_command: "b" },
  ],
  [
    "nothing over the file",
    {},
    { service: "systemd", unit: "hub" },
    { service: "systemd", unit: "hub" },
  ],
])("a service that is chosen takes precedence: %s", (_, upper, lower, merged) => {
  expect(mergeServiceSettings(upper, lower)).toEqual(merged);
});
