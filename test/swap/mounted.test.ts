/** Files that are mount points, as in a container: no rename replaces them. */
import { spawn } from "node:child_process";
import { once } from "node:events";
import { existsSync } from "node:fs";
import { mkdir, readdir, readFile, writeFile } from "node:fs/promises";
import { dirname } from "node:path";
import { expect, onTestFinished, test } from "vitest";
import { newClient } from "../../src/client/client.js";
import { DatabaseFactory } from "../../src/databases/registry.js";
import { failingRename } from "../cli/failing-rename.js";
import { Machine } from "../cli/machine.js";
import { mounted } from "../cli/mounted.js";

test("a bind-mounted database is refused by every swap and restore before the hub is stopped", async () => {
  const machine = await Machine.make();
  await machine.init("--to", machine.path("backups"), "--bundle-to", machine.path("bundles"));
  const { document } = await machine.json("backup", "--service", "none");
  const { path: backup } = document.backup as { path: string };
  const clients = machine.path("data", "hivemind-core", "clients.json");
  await writeFile(clients, "{}");
  const before = {
    store: await readFile(machine.store),
    names: await readdir(dirname(machine.store)),
  };
  // A hub that would be stopped.
  const hub = spawn("/bin/sh", ["-c", 'exec 3<"$0"; echo; exec sleep infinity', machine.store]);
  onTestFinished(() => void hub.kill("SIGKILL"));
  await once(hub.stdout, "data");
  const stop = [
    ...["--stop-command", `touch '${machine.path("stopped")}'; kill ${hub.pid}`],
    ...["--start-command", "true"],
  ];
  const into = ["--into", "hivemind-json-db-plugin", "--discard-replaced", "--yes"];
  for (const [file, ...args] of [
    [machine.store, "rotate", "--hub", "none"],
    [machine.store, "restore", backup, "--hub", "none"],
    [machine.store, "decrypt", "--hub", "none", "--yes"],
    [clients, "restore", backup, ...into],
  ] as const) {
    const { code, stderr } = await machine.run([...args, ...stop], mounted(file));
    expect([args[0], code, stderr]).toEqual([
      args[0],
      17,
      expect.stringContaining("is a mount point"),
    ]);
  }
  expect(existsSync(machine.path("stopped"))).toBe(false);
  expect(await readdir(dirname(machine.store))).toEqual(before.names);
  expect(await readFile(machine.store)).toEqual(before.store);

  // In its own mount namespace the commands would have stopped it.
  await machine.run(["backup", ...stop, "--to", machine.path("backups")]);
  expect(existsSync(machine.path("stopped"))).toBe(true);
  const none = ["--hub", "none", "--service", "none"];
  expect((await machine.run(["decrypt", ...none, "--yes"])).code).toBe(0);
  const { code, stderr } = await machine.run(["encrypt", ...none], mounted(machine.store));
  expect([code, stderr]).toEqual([17, expect.stringContaining("is a mount point")]);
});

test("a server.json that is mounted is refused before anything is copied; a failed switch goes on later", async () => {
  const machine = await Machine.make();
  const json = "hivemind-json-db-plugin";
  const server = machine.path("config", "hivemind-core", "server.json");
  await mkdir(dirname(server), { recursive: true });
  await writeFile(
    server,
    JSON.stringify({ network_protocol: {}, database: { module: json, [json]: {} } }),
  );
  const clients = machine.path("data", "hivemind-core");
  {
    await using database = await DatabaseFactory.create(json, { subfolder: clients });
    await database.addItems([newClient({ client_id: 1, api_key: "a" })]);
  }
  await machine.init();
  const target = "hivemind-sqlcipher-db-plugin";
  const migrate = ["migrate", "--from", json, "--to", target, "--switch", "--hub", "none"];
  const refused = await machine.run(migrate, mounted(server));
  expect([refused.code, refused.stderr]).toEqual([17, expect.stringContaining("is a mount point")]);
  expect((await machine.json("list-clients")).document.clients).toEqual([]);

  // Copied and compared, but the last step fails: server.json cannot be replaced.
  const failing = await machine.run(migrate, {
    env: await failingRename(machine, "server.json"),
  });
  expect(failing.code).toBe(18);
  expect(failing.stderr).toMatch(/device or resource busy\n.*run the same command again\.$/m);
  expect(await readFile(server, "utf8")).toContain(`"module":"${json}"`);
  const again = await machine.run(migrate);
  expect([again.code, again.stderr]).toEqual([0, expect.any(String)]);
  expect(await readFile(server, "utf8")).toContain("hivemind-sqlite-db-plugin");
  expect((await machine.json("list-clients")).document.clients).toHaveLength(1);
});
