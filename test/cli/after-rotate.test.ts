/** What becomes of older backups after a rotation, and that each command names the way out. */
import { mkdir, readFile, rm, writeFile } from "node:fs/promises";
import { dirname } from "node:path";
import { expect, test, vi } from "vitest";
import { root } from "../built.js";
import { Machine } from "./machine.js";
import { onTerminal } from "./terminal.js";

const idle = ["--hub", "none", "--service", "none"];

test("after rotate, older backups open with the recovery key alone, and prune says why it leaves them", async () => {
  const machine = await Machine.make();
  await machine.init("--to", machine.path("backups"), "--bundle-to", machine.path("bundles"));
  await machine.run(["add-client"]);
  const { document } = await machine.json("backup", "--service", "none");
  const { backup, bundle } = document as Record<"backup" | "bundle", { path: string }>;
  const rotated = await machine.run(["rotate", ...idle]);
  expect(rotated.code).toBe(0);
  expect(rotated.stderr).toMatch(/--keep-previous or --reencrypt-backups .* back up now: /);
  const serverJson = machine.path("config", "hivemind-core", "server.json");
  await mkdir(dirname(serverJson));
  await writeFile(serverJson, '{"database": {"module": "hivemind-redis-db-plugin"}}');
  const left = await machine.run(["backup", "--service", "none"]);
  expect([left.code, left.stderr]).toEqual([
    0,
    expect.stringMatching(/^warning: the hub does not use \S+: its server\.json names \S+redis/m),
  ]);
  await rm(serverJson);
  const pruned = await machine.run(["prune", machine.path("backups"), "--keep-last", "1"]);
  expect(pruned.stdout).toContain(`unchanged     ${backup.path}: no known passphrase opens it`);
  expect(pruned.stderr).toMatch(/--keep-previous or --reencrypt-backups/);

  const key = ["--identity", machine.path("safe", "recovery-key.txt")];
  for (const command of [
    ["verify", backup.path],
    ["restore", backup.path, ...idle, "--yes"],
  ]) {
    const refused = await machine.run(command);
    expect(refused.code).toBe(12);
    expect(refused.stderr).toContain(`bundle is ${bundle.path}: add --identity FILE`);
    const opened = await machine.run([...command, ...key]);
    expect([opened.code, opened.stderr]).toEqual([0, expect.any(String)]);
  }
  expect((await machine.json("list-clients")).document.clients).toHaveLength(1);
  await rm(bundle.path);
  const without = await machine.run(["verify", backup.path, ...key]);
  expect([without.code, without.stderr]).toEqual([2, expect.stringContaining("Add --bundle FILE")]);
});

test("on a terminal, the recovery key is asked for where nothing else opens a backup or a bundle", async () => {
  const machine = await Machine.make();
  await machine.init("--to", machine.path("backups"), "--bundle-to", machine.path("bundles"));
  const { document } = await machine.json("backup", "--service", "none");
  const { backup, bundle } = document as Record<"backup" | "bundle", { path: string }>;
  expect((await machine.run(["rotate", ...idle])).code).toBe(0);
  const file = await readFile(machine.path("safe", "recovery-key.txt"), "utf8");
  const key = /^AGE-SECRET-KEY-.*$/m.exec(file)?.[0] ?? "";
  const question = `of the bundle ${bundle.path}: `;
  for (const [args, report] of [
    [["verify", backup.path], "intact"],
    [["verify", backup.path, "--bundle", bundle.path], "intact"],
    [["bundle", "show", bundle.path, "--show-passphrase"], "passphrase:"],
    [["restore", backup.path, ...idle, "--yes"], "Restored"],
    [["bundle", "import", bundle.path], "is already in the keyring"],
  ] as const) {
    const { code, screen } = await onTerminal(machine, [...args], [[question, `${key}\r`]]);
    expect([code, screen]).toEqual([0, expect.stringContaining(report)]);
    expect(screen).not.toContain(key);
  }
  const recipient = /age1\w+/.exec(file)?.[0] ?? "";
  for (const [answer, problem] of [
    [key.slice(0, -1) + (key.endsWith("Q") ? "P" : "Q"), "typing mistake"],
    [recipient, "a recipient was given"],
  ]) {
    const show = ["bundle", "show", bundle.path, "--show-passphrase"];
    const { code, screen } = await onTerminal(machine, show, [[question, `${answer}\r`]]);
    expect([code === 0, screen]).toEqual([false, expect.stringContaining(problem ?? "")]);
  }
});

/** Returns a machine with a client and a passphrase file. Another file has the next passphrase. */
async function withPassphraseFiles(): Promise<Machine> {
  const machine = await Machine.make();
  for (const name of ["old", "new"]) {
    await writeFile(machine.path(name), `correct horse of ${name}`, { mode: 0o600 });
  }
  await machine.init(
    ...["--passphrase-source", `file:${machine.path("old")}`],
    ...["--to", machine.path("backups"), "--bundle-to", machine.path("bundles")],
  );
  await machine.run(["add-client"]);
  return machine;
}

/** Rotates to the next passphrase, and runs a shell command after the commit. */
function rotateWith(machine: Machine, command: string) {
  const env = {
    NODE_OPTIONS: `--import=${root}test/faults/at-step.mjs`,
    HIVEMIND_TEST_AT_STEP: JSON.stringify({ "rotate.renamed": command }),
  };
  return machine.run(["rotate", ...idle, "--passphrase-file", machine.path("new")], { env });
}

