/**
 * Exports to offline media: what the directory holds, that its own README.txt opens the backup with
 * nothing but Python, and what is left when the medium is full, faulty or the wrong one.
 */
import { execFile, execFileSync } from "node:child_process";
import { chmod, cp, mkdir, readdir, readFile, rm, symlink, writeFile } from "node:fs/promises";
import { basename, dirname, join } from "node:path";
import { promisify } from "node:util";
import { armor } from "age-encryption";
import { afterAll, beforeAll, describe, expect, onTestFinished, test } from "vitest";
import { manifestPath } from "../../src/backup/manifest.js";
import { encodeLetters, splitIntoLines } from "../../src/bundle/paper.js";
import { root } from "../built.js";
import { temporaryFolder } from "../store/temporary.js";
import { flipByte, Original, passphrase } from "./backups.js";

const exec = promisify(execFile);

interface Exported {
  path: string;
  backup: string;
  parts: number;
  device_label: string | null;
  files: { name: string; size: number; sha256: string }[];
}

/** The beginning of the command of README.txt that reads the clients. */
const readClients = 'python3 -c "import sqlite3';

let original: Original;

beforeAll(async () => {
  original = await Original.make();
});

afterAll(() => original.remove());

async function newDirectory(): Promise<string> {
  const path = original.newPath();
  await mkdir(path);
  return path;
}

async function exportTo(directory: string, ...args: string[]): Promise<Exported> {
  const { code, document } = await original.machine.json("export", "--to", directory, ...args);
  expect({ code, document }).toMatchObject({ code: 0 });
  return document.export as Exported;
}

async function mountTmpfs(options: string): Promise<string> {
  const path = await newDirectory();
  execFileSync("mount", ["-t", "tmpfs", "-o", options, "tmpfs", path]);
  onTestFinished(() => void execFileSync("umount", ["-l", path]));
  return path;
}

/**
 * A machine with only Python and what the medium's README names: no site-packages, no environment,
 * and a directory in the place of /dev/shm.
 */
class BareMachine {
  private constructor(
    private readonly medium: string,
    readonly memory: string,
    readonly home: string,
    private readonly bin: string,
  ) {}

  static async make(medium: string): Promise<BareMachine> {
    const folder = await temporaryFolder();
    const [memory = "", home = "", bin = ""] = ["memory", "home", "bin"].map((name) =>
      join(folder, name),
    );
    for (const path of [memory, home, bin]) await mkdir(path);
    // Nothing else of the machine's software is in the PATH.
    for (const name of ["sha256sum", "age", "rm", "cat", "mktemp", "mv", "cp", "setsid", "sh"]) {
      await symlink(
        (await exec("sh", ["-c", `command -v ${name}`])).stdout.trim(),
        join(bin, name),
      );
    }
    const { stdout } = await exec("python3", ["-c", "import sys; print(sys.executable)"]);
    await writeFile(join(bin, "python3"), `#!/bin/sh\nexec ${stdout.trim()} -S -E "$@"\n`);
    await chmod(join(bin, "python3"), 0o755);
    return new BareMachine(medium, memory, home, bin);
  }

  /** Returns the commands of README.txt, which are its lines indented by four. */
  async commands(): Promise<string[]> {
    const readme = await readFile(join(this.medium, "README.txt"), "utf8");
    return [...readme.matchAll(/^ {4}(\S.*)$/gm)].map(([, command = ""]) => command);
  }

  async command(start: string): Promise<string> {
    const found = (await this.commands()).find((command) => command.startsWith(start));
    if (found === undefined) throw new Error(`README.txt has no command ${start}`);
    return found;
  }

  async run(command: string, input?: string): Promise<string> {
    const script = command.replaceAll("/dev/shm", this.memory).replaceAll("~", this.home);
    // Without a terminal, Python reads a passphrase from standard input.
    const args = ["-i", `PATH=${this.bin}`, "setsid", "--wait", "sh", "-ec", script];
    const running = exec("env", args, { cwd: this.medium });
    // A script that reads no input may have ended.
    running.child.stdin?.on("error", () => undefined).end(input ?? "");
    return (await running).stdout;
  }
}

