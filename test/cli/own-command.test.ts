/** Commands that somebody else keeps: they name what this one was told, however it was spelt. */
import { copyFile, mkdir, writeFile } from "node:fs/promises";
import { expect, test } from "vitest";
import { Machine } from "./machine.js";

async function unitOf(machine: Machine, before: string[], hub: string[] = ["/bin/true"]) {
  const { code, stdout, stderr } = await machine.run([
    ...["run", ...before, "--print-unit", "user", "--", ...hub],
  ]);
  expect({ code, stderr }).toEqual({ code: 0, stderr: "" });
  const [, command = "", started = ""] = /^ExecStart=(.*) -- (.*)$/m.exec(stdout) ?? [];
  return { command: command.slice(command.indexOf("/main.js ") + 9), started };
}

test("a unit for the hub has the store, the settings and the source of the passphrase, and what run was told", async () => {
  const machine = await Machine.make();
  await machine.init();
  const config = machine.path("config", "hivemind-sqlcipher", "config.json");
  const usual = `run --db ${machine.store} --config ${config}`;
  expect(await unitOf(machine, [])).toEqual({ command: usual, started: "/bin/true" });

  // What stands behind "--" is the hub's own.
  const hub = ["/bin/true", "--db", "other.db", "--config=x"];
  expect(await unitOf(machine, [], hub)).toEqual({ command: usual, started: hub.join(" ") });

  const [db, settings] = [machine.path("own.db"), machine.path("own.json")];
  await copyFile(config, settings);
  const source = `file:${machine.path("secret")}`;
  const own = `run --db ${db} --config ${settings} --passphrase-source "${source}"`;
  for (const options of [
    [`--db=${db}`, `--config=${settings}`, `--passphrase-source=${source}`],
    ["--db", db, "--config", settings, "--passphrase-source", source],
  ]) {
    expect((await unitOf(machine, options)).command).toBe(own);
  }
  const told = await unitOf(machine, [
    "--private-config",
    "--hub-python",
    "/bin/sh",
    "--no-key-cache",
  ]);
  expect(told.command).toBe(
    `run --hub-python /bin/sh --private-config --db ${machine.store} --config ${config} --no-key-cache`,
  );
});

test("a sealed credential is the system unit's source, whatever this shell's is", async () => {
  const machine = await Machine.make();
  await machine.init();
  await mkdir(machine.path("config", "hivemind-core"));
  await writeFile(
    machine.path("config", "hivemind-core", "server.json"),
    '{"database": {"module": "hivemind-sqlite-db-plugin"}}',
  );
  const { stdout } = await machine.run([
    ...["run", "--passphrase-source", "command:pass hub", "--print-unit", "system"],
    ...["--credential-file", "/etc/sealed", "--user", "hub", "--", "/bin/true"],
  ]);
  expect(stdout).toMatch(
    new RegExp(
      `^ExecStartPre=\\S+ \\S+/cli/main\\.js run --db ${machine.store} --passphrase-source "?credential:hivemind-sqlcipher"? --prepare `,
      "m",
    ),
  );
  expect(stdout.match(/--passphrase-source/g)).toHaveLength(1);
});

test("no unit is printed that reads the passphrase from the secrets of an engine", async () => {
  const machine = await Machine.make();
  await machine.init();
  for (const kind of ["user", "quadlet", "compose"]) {
    const { code, stderr } = await machine.run([
      ...["run", "--passphrase-source", "command:podman secret inspect --showsecret hub"],
      ...["--print-unit", kind],
    ]);
    expect([code, stderr]).toEqual([17, expect.stringContaining("on the disk unencrypted")]);
    expect(stderr).toContain("bundle import BUNDLE --passphrase-source keyring");
  }
});
