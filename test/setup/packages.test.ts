/** The hub's own pip installs what an encrypted store needs, from the package index. */
import { execFile } from "node:child_process";
import { readdir, readFile, writeFile } from "node:fs/promises";
import { dirname, join } from "node:path";
import { promisify } from "node:util";
import { expect, test } from "vitest";
import { hubScript } from "../hub/support.js";
import { temporaryFolder } from "../store/temporary.js";
import { installHiveMind4, installHub } from "./hub.js";

const exec = promisify(execFile);

/** Returns an interpreter without packages until its pip was called, which interrupts setup. */
async function interruptingPython(folder: string): Promise<string> {
  const environment = join(folder, "venv");
  await exec("python3", ["-m", "venv", "--without-pip", environment]);
  const { stdout: packages } = await exec("sh", [
    "-c",
    `echo '${environment}'/lib/*/site-packages`,
  ]);
  const real = join(dirname(await hubScript("development")), "python");
  const interpreter = join(folder, "python");
  const called = join(folder, "called");
  await writeFile(
    interpreter,
    `#!/bin/sh
case "$*" in "-m pip install"*)
  flock --nonblock ${packages.trim()} true || echo locked >'${called}'
  setup=$PPID
  test "$(cat /proc/$setup/comm)" = flock && setup=$(ps -o ppid= $setup)
  kill -TERM $setup
  exit
esac
test -e '${called}' && exec '${real}' "$@"
exec '${environment}/bin/python' "$@"
`,
    { mode: 0o755 },
  );
  return interpreter;
}

test("interrupted while pip runs, setup ends when the packages are on the disk, and changes nothing else", async () => {
  const { machine, options, server } = await installHub();
  const before = await readFile(server, "utf8");
  const trace = machine.path("trace");
  const ended = await machine.run(
    [
      ...["setup", ...options, "--install-hub-packages"],
      ...["--hub-python", await interruptingPython(machine.folder)],
    ],
    { before: ["strace", "-f", "--seccomp-bpf", "-e", "trace=syncfs", "-o", trace] },
  );
  expect([ended.code, ended.stderr]).toEqual([130, expect.stringContaining("installing packages")]);
  expect(await readFile(trace, "utf8")).toMatch(/syncfs\(\d+\) += 0/);
  expect(await readFile(server, "utf8")).toBe(before);
  expect(await readdir(machine.folder)).not.toContain("backups");
});

test("setup installs the packages of HiveMind 4, and its hub serves from the encrypted store", async () => {
  const script = await installHiveMind4(join(await temporaryFolder(), "ovos"));
  const { machine, options, server } = await installHub({ script, isReal: true });
  const before = await readFile(server, "utf8");

  const refused = await machine.run(["setup", ...options]);
  expect([refused.code, refused.stderr]).toEqual([
    17,
    expect.stringContaining("--install-hub-packages"),
  ]);
  expect(await readFile(server, "utf8")).toBe(before);

  const done = await machine.run(["setup", ...options, "--install-hub-packages"]);
  expect([done.code, done.stderr]).toEqual([0, expect.stringContaining("installing packages")]);
  const { stdout } = await exec(join(dirname(script), "pip"), ["list", "--format=freeze"]);
  expect(stdout).toContain("sqlcipher3==");
  expect(stdout).toContain("hivemind-core==4.0.0");
  const { document } = await machine.json("list-clients");
  expect(document.clients).toHaveLength(5);

  const undone = await machine.run(["setup", "--undo", "--yes"]);
  expect([undone.code, await readFile(server, "utf8")]).toEqual([0, before]);
}, 480_000);
