import { readdirSync } from "node:fs";
import { chmod, chown, mkdir, mkdtemp, readFile, rm, symlink, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { findHubPython } from "../../src/hub/interpreter.js";
import { completesServerJson, probePackages } from "../../src/hub/probe.js";
import { hubScript } from "./support.js";

let folder: string;
beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), "interpreter-"));
});
afterEach(() => rm(folder, { recursive: true, force: true }));

describe("the hub's Python", () => {
  async function program(path: string, text: string): Promise<string> {
    const whole = join(folder, path);
    await mkdir(join(whole, ".."), { recursive: true });
    await writeFile(whole, text);
    await chmod(whole, 0o755);
    return whole;
  }

  test("is on the script's first line, with its options", async () => {
    const python = await program("bin/python3", "");
    const script = await program("bin/hivemind-core", `#!${python} -sP\nimport sys\n`);
    expect(await findHubPython({ args: [script, "listen"] })).toEqual([python, "-sP"]);
  });

  test("is found behind a symbolic link, on PATH, behind env, and in a unit's ExecStart", async () => {
    const python = await program("venv/bin/python3.11", "");
    const script = await program("venv/bin/hivemind-core", "#!/usr/bin/env python3.11\n");
    await mkdir(join(folder, "bin"));
    await symlink(script, join(folder, "bin/hivemind-core"));
    await mkdir(join(folder, "other/hivemind-core"), { recursive: true });
    const environment = { PATH: `${folder}/other:${folder}/bin:${folder}/venv/bin` };
    expect(await findHubPython({ environment })).toEqual([python]);
    const args = ["/usr/bin/hivemind-sqlcipher", "run", "--", join(folder, "bin/hivemind-core")];
    expect(await findHubPython({ args, environment })).toEqual([python]);
  });

  test("is found where its path is too long or has a space, as pip writes it then", async () => {
    const python = await program("a venv/bin/python", "");
    const long = `#!/bin/sh\n'''exec' "${python}" "$0" "$@"\n' '''\nimport sys\n`;
    const script = await program("hivemind-core", long);
    expect(await findHubPython({ args: [script] })).toEqual([python]);
    await writeFile(script, `#!/bin/sh\n'''exec' ${folder}/python3 "$0" "$@"\n' '''\n`);
    const plain = await program("python3", "");
    expect(await findHubPython({ args: [script] })).toEqual([plain]);
  });

  test("is the one that is named, by a command or by hand", async () => {
    const python = await program("bin/python3", "");
    expect(await findHubPython({ args: [python, "-m", "hivemind_core"] })).toEqual([python]);
    expect(await findHubPython({ hubPython: python })).toEqual([python]);
    for (const hubPython of ["", folder, join(folder, "none")]) {
      await expect(findHubPython({ hubPython })).rejects.toMatchObject({ kind: "usage" });
    }
  });

  test("is that of the hub's script in a shell command, a wrapper and an activated environment", async () => {
    const python = await program("venv/bin/python3", "");
    const other = await program("other/bin/python3", "");
    const script = await program("venv/bin/hivemind-core", `#!${python}\n`);
    await program("other/bin/hivemind-core", `#!${other}\n`);
    const environment = { PATH: `${folder}/other/bin` };
    const shell = (command: string) => ["/bin/sh", "-c", command];
    for (const args of [
      shell(`sleep 5; exec ${script} listen`),
      shell(`. ${folder}/venv/bin/activate && exec hivemind-core listen`),
      ["/usr/local/bin/hub.sh", "source", `${folder}/venv/bin/activate`, "hivemind-core", "listen"],
      [python, "-u", "-m", "hivemind_core", "listen"],
      [python, "-u", `${folder}/other/bin/hivemind-core`, "listen"],
      ["hivemind-sqlcipher", "run", "--hub-python", python, "--", "hivemind-core", "listen"],
    ]) {
      expect([args, await findHubPython({ args, environment })]).toEqual([args, [python]]);
    }
  });

  test("is not known where there is no such script, or it is something else", async () => {
    const script = await program("hivemind-core", "#!/bin/sh\nexec docker run hub\n");
    expect(await findHubPython({ args: [script] })).toBeUndefined();
    expect(await findHubPython({ args: ["docker", "run", "hub"] })).toBeUndefined();
    expect(await findHubPython({ environment: { PATH: `${folder}/none` } })).toBeUndefined();
  });
});

