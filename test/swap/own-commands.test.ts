/**
 * A hub with commands of its own, and others that have its store open in the middle of the work.
 */
import { execFileSync } from "node:child_process";
import { existsSync } from "node:fs";
import { chown, readdir, readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { expect, onTestFinished, test } from "vitest";
import { root } from "../built.js";
import { Machine } from "../cli/machine.js";
import { asNobody, isRoot, nobody } from "../files/others.js";
import { until } from "../service/units.js";
import { World } from "./world.js";

/** Starts a hub, and returns its service. Every start adds a line to the file `starts`. */
function startHub(world: World) {
  const pid = join(world.folder, "pid");
  const service = {
    service: "command",
    unit: "none",
    storePath: world.path,
    startCommand: `setsid /bin/sh -c 'exec 3<${world.path}; echo $$ >${pid}; echo $$ >>${world.folder}/starts; exec sleep infinity' >/dev/null 2>&1 & until test -s ${pid}; do sleep 0.01; done`,
    stopCommand: `kill $(cat ${pid}); rm ${pid}`,
  };
  execFileSync("/bin/sh", ["-c", service.startCommand]);
  onTestFinished(() => void execFileSync("/bin/sh", ["-c", `kill $(cat ${pid}) || true`]));
  return service;
}

test("a program that opens the store while a swap is at it is not taken for the hub with commands of its own: it is started", async () => {
  const world = await World.of("sqlcipher4-schema2.db");
  const starts = join(world.folder, "starts");
  const other = join(world.folder, "other");
  const service = startHub(world);
  onTestFinished(() => void execFileSync("/bin/sh", ["-c", `kill $(cat ${other}) || true`]));
  const opened = `/bin/sh -c 'exec 3<${world.path}; echo $$ >${other}; exec sleep infinity' >/dev/null 2>&1 & until test -s ${other}; do sleep 0.01; done`;
  const ran = await world.run(
    "rotate",
    { service },
    {
      NODE_OPTIONS: `--import=${root}test/faults/at-step.mjs`,
      HIVEMIND_TEST_AT_STEP: JSON.stringify({ "rotate.filled": opened }),
    },
  );
  expect(ran).toMatchObject({
    code: 15,
    error: { kind: "service", message: expect.stringContaining("during the work") },
  });
  expect((await readFile(starts, "utf8")).trim().split("\n")).toHaveLength(2);
});

test("a command that opens the store in the commit of a swap waits for its end, and changes the new file", async () => {
  const world = await World.of("sqlcipher4-schema2.db");
  const service = startHub(world);
  const code = join(world.folder, "code");
  const command = `${process.execPath} ${root}dist/cli/main.js add-client --name late --db '${world.path}'`;
  const ran = await world.run(
    "rotate",
    { service },
    {
      NODE_OPTIONS: `--import=${root}test/faults/at-step.mjs`,
      HIVEMIND_TEST_AT_STEP: JSON.stringify({
        "rotate.committing": `(${command} >'${code}.out' 2>&1; echo $? >'${code}') & sleep 3`,
      }),
    },
  );
  expect(ran.error).toBeUndefined();
  await until(async () => existsSync(code));
  expect([await readFile(code, "utf8"), await readFile(`${code}.out`, "utf8")]).toEqual([
    "0\n",
    expect.stringContaining("late"),
  ]);
  expect((await world.rows()).join()).toContain('"late"');
});

test("a command that has the store open for a moment at the commit is not taken for the hub", async () => {
  const world = await World.of("sqlcipher4-schema2.db");
  const starts = join(world.folder, "starts");
  const ready = join(world.folder, "ready");
  const opened = `/bin/sh -c 'exec 3<${world.path}; touch ${ready}; exec sleep 1' >/dev/null 2>&1 & until test -e ${ready}; do sleep 0.01; done`;
  const ran = await world.run(
    "rotate",
    { service: startHub(world) },
    {
      NODE_OPTIONS: `--import=${root}test/faults/at-step.mjs`,
      HIVEMIND_TEST_AT_STEP: JSON.stringify({ "rotate.committing": opened }),
    },
  );
  expect(ran.error).toBeUndefined();
  expect((await readFile(starts, "utf8")).trim().split("\n")).toHaveLength(2);
});

test("a start command that opens the store does not wait for the commit that failed", async () => {
  const world = await World.of("sqlcipher4-schema2.db");
  const service = startHub(world);
  const listed = join(world.folder, "listed");
  const list = `${process.execPath} ${root}dist/cli/main.js list-clients --db '${world.path}'`;
  const ran = await world.run(
    "rotate",
    { service: { ...service, startCommand: `${list} >${listed} && { ${service.startCommand}; }` } },
    {
      NODE_OPTIONS: `--import=${root}test/faults/at-step.mjs`,
      HIVEMIND_TEST_AT_STEP: JSON.stringify({ "rotate.committing": service.startCommand }),
    },
  );
  expect(ran).toMatchObject({ code: 15, error: { message: expect.stringContaining("during") } });
  expect(await readFile(listed, "utf8")).toContain("kitchen-satellite");
});

test("a command that opens the store, as the start command may, does not wait once the file is renamed", async () => {
  const world = await World.of("sqlcipher4-schema2.db");
  const service = startHub(world);
  const listed = join(world.folder, "listed");
  const list = `timeout 20 ${process.execPath} ${root}dist/cli/main.js list-clients --db '${world.path}'`;
  const ran = await world.run(
    "rotate",
    { service },
    {
      NODE_OPTIONS: `--import=${root}test/faults/at-step.mjs`,
      HIVEMIND_TEST_AT_STEP: JSON.stringify({ "rotate.renamed": `${list} >${listed} || true` }),
    },
  );
  expect(ran.error).toBeUndefined();
  expect(await readFile(listed, "utf8")).toContain("kitchen-satellite");
});

test.skipIf(!isRoot)(
  "an ordinary user, who cannot look into others' processes, swaps the store of a hub with commands of its own",
  async () => {
    const machine = await Machine.make();
    execFileSync("chown", [`${nobody}`, machine.folder]);
    const passphrase = machine.path("passphrase");
    await writeFile(passphrase, "correct horse battery staple\n", { mode: 0o600 });
    await chown(passphrase, nobody, nobody);
    const run = async (...args: string[]) => {
      const source = ["--passphrase-source", `file:${passphrase}`, "--no-key-cache"];
      const { code, stderr } = await machine.run([...args, ...source], { before: asNobody });
      return [code, stderr];
    };
    const places = ["--bundle-to", machine.path("bundles"), "--to", machine.path("backups")];
    const done = [0, expect.any(String)];
    expect(await run("init", "--recovery-key-file", machine.path("key"), ...places)).toEqual(done);
    execFileSync("install", ["-d", "-o", `${nobody}`, machine.path("backups")]);
    expect(await run("backup", "--service", "none")).toEqual(done);
    const names = await readdir(machine.path("backups"));
    const [file = ""] = names.filter((name) => name.endsWith(".db"));
    const commands = [
      "--stop-command",
      "true",
      "--start-command",
      "true",
      "--hub",
      "none",
      "--yes",
    ];
    expect(await run("restore", machine.path("backups", file), ...commands)).toEqual(done);
  },
);
