/** Hooks, the record of runs and the metrics, around the real commands. */
import { spawnSync } from "node:child_process";
import { once } from "node:events";
import { chmod, mkdir, readdir, readFile, stat, writeFile } from "node:fs/promises";
import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import { expect, onTestFinished, test } from "vitest";
import { runHooks } from "../../src/operation/hooks.js";
import { Machine } from "./machine.js";

interface Ping {
  readonly path: string;
  readonly body: unknown;
  readonly authorization?: string;
}

/** A monitoring service. `answers` has the statuses of its first answers; the others are 200. */
async function monitor(answers: number[] = []) {
  const pings: Ping[] = [];
  const server = createServer(async (request, response) => {
    const chunks = await request.toArray();
    const { authorization } = request.headers;
    pings.push({
      path: request.url ?? "",
      body: JSON.parse(Buffer.concat(chunks).toString()),
      ...(authorization !== undefined && { authorization }),
    });
    response.writeHead(answers.shift() ?? 200).end("OK");
  }).listen(0, "127.0.0.1");
  await once(server, "listening");
  onTestFinished(() => void server.close());
  const { port } = server.address() as AddressInfo;
  return { url: `http://127.0.0.1:${port}/ping/secret-part`, pings };
}

/** Changes the machine's settings file. */
async function set(machine: Machine, settings: object): Promise<void> {
  const path = machine.path("config", "hivemind-sqlcipher", "config.json");
  const present = JSON.parse(await readFile(path, "utf8"));
  await writeFile(path, JSON.stringify({ ...present, ...settings }), { mode: 0o600 });
}

/** A program that appends its standard input to a file, and then runs `more`. */
async function hook(machine: Machine, name: string, more = "") {
  const [program, log] = [machine.path(`${name}.sh`), machine.path(`${name}.log`)];
  await writeFile(program, `#!/bin/sh\ncat >>"$1"\n${more}\n`);
  await chmod(program, 0o700);
  return {
    command: [program, log],
    documents: async () =>
      (await readFile(log, "utf8").catch(() => ""))
        .split("\n")
        .filter((line) => line !== "")
        .map((line) => JSON.parse(line)),
  };
}

async function machineWithBackup(): Promise<Machine> {
  const machine = await Machine.make();
  await machine.init(
    ...["--service", "none", "--to", machine.path("backups")],
    ...["--bundle-to", machine.path("bundles")],
  );
  return machine;
}

test("hooks are told of a success and of a failure, with the document and without a secret", async () => {
  const machine = await machineWithBackup();
  const { url, pings } = await monitor([500]);
  const [before, success, failure] = await Promise.all(
    ["before", "success", "failure"].map((name) => hook(machine, name)),
  );
  const hooks = { before: before?.command, success: success?.command, failure: failure?.command };
  await set(machine, { hooks: { ...hooks, ping: url } });

  const backup = await machine.json("backup");
  expect(backup.code).toBe(0);
  expect(await before?.documents()).toEqual([
    { operation: "backup", store: machine.store, event: "before" },
  ]);
  expect(await success?.documents()).toEqual([
    { operation: "backup", store: machine.store, event: "success", result: backup.document },
  ]);
  expect(await failure?.documents()).toEqual([]);

  // A malformed target in the settings does not concern a command on another target.
  const [to, bundle_to] = [machine.path("backups"), machine.path("bundles")];
  await set(machine, { backup: { service: "none", to, bundle_to, copies: ["rclone:nas:../x"] } });
  const prune = await machine.json("prune", machine.path("absent"), "--keep-last", "1");
  expect(prune.code).toBe(10);
  const { code, message } = prune.document.error as { code: number; message: string };
  expect(await failure?.documents()).toEqual([
    expect.objectContaining({
      operation: "prune",
      event: "failure",
      error: expect.objectContaining({ kind: "notFound", code, message }),
    }),
  ]);
  // A monitor that expects backups learns of other operations only that they failed.
  const reporter = { notice: () => {}, detail: () => {}, confirm: async () => {} };
  const { signal } = new AbortController();
  const context = { operation: "prune", storePath: machine.store, reporter, signal };
  await runHooks({ ping: url }, { event: "success", result: {} }, context);
  // The first ping was answered with 500 and repeated. A monitor learns no path.
  expect(pings).toEqual([
    { path: "/ping/secret-part/start", body: { operation: "backup" } },
    { path: "/ping/secret-part/start", body: { operation: "backup" } },
    { path: "/ping/secret-part", body: { operation: "backup", exit_code: 0 } },
    { path: "/ping/secret-part/fail", body: { operation: "prune", exit_code: 10 } },
  ]);
});

test("hooks and the record of the run do not depend on standard output", async () => {
  const machine = await machineWithBackup();
  const success = await hook(machine, "success");
  await set(machine, { hooks: { success: success.command } });
  const copied = ["--copy-to", "rclone:missing", "--json"];
  for (const [output, more, expected] of [
    ["| true", [], 0],
    ["| true", copied, 2],
    [">/dev/full", [], 18],
  ] as const) {
    const [program, ...args] = machine.line(["backup", ...more]);
    const line = `"$@" ${output}; exit "\${PIPESTATUS[0]}"`;
    const { status } = spawnSync("bash", ["-c", line, "bash", program, ...args], {
      env: machine.environment,
    });
    expect([output, status]).toEqual([output, expected]);
  }
  expect(await success.documents()).toHaveLength(2);
  const { document } = await machine.json("status");
  expect(document).toMatchObject({ runs: { backup: { exit_code: 0 } } });
});

