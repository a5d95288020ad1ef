/**
 * Each option that names a file or a directory, with one that cannot be read or written: the
 * documented exit code, the path and the reason, and nothing changed.
 */
import { execFile, execFileSync } from "node:child_process";
import { createHash } from "node:crypto";
import {
  chmod,
  copyFile,
  mkdir,
  mkdtemp,
  readdir,
  readFile,
  symlink,
  writeFile,
} from "node:fs/promises";
import { dirname, join } from "node:path";
import { promisify } from "node:util";
import { expect, onTestFinished, test } from "vitest";
import { alone, files, machine, readers } from "./files.js";

const run = promisify(execFile);

/** Root without its right to read and write every file, so with the rights of an ordinary user. */
const withoutOverride = [
  ...["setpriv", "--bounding-set=-dac_override,-dac_read_search", "--inh-caps=-all", "--"],
];

/** Every file of the machine with a checksum, apart from locks and caches. */
async function contents(): Promise<string[]> {
  const entries = await readdir(machine.folder, { recursive: true, withFileTypes: true });
  const lines = entries.map(async (entry) => {
    const path = join(entry.parentPath, entry.name);
    const isIgnored = /\.lock$|^special-|^state|-wal$|-shm$/.test(
      path.slice(machine.folder.length + 1),
    );
    if (isIgnored || !entry.isFile()) return isIgnored ? "" : `${path}/`;
    return `${path} ${createHash("sha256")
      .update(await readFile(path))
      .digest("hex")}`;
  });
  return (await Promise.all(lines)).filter(Boolean).sort();
}

test.each(readers)("$option: a file that this user cannot read", async (reader) => {
  const special = await mkdtemp(machine.path("special-"));
  const unreadable = join(special, "unreadable.db");
  const inside = join(special, "closed", "file.db");
  await mkdir(dirname(inside));
  for (const path of [unreadable, inside]) await copyFile(reader.file(), path);
  for (const path of [unreadable, dirname(inside)]) await chmod(path, 0);
  const before = await contents();
  for (const path of [unreadable, inside]) {
    const env = reader.env?.() ?? {};
    const { code, stderr } = await machine.run(reader.args(path), { before: withoutOverride, env });
    expect([code, stderr]).toEqual([18, expect.stringContaining(path)]);
    expect(stderr).toContain("permission denied");
    expect(await contents()).toEqual(before);
  }
});

interface Writer {
  readonly option: string;
  /** What it names. */
  readonly kind: "file" | "directory";
  readonly args: (path: string) => string[];
  /** Where it differs; undefined where it can write. */
  readonly except?: Partial<Record<State, [number, RegExp] | undefined>>;
}

/** A directory that is only remembered is created, and nothing is written into it yet. */
const remembered = { "no parent": undefined, "full disk": undefined };

/** The options that name what is written, each in a command that would write it. */
const writers: Writer[] = [
  {
    ...{ option: "export-clients", kind: "file", except: { directory: undefined } },
    args: (path) => ["export-clients", path, "--show-secrets"],
  },
  {
    ...{ option: "export-clients --path", kind: "file", except: { directory: undefined } },
    args: (path) => ["export-clients", "--path", path, "--show-secrets"],
  },
  {
    ...{ option: "--recovery-key-file", kind: "file" },
    args: (path) => [
      ...["init", "--db", machine.path("new", "new.db"), "--recovery-key-file", path],
      ...["--service", "none"],
    ],
  },
  {
    ...{ option: "restore --to", kind: "file" },
    except: { "no parent": [10, /no such directory/] },
    args: (path) => ["restore", files.backup, "--to", path],
  },
  {
    ...{ option: "bundle print -o", kind: "file" },
    args: (path) => ["bundle", "print", files.bundle, "-i", files.identity, "-o", path],
  },
  {
    ...{ option: "backup --to", kind: "directory", except: { "no parent": undefined } },
    args: (path) => ["backup", "--to", path, "--service", "none"],
  },
  {
    ...{ option: "backup --bundle-to", kind: "directory", except: { "no parent": undefined } },
    args: (path) => ["backup", "--bundle-to", path, "--service", "none"],
  },
  {
    ...{ option: "bundle export --bundle-to", kind: "directory" },
    except: { "no parent": undefined },
    args: (path) => ["bundle", "export", "--bundle-to", path],
  },
  {
    ...{ option: "rotate --bundle-to", kind: "directory" },
    args: (path) => ["rotate", "--bundle-to", path, ...alone],
  },
  {
    ...{ option: "rotate --reencrypt-backups", kind: "directory" },
    except: { "full disk": undefined },
    args: (path) => ["rotate", "--reencrypt-backups", path, ...alone],
  },
  {
    ...{ option: "encrypt --bundle-to", kind: "directory" },
    args: (path) => [
      ...["encrypt", "--db", files.plain, "--bundle-to", path, ...alone],
      ...["--recovery-key-file", machine.path("new-key")],
    ],
  },
  {
    ...{ option: "encrypt --to", kind: "directory", except: remembered },
    args: (path) => [
      ...["encrypt", "--db", files.plain, "--to", path, ...alone],
      ...["--bundle-to", machine.path("bundles"), "--recovery-key-file", machine.path("new-key")],
    ],
  },
  {
    ...{ option: "init --to", kind: "directory", except: remembered },
    args: (path) => [
      ...["init", "--db", machine.path("new", "new.db"), "--to", path, "--service", "none"],
      ...["--recovery-key-file", machine.path("new-key")],
    ],
  },
  {
    ...{ option: "init --bundle-to", kind: "directory", except: { "no parent": undefined } },
    args: (path) => [
      ...["init", "--db", machine.path("new", "new.db"), "--bundle-to", path, "--service", "none"],
      ...["--recovery-key-file", machine.path("new-key")],
    ],
  },
];