/** Returns a store whose rotation to another passphrase file was killed after the commit. */
async function killedRotation(): Promise<{ machine: Machine; backup: string }> {
  const machine = await withPassphraseFiles();
  const { document } = await machine.json("backup", "--service", "none");
  expect((await rotateWith(machine, "kill")).code).toBeNull();
  return { machine, backup: (document as { backup: { path: string } }).backup.path };
}

test("a command that waits for a rotation, and the metrics after it, use the passphrase file that the rotation named", async () => {
  const machine = await withPassphraseFiles();
  const metrics = machine.path("hub.prom");
  expect((await machine.run(["metrics", "install", metrics])).code).toBe(0);
  await rm(metrics);
  const start = (command: string) => {
    const words = machine.line([command, "--json"]).map((word) => `'${word}'`);
    return `${words.join(" ")} >'${machine.path(command)}' 2>&1 &`;
  };
  // The step holds up the rotation until the commands have read the settings.
  const commands = ["list-clients", "status"].map(start).join(" ");
  const rotated = await rotateWith(machine, `${commands} sleep 1`);
  expect([rotated.code, rotated.stderr]).toEqual([0, expect.not.stringContaining("from now on")]);
  const read = (command: string) =>
    vi.waitFor(async () => JSON.parse(await readFile(machine.path(command), "utf8")), {
      timeout: 10_000,
    });
  expect((await read("list-clients")).clients).toHaveLength(1);
  expect(await read("status")).toMatchObject({ clients: { active: 1 }, problems: [] });
  expect(await readFile(metrics, "utf8")).toContain("hivemind_sqlcipher_clients");
  // The settings follow, but the variable does not.
  const again = await machine.run(["rotate", ...idle, "--passphrase-file", machine.path("old")], {
    env: { HIVEMIND_SQLCIPHER_PASSPHRASE_SOURCE: `file:${machine.path("new")}` },
  });
  const notice = `use --passphrase-source file:${machine.path("old")} from now on`;
  expect([again.code, again.stderr]).toEqual([0, expect.stringContaining(notice)]);
});

test("a backup uses the passphrase file that a rotation named before the backup got the lock", async () => {
  const machine = await withPassphraseFiles();
  const rotate = machine.line(["rotate", ...idle, "--passphrase-file", machine.path("new")]);
  // The hook runs before the rotation, too.
  const ifBackup = `grep -q '"operation":"backup"' || exit 0; exec "$0" "$@"`;
  const before = ["/bin/sh", "-c", ifBackup, ...rotate];
  const settings = machine.path("config", "hivemind-sqlcipher", "config.json");
  const read = async () => JSON.parse(await readFile(settings, "utf8"));
  await writeFile(settings, JSON.stringify({ ...(await read()), hooks: { before } }));
  const { code, stderr } = await machine.run(["backup", "--service", "none"]);
  expect([code, stderr]).toEqual([0, expect.any(String)]);
  expect((await read()).passphrase_source).toBe(`file:${machine.path("new")}`);
});

const toJson = ["--from", "hivemind-sqlcipher-db-plugin", "--to", "hivemind-json-db-plugin"];

test.each([
  ["list-clients"],
  ["backup", "--service", "none"],
  ["migrate", ...toJson],
  ["migrate", ...toJson, "--dry-run"],
])(
  "%s finishes a killed rotation, and uses the passphrase file that the rotation named",
  async (...command) => {
    const { machine } = await killedRotation();
    const { code, stderr } = await machine.run([...command]);
    expect([code, stderr]).toEqual([0, expect.stringContaining("finished the interrupted rotate")]);
  },
);

test("prune that finishes a killed rotation counts the backups like the next prune", async () => {
  const { machine, backup } = await killedRotation();
  const prune = ["prune", "--keep-last", "1", "--dry-run"];
  const first = await machine.run(prune);
  expect(first.stderr).toContain("finished the interrupted rotate");
  expect(first.stdout).toContain(`unchanged     ${backup}: no known passphrase opens it`);
  expect((await machine.run(prune)).stdout).toBe(first.stdout);
});

test("a source that cannot keep the previous passphrase is refused, and so are two keys of a bundle", async () => {
  const machine = await Machine.make();
  await writeFile(machine.path("passphrase"), "correct horse battery staple", { mode: 0o600 });
  const source = ["--passphrase-source", `file:${machine.path("passphrase")}`];
  await machine.init(
    "--to",
    machine.path("backups"),
    "--bundle-to",
    machine.path("bundles"),
    ...source,
  );
  const { document } = await machine.json("backup", "--service", "none");
  const refused = await machine.run(["rotate", "--keep-previous", ...idle]);
  expect([refused.code, refused.stderr]).toEqual([17, expect.stringContaining("only the keyring")]);
  const { path } = document.backup as { path: string };
  const keys = ["--identity", "key.txt", "--bundle-passphrase-file", machine.path("passphrase")];
  const both = await machine.run(["verify", path, ...keys]);
  expect([both.code, both.stderr]).toEqual([2, expect.stringContaining("exclude each other")]);
});