async function withSecrets(medium: string): Promise<BareMachine> {
  const bare = await BareMachine.make(medium);
  await cp(original.bundle, join(bare.memory, basename(original.bundle)));
  const key = original.machine.path("safe", "recovery-key.txt");
  await cp(key, join(bare.memory, "recovery-key.txt"));
  return bare;
}

describe.each([
  { form: "in one file", args: [], parts: 1 },
  { form: "in parts", args: ["--split", "5k"], parts: 3 },
])("exported $form", ({ args, parts }) => {
  let exported: Exported;
  let name: string;

  beforeAll(async () => {
    exported = await exportTo(await newDirectory(), ...args);
    name = basename(original.backup);
  });

  test("the directory holds what its list names, and no secret", async () => {
    const { path, backup, files } = exported;
    expect(backup).toBe(original.backup);
    expect(basename(path)).toBe(name.replace(/\.db$/, ""));
    expect(await readdir(dirname(path))).toEqual([basename(path)]);
    expect(exported.parts).toBe(parts);
    const numbers = Array.from({ length: parts }, (_, index) => `.00${index + 1}`);
    const backupFiles = parts === 1 ? [name] : numbers.map((number) => `${name}${number}`);
    expect(files.map((file) => file.name)).toEqual([
      ...[...backupFiles, basename(manifestPath(name)), "open_backup.py", "formats.md"],
      ...["README.txt", "SHA256SUMS"],
    ]);
    expect(await readdir(path)).toEqual(files.map((file) => file.name).toSorted());
    const contents = await Promise.all(backupFiles.map((file) => readFile(join(path, file))));
    expect(Buffer.concat(contents)).toEqual(await readFile(original.backup));
    for (const file of files) {
      const text = await readFile(join(path, file.name), "latin1");
      expect(text).not.toContain(passphrase);
      expect(text).not.toMatch(/AGE-SECRET-KEY-1\w|BEGIN AGE ENCRYPTED FILE-----\n\w/);
    }
  });

  test("the steps of README.txt open it with Python, the bundle and the recovery key", async () => {
    const bare = await withSecrets(exported.path);
    expect(await bare.run(await bare.command("sha256sum"))).not.toContain("FAILED");
    await bare.run(await bare.command("python3 open_backup.py"));
    expect(await bare.run(await bare.command(readClients))).toMatch(/^\(1, '.*', '[0-9a-f]{32}'\)/);
    await bare.run(await bare.command("rm "));
    expect(await readdir(bare.memory)).toEqual([basename(original.bundle)]);
  });

  test("they open it with a bundle that was typed from a sheet, whatever the length of its lines", async () => {
    const bare = await withSecrets(exported.path);
    const bundle = join(bare.memory, basename(original.bundle));
    const bytes = armor.decode(await readFile(bundle, "utf8"));
    const decode = await bare.command('python3 -c "import base64');
    for (const length of [46, 50, 54]) {
      const lines = splitIntoLines(encodeLetters(bytes), length).slice(0, -1);
      await writeFile(
        join(bare.memory, "typed"),
        lines.map(({ letters }) => `${letters}\n`).join(""),
      );
      await rm(bundle);
      await bare.run(decode.replace("TYPED", "/dev/shm/typed"));
      expect(await readFile(bundle)).toEqual(Buffer.from(bytes));
    }
    await bare.run(await bare.command("python3 open_backup.py"));
    expect(await bare.run(await bare.command(readClients))).toMatch(/^\(1, /);
  });

  test("a hub reads the database, also if its former one was left with a log", async () => {
    const bare = await withSecrets(exported.path);
    await bare.run(await bare.command("python3 open_backup.py"));
    const store = join(bare.home, ".local/share/hivemind-core/clients.db");
    await mkdir(dirname(store), { recursive: true });
    const write = ["PRAGMA journal_mode = WAL", "CREATE TABLE clients (client_id, name, api_key)"];
    await bare.run(
      `python3 -c "import os, sqlite3; db = sqlite3.connect('${store}')
for statement in ${JSON.stringify(write).replaceAll('"', "'")}: db.execute(statement)
os._exit(0)"`,
    );
    expect(await readdir(dirname(store))).toContain("clients.db-wal");
    // Also a second time, as after a rehearsal.
    const replace = await bare.command("old=");
    for (const _ of ["a rehearsal", "the day"]) await bare.run(replace);
    const read = (await bare.command(readClients)).replace("/dev/shm/clients.db", store);
    expect(await bare.run(read)).toMatch(/^\(1, /);
    const kept = (await readdir(bare.home)).filter((name) => name.startsWith("former-clients."));
    const contents = await Promise.all(kept.map((name) => readdir(join(bare.home, name))));
    expect(contents.flat().filter((name) => name === "clients.db")).toHaveLength(2);
    expect(contents.flat()).toContain("clients.db-wal");
  });

  test("they open it with the passphrase that age shows, typed", async () => {
    const bare = await withSecrets(exported.path);
    const shown = JSON.parse(await bare.run(await bare.command("age "))) as { passphrase: string };
    const open = await bare.command("python3 open_backup.py");
    await bare.run(open.replace(/ --bundle.*/, ""), `${shown.passphrase}\n`);
    expect(await bare.run(await bare.command(readClients))).toMatch(/^\(1, /);
    await expect(
      bare.run(open.replace(/ --bundle.*/, "").replace("clients.db", "other.db"), "wrong\n"),
    ).rejects.toMatchObject({ code: 1 });
    expect(await readdir(bare.memory)).not.toContain("other.db");
  });

  test("a changed byte is found by sha256sum and by the script", async () => {
    const medium = join(await temporaryFolder(), "medium");
    await cp(exported.path, medium, { recursive: true });
    const [first = ""] = exported.files.map((file) => file.name);
    await flipByte(join(medium, first));
    const bare = await withSecrets(medium);
    await expect(bare.run(await bare.command("sha256sum"))).rejects.toMatchObject({ code: 1 });
    await expect(bare.run(await bare.command("python3 open_backup.py"))).rejects.toMatchObject({
      stderr: expect.stringContaining("sha256"),
    });
    expect(await readdir(bare.memory)).not.toContain("clients.db");
  });

  test("verify and restore read it, and so they do as README.txt has it", async () => {
    const { machine } = original;
    const backup = join(exported.path, name);
    expect((await machine.json("verify", backup)).document).toMatchObject({
      ...{ path: backup, ok: true },
    });
    const bare = await withSecrets(exported.path);
    const [, restore, file, ...rest] = (await bare.command("hivemind-sqlcipher"))
      .replaceAll("/dev/shm", bare.memory)
      .split(" ");
    const to = original.newPath();
    const { code, stdout, stderr } = await machine.run([
      ...[restore ?? "", join(exported.path, file ?? ""), ...rest],
      ...["--to", to, "--service", "none", "--hub", "none", "--yes"],
    ]);
    expect({ code, stderr }).toMatchObject({ code: 0 });
    expect(stdout).toContain(`from ${backup}`);
    expect(await readdir(exported.path)).not.toContain(parts === 1 ? `${name}.001` : name);
  });
});

test("the parts that README.txt joins are the backup", async () => {
  const { path } = await exportTo(await newDirectory(), "--split", "8K");
  const bare = await withSecrets(path);
  await bare.run(await bare.command("cat "));
  const joined = join(bare.memory, basename(original.backup));
  expect(await readFile(joined)).toEqual(await readFile(original.backup));
});

test("parts are exported again, and each message names them, not their temporary copy", async () => {
  const { path } = await exportTo(await newDirectory(), "--split", "8K");
  const parts = join(path, basename(original.backup));
  const args = ["export", parts, "--to", await newDirectory(), "--verbose"];
  const { code, stderr } = await original.machine.run(args);
  expect([code, stderr]).toEqual([0, expect.stringContaining(`copied ${parts}, and compared`)]);
});

test("a missing part is found", async () => {
  const { path, files } = await exportTo(await newDirectory(), "--split", "5K");
  const medium = join(await temporaryFolder(), "medium");
  await cp(path, medium, {
    recursive: true,
    filter: (from) => !from.endsWith(files[2]?.name ?? "none"),
  });
  const { code } = await original.machine.run(["verify", join(medium, basename(original.backup))]);
  expect(code).toBe(14);
  const bare = await withSecrets(medium);
  await expect(bare.run(await bare.command("python3 open_backup.py"))).rejects.toMatchObject({
    stderr: expect.stringContaining("size"),
  });
});

test("an older backup is exported with its bundle, and the newest by default", async () => {
  const local = await original.backups(1, 2);
  const { machine } = original;
  const older = await exportTo(await newDirectory(), local.path(1));
  expect(older.backup).toBe(local.path(1));
  const key = machine.path("safe", "recovery-key.txt");
  const medium = await newDirectory();
  const { code, stdout } = await machine.run(
    ["export", local.path(2), "--to", medium, "--bundle", original.bundle, "-i", key],
    { env: { DBUS_SESSION_BUS_ADDRESS: "unix:path=/nonexistent" } },
  );
  expect(code).toBe(0);
  expect(stdout).toContain(`Exported and compared: ${medium}/`);
  expect(stdout).toContain("keep them elsewhere");
});

/** Exports with a preloaded script, in which `promises` are the functions of files. */
async function exportWith(script: string, medium: string) {
  const path = join(await temporaryFolder(), "preload.cjs");
  const text = `const promises = require("node:fs/promises");\n${script}\n`;
  await writeFile(path, `${text}require("node:module").syncBuiltinESMExports();\n`);
  const env = { NODE_OPTIONS: `--require ${path}` };
  return await original.machine.run(["export", "--to", medium], { env });
}

test.each(["ENOSYS", "EPERM", "ENOTSUP"])(
  "on a medium without modes, where chmod fails with %s, the files have those of the mount",
  async (code) => {
    const medium = await newDirectory();
    const failing = `const { open } = promises;
    promises.open = async (path, ...args) => {
      const file = await open(path, ...args);
      if (!String(path).startsWith(${JSON.stringify(medium)})) return file;
      if (args[0] !== "r") await file.chmod(MODE);
      file.chmod = async () => { throw Object.assign(new Error("chmod"), { code: "${code}" }); };
      return file;
    };`;
    const tooNarrow = await exportWith(failing.replace("MODE", "0o400"), medium);
    expect([tooNarrow.code, await readdir(medium)]).toEqual([18, []]);
    expect((await exportWith(failing.replace("MODE", "0o700"), medium)).code).toBe(0);
    const [name = ""] = await readdir(medium);
    execFileSync("sha256sum", ["-c", "SHA256SUMS"], { cwd: join(medium, name) });
  },
);

describe("a refused or failed export leaves nothing", () => {
  async function refused(directory: string, expected: number, ...args: string[]) {
    const before = await readdir(directory);
    const { code, document } = await original.machine.json("export", "--to", directory, ...args);
    expect({ code, document }).toMatchObject({ code: expected });
    expect(await readdir(directory)).toEqual(before);
    return (document.error as { message: string }).message;
  }

  test("in, around or beside the bundles", async () => {
    const bundles = original.machine.path("bundles");
    const inside = join(bundles, "inside");
    await mkdir(inside);
    for (const directory of [bundles, inside, original.machine.folder]) {
      expect(await refused(directory, 17)).toContain(`bundles are kept in ${bundles}`);
    }
  });

  test("if it is there already", async () => {
    const medium = await newDirectory();
    const { path } = await exportTo(medium);
    expect(await refused(medium, 17)).toBe(`file exists: ${path}`);
  });

  test("on a full medium, by the free space and while writing", async () => {
    expect(await refused(await mountTmpfs("size=64k"), 18)).toContain("no space left on device");
    // Few inodes: the free space suffices.
    expect(await refused(await mountTmpfs("size=4m,nr_inodes=4"), 18)).toContain(
      "no space left on device",
    );
  });

  test("on a medium whose driver loses the contents of a renamed directory", async () => {
    const medium = await newDirectory();
    const { code, stderr } = await exportWith(
      `promises.rename = async (from, to) => {
        await promises.rm(from, { recursive: true });
        await promises.mkdir(to);
      };`,
      medium,
    );
    expect([code, stderr]).toEqual([14, expect.stringMatching(/lost clients\..*\.db when it got/)]);
    expect(await readdir(medium)).toEqual([]);
  });

  test("on a medium that holds no file of this size, which --split helps", async () => {
    const medium = await newDirectory();
    const { code, stderr } = await exportWith(
      `const { open } = promises;
      promises.open = async (path, ...args) => {
        const file = await open(path, ...args);
        if (!String(path).startsWith(${JSON.stringify(medium)})) return file;
        file.write = async () => {
          throw Object.assign(new Error("EFBIG"), { code: "EFBIG" });
        };
        return file;
      };`,
      medium,
    );
    expect([code, stderr]).toEqual([18, expect.stringContaining("--split 2G")]);
    expect(await readdir(medium)).toEqual([]);
  });

  test("on a read-only medium", async () => {
    expect(await refused(await mountTmpfs("ro"), 18)).toContain("read-only file system");
  });

  test("of a damaged backup", async () => {
    const local = await original.backups(1);
    await flipByte(local.path(1));
    const message = await refused(await newDirectory(), 14, local.path(1));
    expect(message).toContain(`${local.path(1)} does not verify`);
  });

  test("with wrong arguments", async () => {
    const medium = await newDirectory();
    expect(await refused(medium, 2, "--split", "much")).toContain('"much" is not a size');
    expect(await refused(medium, 2, "--split", "0")).toContain('"0" is not a size');
    expect(await refused(medium, 2, "--split", "10")).toContain("at most 999");
    expect(await refused(medium, 10, `${original.backup}.none`)).toContain("no such file");
    expect((await original.machine.run(["export"])).code).toBe(2);
    const missing = original.newPath();
    const { code, stderr } = await original.machine.run(["export", "--to", missing]);
    expect(code).toBe(18);
    expect(stderr).toContain(`cannot export to ${missing}: no such file or directory`);
  });

  test.each([
    { signal: "SIGINT", step: "export.copied", code: 130, left: [] },
    ...["export.copied", "export.written"].map((step) => ({
      ...{ signal: "SIGKILL", step, code: null },
      left: [expect.stringMatching(/^\..*\.partial$/)],
    })),
  ])("at $signal, $step", async ({ signal, step, code, left }) => {
    const medium = await newDirectory();
    const answer = await original.machine.run(["export", "--to", medium], {
      env: {
        NODE_OPTIONS: `--import=${root}test/faults/kill-at-step.mjs`,
        ...{ HIVEMIND_TEST_STEP: step, HIVEMIND_TEST_SIGNAL: signal },
      },
    });
    expect(answer.code).toBe(code);
    expect(await readdir(medium)).toEqual(left);
    await exportTo(medium);
  });
});

test("--device-label accepts only the device with this label", async () => {
  const [image, medium] = [original.newPath(), await newDirectory()];
  const sh = (script: string) => execFileSync("sh", ["-ec", script, image, medium]);
  sh('truncate -s 8M "$0"; mkfs.ext4 -q -L "hub usb" "$0"; mount -o loop "$0" "$1"');
  onTestFinished(() => void sh('umount -l "$1"'));
  const device = sh('losetup -j "$0" | cut -d: -f1').toString().trim();
  const other = await newDirectory();
  // A /dev of its own, in which udev has named the device.
  const before = [
    ...["unshare", "--mount", "sh", "-ec"],
    `mkdir -p "$0"; mount --rbind /dev "$0"; mount -t tmpfs tmpfs /dev
    for name in null zero random urandom ${basename(device)} vda sda; do
      [ ! -e "$0/$name" ] || { touch /dev/$name; mount --bind "$0/$name" /dev/$name; }
    done
    mkdir -p /dev/shm /dev/disk/by-label
    ln -s ${device} '/dev/disk/by-label/hub\\x20usb'
    exec "$@"`,
    original.newPath(),
  ];
  const run = (directory: string, label: string) =>
    original.machine.run(["export", "--to", directory, "--device-label", label, "--json"], {
      before,
    });
  const wrong = await run(other, "hub usb");
  expect(wrong).toMatchObject({ code: 17 });
  expect(wrong.stdout).toContain(`${other} is not on the device with the label`);
  const unknown = await run(medium, "hub");
  expect(unknown).toMatchObject({ code: 17 });
  expect(unknown.stdout).toContain("no connected device has the label");
  expect(await readdir(medium)).toEqual(["lost+found"]);
  const right = await run(medium, "hub usb");
  expect(right).toMatchObject({ code: 0 });
  const { path, device_label } = JSON.parse(right.stdout).export as Exported;
  expect(device_label).toBe("hub usb");
  expect(await readFile(join(path, "README.txt"), "utf8")).toContain('Medium:    "hub usb"\n');
});
