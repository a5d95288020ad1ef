/** What a user or another program changes between setup and its undo, or while they work. */
import { execFile } from "node:child_process";
import { readdir, readFile, rm, writeFile } from "node:fs/promises";
import { join, relative } from "node:path";
import { promisify } from "node:util";
import { generateIdentity } from "age-encryption";
import { expect, test } from "vitest";
import { identify } from "../../src/store/cipher.js";
import { property } from "../service/units.js";
import {
  atSteps,
  breakHub,
  expectDone,
  installHub,
  jsonModule,
  killAt,
  repairHub,
  restarted,
} from "./hub.js";

const exec = promisify(execFile);
const store = "hivemind-sqlite-db-plugin with password";
const undo = ["setup", "--undo", "--yes"];

test("a JSON database that was changed after its copy is kept, by setup and by undo", async () => {
  const hub = await installHub();
  const { machine, server, unit } = hub;
  const data = machine.path("data", "hivemind-core");
  const json = machine.path("data", "hivemind-core", "clients.json");
  const names = async () => (await readdir(data)).filter((name) => name.includes("json"));
  const setup = ["setup", ...hub.options];

  // The hub is started on its former database during the copy, too: it is restarted then.
  const done = await machine.run([...setup, "--json"], {
    env: atSteps({
      "setup.copied": `systemctl --user start ${unit}`,
      "setup.backed-up": `echo >>'${json}'`,
    }),
  });
  expect([done.code, done.stderr]).toEqual([0, expect.stringContaining("so it was not removed")]);
  expect(JSON.parse(done.stdout).setup.plain_copy).toBe(json);
  const again = await machine.run(setup);
  expect([again.code, again.stdout]).toEqual([0, expect.stringContaining("Nothing to do")]);

  const text = await readFile(server, "utf8");
  await writeFile(server, text.replace(/(sqlite-db-plugin": \{)/, '$1"password": "another", '));
  const named = await machine.run(undo);
  expect([named.code, named.stderr]).toEqual([17, expect.stringContaining("with a password")]);
  await writeFile(server, text);

  // It cannot be replaced, which is found before the hub is stopped.
  const invocation = await property(unit, "InvocationID");
  await exec("mount", ["--bind", server, server]);
  expect((await machine.run(undo)).code).toBe(17);
  await exec("umount", [server]);
  expect(await property(unit, "InvocationID")).toBe(invocation);

  const staging = join(data, ".hivemind-sqlcipher-undo");
  const failedCopy = await machine.run(undo, {
    env: atSteps({ "migrate.compared": `rm '${staging}/clients.json'` }),
  });
  expect(failedCopy.code).toBe(18);
  expect(await readdir(data)).not.toContain(".hivemind-sqlcipher-undo");
  expect(await restarted(hub)).toBe(`${store} 5`);

  await breakHub(hub, "former exit");
  const failed = await machine.run(undo);
  expect([failed.code, failed.stderr]).toEqual([
    15,
    expect.stringContaining("the hub uses the encrypted store again"),
  ]);
  expect(await names()).toEqual([expect.stringMatching(/^clients\.json\.changed\./)]);
  expect(await restarted(hub)).toBe(`${store} 5`);

  await repairHub(hub);
  const held = await machine.run(undo, {
    env: atSteps({
      "undo.drop-in": `setsid tail -f '${machine.store}' >'${machine.path("tail")}' 2>&1 & echo $! >'${machine.path("pid")}'`,
    }),
  });
  expect([held.code, held.stderr]).toEqual([11, expect.stringContaining("is open in")]);
  expect(await restarted(hub)).toBe(`${jsonModule} 5`);
  await exec("kill", [(await readFile(machine.path("pid"), "utf8")).trim()]);
  expectDone(await machine.run(undo));
  expect(await restarted(hub)).toBe(`${jsonModule} 5`);
  expect(await names()).toHaveLength(2);
}, 480_000);

test("without a recovery key, or with that of another hub, the plain copy stays until a backup opens", async () => {
  const hub = await installHub();
  const { machine, recoveryKey } = hub;
  const backups = machine.path("backups");
  const recipient = "age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kg5sfn9aqmcac8p";
  const setup = ["setup", "--recipient", recipient, ...hub.options.toSpliced(1, 2)];
  const damaged = await machine.run(setup, {
    env: atSteps({ "setup.backed-up": `truncate -s 8192 '${backups}'/*.db` }),
  });
  expect([damaged.code, damaged.stderr]).toEqual([14, expect.stringContaining("is damaged")]);
  expect(await readdir(machine.path("data", "hivemind-core"))).toContain("clients.json");
  expect(await restarted(hub)).toBe(`${store} 5`);

  for (const name of await readdir(backups)) await rm(join(backups, name));
  await writeFile(recoveryKey, `${await generateIdentity()}\n`, { mode: 0o600 });
  const done = await machine.run([...setup, "--recovery-key-file", recoveryKey, "--json"]);
  expectDone(done);
  expect(JSON.parse(done.stdout).setup).toMatchObject({ backup: { tested: false }, outage: null });
  expect(await readdir(machine.path("data", "hivemind-core"))).not.toContain("clients.json");
}, 480_000);

test("a recovery key file is removed only if it was cut off, after the confirmation", async () => {
  const hub = await installHub();
  const { machine, recoveryKey } = hub;
  const setup = ["setup", ...hub.options];
  await killAt(hub, "setup.recorded", setup);
  await writeFile(recoveryKey, "a key of something else\n", { mode: 0o600 });
  const other = await machine.run(setup);
  expect([other.code, other.stderr]).toEqual([17, expect.stringContaining("exists already")]);

  const cutOff = `# Recovery key of the HiveMind store ${machine.store}\n# Opens`;
  await writeFile(recoveryKey, cutOff);
  expect((await machine.run(setup.filter((arg) => arg !== "--yes"))).code).toBe(2);
  expect(await readFile(recoveryKey, "utf8")).toBe(cutOff);
  expectDone(await machine.run(setup));
  expect(await readFile(recoveryKey, "utf8")).toMatch(/^AGE-SECRET-KEY-1\w{58}$/m);
}, 480_000);

test("undo moves no file over another, and writes no record again that is gone", async () => {
  const hub = await installHub();
  const { machine } = hub;
  expectDone(await machine.run(["setup", ...hub.options]));
  const config = machine.path("config", "hivemind-sqlcipher");
  const [record = ""] = (await readdir(config)).filter((name) => name.startsWith("setup-"));
  const [path, away] = [join(config, record), machine.path("record.json")];
  const settings = join(config, "config.json");
  const fromHome = `~/${relative(process.env.HOME ?? "", machine.folder)}/`;
  const text = await readFile(settings, "utf8");
  await writeFile(settings, text.replaceAll(`${machine.folder}/`, fromHome));
  const gone = await machine.run(undo, {
    env: atSteps({ "undo.backed-up": `mv ${path} ${away}` }),
  });
  expect([gone.code, gone.stderr]).toEqual([
    10,
    expect.stringContaining("the record of the setup"),
  ]);
  expect(await readdir(config)).not.toContain(record);
  expect(await restarted(hub)).toBe(`${store} 5`);

  await exec("mv", [away, path]);
  const takeNames = `now=$(date +%s)
  for i in $(seq 0 60); do
    echo kept >'${machine.store}'.undone.$(date -u -d "@$((now + i))" +%Y-%m-%dT%H-%M-%SZ)
  done`;
  const trace = machine.path("trace");
  const done = await machine.run([...undo, "--json"], {
    env: atSteps({ "undo.drop-in": takeNames }),
    before: ["strace", "-f", "-y", "--seccomp-bpf", "-e", "trace=rmdir,fsync", "-o", trace],
  });
  expectDone(done);
  // After a power failure the drop-in must not be there without its record.
  expect(await readFile(trace, "utf8")).toMatch(
    /rmdir\("(.*)\/[^/]*\.service\.d"\)(?:.*\n)*?.*fsync\(\d+<\1>/,
  );
  const { kept } = JSON.parse(done.stdout).undone;
  expect((await identify(kept.store)).format).toBe("sqlcipher");
  const { stdout } = await exec("sh", ["-c", `cat '${machine.store}'.undone.* | grep -cax kept`]);
  expect(stdout.trim()).toBe("61");
}, 240_000);
