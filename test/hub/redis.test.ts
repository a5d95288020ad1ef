import { execFileSync } from "node:child_process";
import { mkdir, readFile, writeFile } from "node:fs/promises";
import keytar from "keytar";
import { expect, test } from "vitest";
import { DatabaseFactory } from "../../src/databases/registry.js";
import { Machine } from "../cli/machine.js";
import { RedisServer } from "../databases/redis-server.js";
import { hubScript } from "./support.js";

const redis = "hivemind-redis-db-plugin";
const secret = "the server's own pass'word";

async function machineOn(port: number): Promise<{ machine: Machine; serverJson: string }> {
  const machine = await Machine.make();
  const serverJson = machine.path("config", "hivemind-core", "server.json");
  await mkdir(machine.path("config", "hivemind-core"), { recursive: true });
  const database = { module: redis, [redis]: { host: "127.0.0.1", port } };
  const settings = { network_protocol: {}, database };
  await writeFile(serverJson, `// on Redis\n${JSON.stringify(settings, null, 2)}\n`);
  return { machine, serverJson };
}

test("the real hub on a Redis server gets its password from the keyring, by no file on disk", async () => {
  const server = await RedisServer.start(["--requirepass", secret]);
  const { machine, serverJson } = await machineOn(server.port);
  const before = await readFile(serverJson, "utf8");
  const add = ["run", "--", await hubScript("development"), "add-client", "--name", "kitchen"];

  const account = `redis://default@127.0.0.1:${server.port}/0`;
  const missing = await machine.run(add);
  expect(missing).toMatchObject({ code: 13, stdout: "" });
  expect(missing.stderr).toContain(`account '${account}'`);

  // Not by secret-tool: what that stores is found by its attributes alone, for a second or so.
  await keytar.setPassword("hivemind-sqlcipher", account, secret);
  const added = await machine.run(add);
  expect([added.code, added.stderr]).toEqual([0, expect.anything()]);
  expect(await readFile(serverJson, "utf8")).toBe(before);
  // grep answers 1 if it finds nothing.
  expect(() => execFileSync("grep", ["-rlF", secret, machine.folder])).toThrow();

  await using database = await DatabaseFactory.create(redis, {
    port: server.port,
    password: secret,
  });
  expect(await database.searchByValue("name", "kitchen")).toHaveLength(1);
});

test("the password of the Redis server has a source of its own: what opens the store is not sent there", async () => {
  const server = await RedisServer.start(["--requirepass", secret]);
  const { machine, serverJson } = await machineOn(server.port);
  const [own, store] = [machine.path("redis-password"), machine.path("passphrase")];
  await writeFile(own, `${secret}\n`, { mode: 0o600 });
  await writeFile(store, "of the store\n", { mode: 0o600 });
  const show = ["--", "/bin/cat", serverJson];
  const fromStore = await machine.run(["run", "--passphrase-source", `file:${store}`, ...show]);
  expect(fromStore.code).toBe(13);
  const shown = await machine.run([
    ...["run", "--passphrase-source", `file:${store}`, "--redis-password-source", `file:${own}`],
    ...show,
  ]);
  expect(shown).toMatchObject({ code: 0 });
  const seen = shown.stdout.replace("// on Redis\n", "");
  expect(JSON.parse(seen)).toEqual({
    network_protocol: {},
    database: {
      module: redis,
      [redis]: { host: "127.0.0.1", port: server.port, password: secret },
    },
  });

  const { code, stdout } = await machine.run([
    ...["run", "--print-unit", "system", "--credential-file", "/etc/sealed", "--user", "hub"],
    ...["--", "/bin/true"],
  ]);
  expect(code).toBe(0);
  expect(stdout).toMatch(
    /^ExecStartPre=.* run --redis-password-source credential .*--prepare .*server\.json -- \/bin\/true$/m,
  );
});