test("a hook that fails is reported and changes neither the backup nor the exit code", async () => {
  const machine = await machineWithBackup();
  const failing = await hook(machine, "failing", "exit 3");
  const { url } = await monitor([404, 404]);
  await set(machine, {
    hooks: { before: [machine.path("absent")], success: failing.command, ping: url },
  });
  const { code, stdout, stderr } = await machine.run(["backup"]);
  expect([code, stdout]).toEqual([0, expect.stringMatching(/^Backed up and verified: /)]);
  expect(stderr).toContain(
    `the hook hooks.before failed: ${machine.path("absent")} does not exist; backup is not affected`,
  );
  expect(stderr).toContain("failing.sh exited with code 3; backup is not affected");
  expect(stderr).toContain("of the backup: HTTP status 404");
  expect(stderr).not.toContain("secret-part");
});

test("a signal during the hook before an operation prevents the operation", async () => {
  const machine = await machineWithBackup();
  for (let count = 0; count < 2; count += 1) await machine.run(["backup"]);
  const backups = await readdir(machine.path("backups"));
  const [before, failure] = [
    await hook(machine, "before", `kill -TERM $PPID; exec sleep 30`),
    await hook(machine, "failure"),
  ];
  await set(machine, { hooks: { before: before.command, failure: failure.command } });
  const { code } = await machine.run(["prune", "--keep-last", "1"]);
  expect(code).toBe(130);
  expect(await readdir(machine.path("backups"))).toEqual(backups);
  expect(await failure.documents()).toEqual([
    expect.objectContaining({ error: expect.objectContaining({ kind: "interrupted" }) }),
  ]);
});

test("the user and password in the URL of a ping are sent as a header, and never printed", async () => {
  const machine = await machineWithBackup();
  const { url, pings } = await monitor([200, 404]);
  const ping = url.replace("//", "//hub%40home:p%C3%A4ss%3A1@");
  await set(machine, { hooks: { ping } });
  const { code, stderr } = await machine.run(["backup"]);
  expect(code).toBe(0);
  const authorization = `Basic ${Buffer.from("hub@home:päss:1").toString("base64")}`;
  expect(pings).toEqual([
    { path: "/ping/secret-part/start", body: { operation: "backup" }, authorization },
    {
      ...{ path: "/ping/secret-part", body: { operation: "backup", exit_code: 0 } },
      authorization,
    },
  ]);
  expect(stderr).toContain("of the backup: HTTP status 404");
  expect(stderr).not.toMatch(/secret-part|hub@|hub%40|p%C3|päss/);
});

test("a program that is not executable, and hooks that are not understood, are named", async () => {
  const machine = await machineWithBackup();
  await writeFile(machine.path("plain.txt"), "");
  await set(machine, { hooks: { success: [machine.path("plain.txt")] } });
  const run = await machine.run(["backup"]);
  expect([run.code, run.stderr]).toEqual([0, expect.stringMatching(/plain\.txt could not run: /)]);
  for (const [hooks, problem] of [
    [{ success: ["relative.sh"] }, "hooks.success.0: must be an absolute path"],
    [{ success: "/bin/true" }, "hooks.success: "],
    [{ ping: "ftp://example.org" }, "hooks.ping: must be an http or https URL"],
    [{ after: ["/bin/true"] }, "unknown key hooks.after"],
  ] as const) {
    await set(machine, { hooks });
    const { code, stderr } = await machine.run(["backup"]);
    expect([code, stderr]).toEqual([2, expect.stringContaining(problem)]);
  }
});

test("the metrics are what promtool accepts, and follow each run", async () => {
  const machine = await machineWithBackup();
  await mkdir(machine.path("collector"));
  const file = machine.path("collector", "hivemind.prom");
  const wrongName = await machine.run(["metrics", "install", machine.path("collector", "x.txt")]);
  expect([wrongName.code, wrongName.stderr]).toEqual([2, expect.stringContaining(".prom")]);
  expect(await machine.run(["metrics", "install", file])).toMatchObject({ code: 0 });
  expect((await stat(file)).mode & 0o777).toBe(0o644);
  expect(await readFile(file, "utf8")).not.toContain('operation="backup"');

  const { document } = await machine.json("backup");
  const { size } = document.backup as { size: number };
  expect((await machine.run(["prune", machine.path("backups")])).code).toBe(2);
  const text = await readFile(file, "utf8");
  const labels = `store="${machine.store}"`;
  expect(text).toContain(`hivemind_sqlcipher_encrypted{${labels}} 1\n`);
  expect(text).toContain(`hivemind_sqlcipher_run_bytes{${labels},operation="backup"} ${size}\n`);
  expect(text).toContain(`hivemind_sqlcipher_run_exit_code{${labels},operation="backup"} 0\n`);
  expect(text).toContain(`hivemind_sqlcipher_run_exit_code{${labels},operation="prune"} 2\n`);
  expect(text).toMatch(/^hivemind_sqlcipher_findings\{.*severity="error"\} \d+$/m);
  const { status, stdout, stderr } = spawnSync("promtool", ["check", "metrics"], {
    input: text,
    encoding: "utf8",
  });
  expect([status, stdout, stderr]).toEqual([0, "", ""]);

  expect((await machine.run(["status"])).stdout).toMatch(/^failed +prune, .*, exit code 2$/m);
  expect((await machine.run(["status", "--format", "prometheus"])).stdout).toContain(
    `hivemind_sqlcipher_run_exit_code{${labels},operation="prune"} 2\n`,
  );

  expect(await machine.run(["metrics", "remove"])).toMatchObject({ code: 0 });
  await expect(stat(file)).rejects.toThrow("ENOENT");
  expect(await machine.run(["metrics", "remove"])).toMatchObject({ code: 10 });
});
