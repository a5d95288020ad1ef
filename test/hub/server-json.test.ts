import { chmod, lstat, mkdir, mkdtemp, readFile, stat, symlink, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { beforeEach, describe, expect, test } from "vitest";
import { namedStore, passwordIn, readServerJson } from "../../src/hub/server-json.js";
import {
  removePassword,
  setPassword,
  switchModule,
  withPassword,
} from "../../src/hub/server-json-edit.js";

let home: string;
let path: string;
let environment: Record<string, string>;

beforeEach(async () => {
  home = await mkdtemp(join(tmpdir(), "server-json-"));
  path = join(home, "server.json");
  environment = { HOME: home };
});

const plugin = "hivemind-sqlite-db-plugin";

const commented = `{
  // who may connect
  # and how
  "binarize": false,   
  "big": 12345678901234567890, "odd": [1.0,NaN],
  "database": {
    "module": "${plugin}",
    // the store
    "${plugin}": {
      "name": "clients",
      // its passphrase
      "subfolder": "hivemind-core"
    }
  },
  "agent_protocol": {"url": "http://127.0.0.1/#x // not a comment"}
}
`;

describe("reading", () => {
  test("comments on lines of their own are passed over, as the hub does", async () => {
    await writeFile(path, commented);
    const file = await readServerJson(path);
    expect(await namedStore(file, environment)).toEqual({
      module: plugin,
      pathInside: join(home, ".local/share/hivemind-core/clients.db"),
      storePath: join(home, ".local/share/hivemind-core/clients.db"),
      passwordSet: false,
    });
  });

  test.each([
    ["a comment behind a value", '{\n  "a": 1 // one\n}', "line 2, column 10"],
    ["a comma too many", '{"a": 1,\n}', "line 2, column 1"],
    ["a block comment", '/* a */ {"a": 1}', "line 1, column 1"],
    ["a byte order mark", '\ufeff{"a": 1}', "line 1, column 1"],
    ["a text that was cut off", '{"a": ', "line 1, column 7"],
    ["a line separator within a string", '{"a": "b\u2028c"}', "line 1, column 9"],
    ["nothing", "", "line 1, column 1"],
  ])(
    "%s is refused with its place, since the hub would run on its defaults",
    async (_, text, place) => {
      await writeFile(path, text);
      await expect(readServerJson(path)).rejects.toMatchObject({
        kind: "refused",
        message: expect.stringContaining(`${path} does not parse: ${place}`),
        hint: expect.stringContaining("defaults"),
      });
    },
  );

  test("what is not UTF-8, not an object, not a file or not there is each said", async () => {
    await writeFile(path, Buffer.from([0x7b, 0x22, 0xff, 0x22, 0x3a, 0x31, 0x7d]));
    await expect(readServerJson(path)).rejects.toThrow("not UTF-8");
    await writeFile(path, "[1]");
    await expect(readServerJson(path)).rejects.toThrow("not an object");
    await expect(readServerJson(home)).rejects.toThrow("is not a file");
    await expect(readServerJson(join(home, "none"))).rejects.toMatchObject({ kind: "notFound" });
  });

  test("an error never shows what stands in the file", async () => {
    await writeFile(path, '{"password": "geheim" "x": 1}');
    const error: Error = await readServerJson(path).then(
      () => expect.fail("it parsed"),
      (reason) => reason,
    );
    expect(`${error.stack} ${String(error.cause)}`).not.toContain("geheim");
  });
});

describe("the store that is named", () => {
  async function storeOf(database: unknown, variables: Record<string, string> = {}) {
    await writeFile(path, JSON.stringify(database === undefined ? {} : { database }));
    return namedStore(await readServerJson(path), { ...environment, ...variables });
  }

  test("the plugin's defaults hold where its block leaves them out", async () => {
    const { storePath } = await storeOf({ module: plugin }, { XDG_DATA_HOME: "/data" });
    expect(storePath).toBe("/data/hivemind-core/clients.db");
  });

  test("absolute parts and db_path count as they do for the plugin", async () => {
    const at = async (block: object) =>
      (await storeOf({ module: plugin, [plugin]: block })).storePath;
    expect(await at({ subfolder: "/srv/hm", name: "c" })).toBe("/srv/hm/c.db");
    expect(await at({ subfolder: "hm", name: "a/c" })).toBe(join(home, ".local/share/hm/a/c.db"));
    expect(await at({ db_path: "/srv/x.db", name: "c" })).toBe("/srv/x.db");
    expect(await at({ db_path: ":memory:" })).toBeUndefined();
  });

  test("another module, or none, names no store of ours", async () => {
    expect(await storeOf({ module: "hivemind-json-db-plugin" })).toEqual({
      module: "hivemind-json-db-plugin",
      storePath: undefined,
      passwordSet: false,
    });
    expect(await storeOf(undefined)).toMatchObject({ module: undefined, storePath: undefined });
  });

  test("a block that no hub can read is refused", async () => {
    await expect(storeOf({ module: plugin, [plugin]: null })).rejects.toMatchObject({
      kind: "refused",
    });
    await expect(storeOf({ module: 7 })).rejects.toMatchObject({ kind: "refused" });
  });
});

describe("editing", () => {
  test("a password is added, replaced and removed, and the rest stays byte for byte", async () => {
    await writeFile(path, commented);
    await setPassword(path, 'first "é\u2028');
    const added = await readFile(path, "utf8");
    expect(added).toBe(
      commented.replace(
        '"hivemind-core"\n',
        '"hivemind-core",\n      "password": "first \\"\\u00e9\\u2028"\n',
      ),
    );
    expect(passwordIn(await readServerJson(path))).toBe('first "é\u2028');
    await setPassword(path, "second");
    expect(await readFile(path, "utf8")).toBe(added.replace(/"first.*"/, '"second"'));
    expect(await removePassword(path)).toBe(true);
    expect(await readFile(path, "utf8")).toBe(commented);
    expect(await removePassword(path)).toBe(false);
  });

  test.each([
    ['{"database": {"P": {"password": "x"}}}', '{"database": {"P": {}}}'],
    ['{"database": {"P": {"password": "x", "name": "c"}}}', '{"database": {"P": {"name": "c"}}}'],
    ['{"database": {"P": {"name": "c", "password": "x"}}}', '{"database": {"P": {"name": "c"}}}'],
    [
      '{"database": {"P": {\r\n  "password": "x",\r\n  # name\r\n  "name": "c"\r\n}}}',
      '{"database": {"P": {\r\n  # name\r\n  "name": "c"\r\n}}}',
    ],
    [
      '{"database": {"P": {\n  "name": "c"\n  // a, b\n  ,\n  "pass\\u0077ord": "x"\n}}}',
      '{"database": {"P": {\n  "name": "c"\n  // a, b\n  \n}}}',
    ],
  ])("a password is removed from %j with its comma", async (before, after) => {
    await writeFile(path, before.replace("P", plugin));
    expect(await removePassword(path)).toBe(true);
    expect(await readFile(path, "utf8")).toBe(after.replace("P", plugin));
    await readServerJson(path);
  });

  test.each(["{}", '{"database": {}}', `{"database": {"module": "${plugin}"}, "x": 1}`])(
    "blocks that are missing in %j are made",
    async (text) => {
      await writeFile(path, text);
      const before = await readServerJson(path);
      await writeFile(path, withPassword(before, "p"));
      expect(passwordIn(await readServerJson(path))).toBe("p");
    },
  );

  test("a key that stands there twice is refused, since only one of them counts", async () => {
    const text = `{"database": {"${plugin}": {"password": "a", "password": "b"}}}`;
    await writeFile(path, text);
    await expect(removePassword(path)).rejects.toMatchObject({ kind: "refused" });
    await expect(setPassword(path, "c")).rejects.toMatchObject({ kind: "refused" });
    expect(await readFile(path, "utf8")).toBe(text);
  });

  test("a symbolic link stays one, and the mode of the file behind it stays what it was", async () => {
    await mkdir(join(home, "etc"));
    const file = join(home, "etc", "hub.json");
    await writeFile(file, commented);
    await chmod(file, 0o640);
    await symlink("etc/hub.json", path);
    await setPassword(path, "p");
    expect((await lstat(path)).isSymbolicLink()).toBe(true);
    expect((await stat(file)).mode & 0o777).toBe(0o640);
    expect(passwordIn(await readServerJson(path))).toBe("p");
  });

  test("another module is switched to, with its settings, and the old one's stay", async () => {
    await writeFile(path, commented);
    await switchModule(path, "hivemind-redis-db-plugin", { host: "127.0.0.1", port: 6379 });
    const { settings } = await readServerJson(path);
    expect(settings).toMatchObject({
      binarize: false,
      database: {
        module: "hivemind-redis-db-plugin",
        [plugin]: { name: "clients", subfolder: "hivemind-core" },
        "hivemind-redis-db-plugin": { host: "127.0.0.1", port: 6379 },
      },
    });
    expect(await readFile(path, "utf8")).toContain("// its passphrase");
  });
});