describe("what the hub can do", () => {
  test("the development line encrypts with a password and knows schema 2", async () => {
    const python = await findHubPython({ args: [await hubScript("development")] });
    expect(await probePackages(python ?? ["none"])).toEqual({
      pluginManager: expect.stringMatching(/^0\.10\./),
      sqlitePlugin: expect.stringMatching(/^0\.4\./),
      schemaVersion: 2,
      writtenSchema: 2,
      cipherVersion: expect.stringMatching(/^4\./),
      takesPassword: true,
      problem: null,
      paths: expect.arrayContaining([expect.stringContaining("site-packages")]),
    });
  });

  test("the released line takes a password, ignores it, and knows no schema", async () => {
    const python = await findHubPython({ args: [await hubScript("released")] });
    expect(await probePackages(python ?? ["none"])).toMatchObject({
      sqlitePlugin: "0.2.1",
      schemaVersion: null,
      takesPassword: false,
      problem: null,
    });
  });

  test("only the development line writes to a server.json without a network_protocol", async () => {
    for (const line of ["released", "development"] as const) {
      const python = await findHubPython({ args: [await hubScript(line)] });
      expect(await completesServerJson(python ?? ["none"])).toBe(line === "development");
    }
  });

  test("is told apart from packages that do not work, or are not there", async () => {
    const python = await findHubPython({ args: [await hubScript("development")] });
    await writeFile(join(folder, "sqlcipher3.py"), "raise ImportError('a broken build')");
    const environment = { ...process.env, PYTHONPATH: folder };
    expect(await probePackages(python ?? ["none"], { environment })).toMatchObject({
      cipherVersion: null,
      takesPassword: false,
      problem: expect.stringMatching(/^ImportError: sqlcipher3 is required/),
    });
    expect(await probePackages(["/usr/bin/python3"])).toMatchObject({
      sqlitePlugin: null,
      problem: expect.stringContaining("No module named"),
    });
  });

  test("is asked without a trace in the user's folders or the temporary one", async () => {
    const python = await findHubPython({ args: [await hubScript("development")] });
    const environment = { ...process.env, HOME: folder, TMPDIR: folder, XDG_CONFIG_HOME: folder };
    await probePackages(python ?? ["none"], { environment });
    expect(readdirSync(folder)).toEqual([]);
  });

  test("one that gives no answer is an error, not a guess", async () => {
    await expect(probePackages(["/bin/true"])).rejects.toMatchObject({
      kind: "failed",
      message: expect.stringContaining("its output is not JSON"),
    });
    await expect(probePackages(["/bin/false"])).rejects.toThrow("it failed with exit code 1");
  });
});

describe("root and an interpreter that another user can change", () => {
  const nobody = 65534;

  test("root runs it as that user, and removes no file for it", async () => {
    const venv = join(folder, "venv");
    const victims = join(folder, "victims");
    await chmod(folder, 0o755);
    await mkdir(join(venv, "bin"), { recursive: true });
    await mkdir(victims);
    const names = Array.from({ length: 3000 }, (_, index) => `${index}`);
    await Promise.all(names.map((name) => writeFile(join(victims, name), "")));
    const python = join(venv, "bin", "python");
    await writeFile(
      python,
      `#!/usr/bin/python3
import os, sys, time
home = sys.argv[-1]
with open("${venv}/log", "w") as log:
    print(os.getuid(), os.getgid(), os.getgroups(), os.stat(home).st_uid, os.getcwd(), file=log)
os.mkdir(home + "/d")
for name in range(${names.length}):
    open(f"{home}/d/{name}", "w").close()
print("true", flush=True)
if os.fork() == 0:
    os.setsid()
    for descriptor in range(3):
        os.close(descriptor)
    end = time.time() + 5
    while time.time() < end and len(os.listdir(home + "/d")) == ${names.length}:
        pass
    os.rename(home + "/d", home + "/e")
    os.symlink("${victims}", home + "/d")
    time.sleep(1)
os._exit(0)
`,
      { mode: 0o755 },
    );
    await chown(venv, nobody, nobody);
    // The user's files may survive: the link appears while they are removed.
    await completesServerJson([python]).catch(() => undefined);
    expect(readdirSync(victims)).toHaveLength(names.length);
    const ids = `${nobody} ${nobody} [] ${nobody} /\n`;
    expect(await readFile(join(venv, "log"), "utf8")).toBe(ids);
  });

  test("a link, the packages or a variable of the user suffices", async () => {
    await chmod(folder, 0o755);
    const log = join(folder, "log");
    await writeFile(log, "");
    await chmod(log, 0o666);
    const python = join(folder, "venv/bin/python");
    const packages = join(folder, "venv/lib/python3.13/site-packages");
    const home = join(folder, "home");
    for (const each of [join(python, ".."), packages, home]) await mkdir(each, { recursive: true });
    await writeFile(python, `#!/bin/sh\nid -u >>${log}\necho true\n`, { mode: 0o755 });
    const ask = (program = python, more = {}) =>
      completesServerJson([program], { environment: { ...process.env, ...more } });
    await ask();
    await chown(packages, nobody, nobody);
    await ask();
    await chown(packages, 0, 0);
    await symlink(python, join(home, "python"));
    await chown(home, nobody, nobody);
    await ask(join(home, "python"));
    await ask(python, { PYTHONPATH: `/usr/lib:${home}` });
    await ask(python, { HOME: home });
    expect(await readFile(log, "utf8")).toBe(`0\n${`${nobody}\n`.repeat(4)}`);
    await chown(home, 54321, 54321);
    await expect(ask(python, { HOME: home })).rejects.toMatchObject({ kind: "refused" });
  });
});