const states = {
  directory: "file",
  file: "file",
  "dangling link": "file",
  fifo: "file",
  "read-only": "directory",
  "full disk": "directory",
  "no parent": "file",
} as const;

type State = keyof typeof states;

/** The exit codes, and a text of the error. */
const expected: Record<"file" | "directory", Partial<Record<State, [number, RegExp]>>> = {
  file: {
    directory: [17, /exists/],
    file: [17, /exists/],
    "dangling link": [17, /exists/],
    fifo: [17, /exists/],
    "read-only": [18, /permission denied/],
    "full disk": [18, /no space left on device/],
    "no parent": [18, /no such (?:file or )?directory/],
  },
  directory: {
    file: [18, /not a directory/],
    "dangling link": [18, /no such file or directory|a link to a missing directory/],
    fifo: [18, /not a directory/],
    "read-only": [18, /permission denied/],
    "full disk": [18, /no space left on device/],
    "no parent": [18, /no such file or directory/],
  },
};

/** @returns the path to be written, and the directory for an option that takes one */
async function arrange(state: State): Promise<{ file: string; directory: string }> {
  const special = await mkdtemp(machine.path("special-"));
  const path = join(special, "out.db");
  if (state === "directory") await mkdir(path);
  if (state === "file") await writeFile(path, "something else", { mode: 0o600 });
  if (state === "dangling link") await symlink(join(special, "missing", "target"), path);
  if (state === "fifo") await run("mkfifo", ["-m", "600", path]);
  if (states[state] === "file") {
    const file = state === "no parent" ? join(special, "missing", "out.db") : path;
    return { file, directory: file };
  }
  const directory = join(special, "directory");
  await mkdir(directory);
  if (state === "read-only") await chmod(directory, 0o500);
  else {
    execFileSync("mount", ["-t", "tmpfs", "-o", "size=16k,mode=700", "tmpfs", directory]);
    onTestFinished(() => void execFileSync("umount", ["-l", directory]));
    await run("sh", ["-c", `dd if=/dev/zero of='${directory}/other' bs=4k 2>/dev/null || true`]);
  }
  return { file: join(directory, "out.db"), directory };
}

test.each(writers)("$option: what cannot be written", async ({ kind, args, except = {} }) => {
  for (const [state, answer] of Object.entries({ ...expected[kind], ...except })) {
    if (answer === undefined) continue;
    const { [kind]: path, directory } = await arrange(state as State);
    const left = await readdir(directory).catch(() => []);
    const before = await contents();
    const { code, stdout, stderr } = await machine.run(args(path), { before: withoutOverride });
    const text = stdout + stderr;
    expect([state, code, text]).toEqual([state, answer[0], expect.stringMatching(answer[1])]);
    expect(text).toMatch(/special-\w+\/(?:out\.db|missing|directory)/);
    expect(text).not.toMatch(/internal|unexpected error|at .*\.js:/);
    expect([state, await contents()]).toEqual([state, before]);
    const after = (await readdir(directory).catch(() => [])).filter(
      (name) => !/\.lock$/.test(name),
    );
    expect(after).toEqual(left);
  }
});
