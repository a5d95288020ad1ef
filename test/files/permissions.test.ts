/**
 * Who may read and write what this project makes: its user alone, whatever umask it was started
 * with.
 */
import { execFileSync } from "node:child_process";
import { chmodSync, chownSync, lstatSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { chmod, chown, mkdir, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { expect, onTestFinished, test } from "vitest";
import { deleteEntry, getEntry, listEntries } from "../../src/keys/keyring.js";
import { root } from "../built.js";
import { Machine } from "../cli/machine.js";
import { report } from "../prove-report.js";
import { alone, init, newestIn } from "./machine.js";
import { asNobody, isRoot, nobody, openToNobody } from "./others.js";

async function machineOf(): Promise<Machine> {
  const machine = await Machine.make();
  onTestFinished(async () => {
    for (const path of [machine.store, machine.path("beside.db")]) {
      for (const { slot } of await listEntries(path)) await deleteEntry(path, slot);
    }
  });
  return machine;
}

test("whatever the umask, nothing that is made can be used by others", async () => {
  const machine = await machineOf();
  execFileSync("mkdir", ["-m", "700", machine.path("safe")]);
  const before = ["/bin/sh", "-c", 'umask 000; exec "$@"', "sh"];
  const run = async (...args: string[]) => {
    const { code, stderr } = await machine.run(args, { before });
    expect(`${args[0]}: ${code} ${code === 0 ? "" : stderr}`).toBe(`${args[0]}: 0 `);
  };
  await run(...init(machine));
  await run("add-client", "--name", "kitchen");
  await run("backup", "--service", "none");
  await run("export-clients", "--path", machine.path("list.csv"));
  await run(
    "bundle",
    "print",
    newestIn(machine, "bundles", ".age"),
    "-o",
    machine.path("sheet.html"),
  );
  await run("rotate", ...alone, "--keep-previous");
  await run("restore", newestIn(machine, "backups", ".db"), ...alone, "--yes");
  await run(
    ...["restore", newestIn(machine, "backups", ".db"), ...alone],
    ...["--to", machine.path("beside.db"), "--yes"],
  );
  const open: string[] = [];
  let count = 0;
  for (const entry of readdirSync(machine.folder, { recursive: true, withFileTypes: true })) {
    const path = join(entry.parentPath, entry.name);
    const mode = lstatSync(path).mode & 0o777;
    count += 1;
    if (mode !== (entry.isDirectory() ? 0o700 : 0o600)) open.push(`${mode.toString(8)} ${path}`);
  }
  report("umask 000: files and folders made", count, open.length);
  expect(count).toBeGreaterThan(15);
  expect(open).toEqual([]);
});

test.runIf(isRoot)(
  "at no step of an operation can another user read, change, or look into anything",
  async () => {
    const machine = await machineOf();
    execFileSync("mkdir", ["-m", "700", machine.path("safe")]);
    await machine.run(init(machine));
    const passphrase = (await getEntry(machine.store, "current")) ?? "none";
    // As wide as a hub makes its folders, or a careless owner: what is in them has to protect
    // itself.
    execFileSync("find", [machine.folder, "-type", "d", "-exec", "chmod", "755", "{}", ";"]);
    const seen = machine.path("seen");
    writeFileSync(seen, "");
    chmodSync(seen, 0o666);
    const probe = `
for file in environ mem maps auxv fd/0 fd/3 cwd/x root/etc/passwd; do
  if (head -c 1 /proc/$0/$file) >/dev/null 2>&1; then echo "looked into $file of the process" >>"$1"; fi
done
cat /proc/$0/cmdline >>"$1.said" 2>/dev/null
if kill -0 $0 2>/dev/null; then echo "could signal the process" >>"$1"; fi
find "$2" '(' -type f '(' -readable -o -writable ')' -o -type d -writable ')' ! -path "$1*" -print >>"$1" 2>/dev/null
echo . >>"$1.steps"`;
    for (const name of [`${seen}.said`, `${seen}.steps`]) {
      writeFileSync(name, "");
      chmodSync(name, 0o666);
    }
    const script = machine.path("probe.sh");
    writeFileSync(script, probe, { mode: 0o644 });
    const line = [
      ...asNobody,
      "sh",
      "-c",
      `"$(cat ${script})"`,
      "$PPID",
      seen,
      machine.folder,
    ].join(" ");
    const steps = (operation: string, names: string[]) => ({
      NODE_OPTIONS: `--import=${root}test/faults/at-step.mjs`,
      HIVEMIND_TEST_AT_STEP: JSON.stringify(
        Object.fromEntries(names.map((name) => [`${operation}.${name}`, line])),
      ),
    });
    const backup = await machine.run(["backup", "--service", "none"], {
      env: steps("backup", ["bundled", "warm", "copied", "verified", "claimed", "committed"]),
    });
    expect(backup.code).toBe(0);
    const rotate = await machine.run(["rotate", ...alone], {
      env: steps("rotate", ["pending-kept", "staged", "bundled", "filled", "aside", "renamed"]),
    });
    expect(rotate.code).toBe(0);
    const probes = readFileSync(`${seen}.steps`, "utf8").split("\n").length - 1;
    const found = readFileSync(seen, "utf8")
      .split("\n")
      .filter((path) => path !== "" && path !== script);
    report("another user at each step: files, /proc, signals", probes, found.length);
    expect(probes).toBeGreaterThanOrEqual(10);
    expect(found).toEqual([]);
    expect(readFileSync(`${seen}.said`, "latin1")).not.toContain(passphrase);
    expect(
      openToNobody(machine.folder).filter((path) => !path.startsWith(seen) && path !== script),
    ).toEqual([]);
  },
);

test.runIf(isRoot)(
  "settings that another user owns or can change are not obeyed, as they name commands",
  async () => {
    const machine = await machineOf();
    const settings = machine.path("config", "hivemind-sqlcipher", "config.json");
    await mkdir(machine.path("config", "hivemind-sqlcipher"), { recursive: true });
    const marker = machine.path("ran");
    await writeFile(settings, JSON.stringify({ passphrase_source: `command:touch ${marker}` }));
    const run = () => machine.run(["list-clients"]);
    const refused: (number | null)[] = [];
    await chmod(settings, 0o644);
    await chown(settings, nobody, nobody);
    refused.push((await run()).code);
    await chown(settings, 0, 0);
    for (const mode of [0o664, 0o646, 0o666]) {
      await chmod(settings, mode);
      const { code, stderr } = await run();
      refused.push(code);
      expect(stderr).toMatch(/chmod go-w/);
    }
    report("settings that others can change", 4, refused.filter((code) => code !== 17).length);
    expect(refused).toEqual([17, 17, 17, 17]);
    expect(readdirSync(machine.folder)).not.toContain("ran");
    chownSync(settings, 0, 0);
    await chmod(settings, 0o644);
    expect((await run()).code).toBe(10);
  },
);
