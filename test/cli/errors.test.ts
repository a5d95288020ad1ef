/** Bad input: its exit code, one clear line, a hint, and everything left as it was. */
import { createHash } from "node:crypto";
import { copyFile, mkdir, readdir, readFile, truncate, writeFile } from "node:fs/promises";
import { dirname, join } from "node:path";
import { expect, test } from "vitest";
import { root } from "../built.js";
import { Machine } from "./machine.js";

/** Every file and folder below a folder, and what is in each file. */
async function contents(folder: string): Promise<Record<string, string>> {
  const found: Record<string, string> = {};
  for (const entry of await readdir(folder, { recursive: true, withFileTypes: true })) {
    const path = join(entry.parentPath, entry.name);
    if (entry.isDirectory()) found[path] = "folder";
    if (!entry.isFile()) continue;
    found[path] = createHash("sha256")
      .update(await readFile(path))
      .digest("hex");
  }
  return found;
}

async function withStore(make: (machine: Machine) => Promise<void>): Promise<Machine> {
  const machine = await Machine.make();
  await mkdir(dirname(machine.store), { recursive: true });
  await writeFile(machine.path("passphrase"), "a passphrase", { mode: 0o600 });
  await make(machine);
  return machine;
}

const fixture = (name: string) =>
  withStore((machine) => copyFile(`${root}test/fixtures/${name}`, machine.store));
const fromFile = (machine: Machine) => [
  "--passphrase-source",
  `file:${machine.path("passphrase")}`,
];

interface Case {
  what: string;
  machine: () => Promise<Machine>;
  args: (machine: Machine) => string[];
  code: number;
  says: RegExp;
}

const cases: Case[] = [
  {
    what: "no store",
    machine: () => Machine.make(),
    args: () => ["list-clients"],
    code: 10,
    says: /no store at .*clients\.db[\s\S]*init/,
  },
  {
    what: "init with a passphrase from a file that is not there: none is written to a disk",
    machine: () => Machine.make(),
    args: (machine) => [
      ...["init", "--passphrase-source", `file:${machine.path("none")}`],
      ...["--recovery-key-file", machine.path("recovery-key.txt")],
    ],
    code: 13,
    says: /no such file: .*none[\s\S]*umask 077/,
  },
  {
    what: "no backup to restore, and no store's folder yet",
    machine: () => Machine.make(),
    args: (machine) => ["restore", machine.path("none.db"), "--hub", "none"],
    code: 10,
    says: /no such backup: .*none\.db[\s\S]*backups/,
  },
  {
    what: "a change of a store that is not encrypted",
    machine: () => fixture("plain-schema2.db"),
    args: (machine) => ["add-client", ...fromFile(machine)],
    code: 17,
    says: /not encrypted[\s\S]*encrypt/,
  },
  {
    what: "a store from the future",
    machine: () => fixture("plain-schema99-from-the-future.db"),
    args: fromFileList,
    code: 16,
    says: /99/,
  },
  {
    what: "a wrong passphrase",
    machine: () => fixture("sqlcipher4-schema2.db"),
    args: fromFileList,
    code: 12,
    says: /does not open|passphrase/,
  },
  {
    what: "no entry in the keyring",
    machine: () => fixture("sqlcipher4-schema2.db"),
    args: () => ["list-clients"],
    code: 13,
    says: /keyring/,
  },
  {
    what: "a store that was cut off",
    machine: () =>
      withStore(async (machine) => {
        await copyFile(`${root}test/fixtures/sqlcipher4-schema2.db`, machine.store);
        await truncate(machine.store, 9000);
        await writeFile(machine.path("passphrase"), "correct 'horse' battery");
      }),
    args: fromFileList,
    code: 14,
    says: /cut off|truncated|damaged|corrupt/i,
  },
  {
    what: "a file that is no database",
    machine: () => withStore((machine) => writeFile(machine.store, "Dear diary, ".repeat(1000))),
    args: fromFileList,
    code: 12,
    says: /no database|not a database/,
  },
  {
    what: "a store that is a folder",
    machine: () => Machine.make(),
    args: (machine) => ["list-clients", "--db", machine.folder],
    code: 12,
    says: /is not a database[\s\S]*--db/,
  },
  {
    what: "a path that is empty",
    machine: () => Machine.make(),
    args: () => ["status", "--db", ""],
    code: 2,
    says: /is empty[\s\S]*--db/,
  },
  {
    what: "a passphrase file that others can read",
    machine: () =>
      withStore(async (machine) => {
        await copyFile(`${root}test/fixtures/sqlcipher4-schema2.db`, machine.store);
        await writeFile(machine.path("open"), "correct 'horse' battery", { mode: 0o644 });
      }),
    args: (machine) => ["list-clients", "--passphrase-source", `file:${machine.path("open")}`],
    code: 17,
    says: /chmod 600/,
  },
  {
    what: "a client that is not there",
    machine: () => withInit(),
    args: () => ["show-client", "99"],
    code: 10,
    says: /no client 99[\s\S]*list-clients/,
  },
  {
    what: "an id that is none",
    machine: () => withInit(),
    args: () => ["delete-client", "9007199254740993"],
    code: 2,
    says: /9007199254740993/,
  },
  {
    what: "a field that is none",
    machine: () => withInit(),
    args: () => ["find-client", "--by", "1=1; --", "x"],
    code: 2,
    says: /no such field[\s\S]*api_key/,
  },
  {
    what: "a store that is there already",
    machine: () => withInit(),
    args: (machine) => ["init", "--recovery-key-file", machine.path("another")],
    code: 17,
    says: /already/,
  },
  {
    what: "a passphrase for a source that is only read",
    machine: () => withStore(async () => undefined),
    args: (machine) => [
      ...["init", "--recovery-key-file", machine.path("recovery-key"), ...fromFile(machine)],
      ...["--passphrase-file", machine.path("passphrase")],
    ],
    code: 2,
    says: /cannot be stored in file:[\s\S]*--passphrase-file/,
  },
  {
    what: "a recovery key that has nowhere to go",
    machine: () => Machine.make(),
    args: () => ["init"],
    code: 2,
    says: /--recovery-key-file/,
  },
  {
    what: "a recipient that does not parse",
    machine: () => withInit(),
    args: (machine) => backup(machine, "--recipient", "age1nonsense"),
    code: 2,
    says: /recipient/,
  },
  {
    what: "a bundle in the backup directory",
    machine: () => withInit(),
    args: (machine) => ["backup", "--to", machine.path("b"), "--bundle-to", machine.path("b")],
    code: 17,
    says: /backup directory/,
  },
  {
    what: "a bundle below the backup directory",
    machine: () => withInit(),
    args: (machine) => ["backup", "--to", machine.path("b"), "--bundle-to", machine.path("b", "c")],
    code: 17,
    says: /inside the backup directory/,
  },
  {
    what: "backups below the bundle directory",
    machine: () => withInit(),
    args: (machine) => ["backup", "--to", machine.path("b", "c"), "--bundle-to", machine.path("b")],
    code: 17,
    says: /contains the backup directory/,
  },
  {
    what: "a unit that does not exist",
    machine: () => withInit(),
    args: (machine) => backup(machine, "--service", "systemd-user", "--unit", "no-such-hub"),
    code: 10,
    says: /no unit no-such-hub/,
  },
  {
    what: "a stop command without a start command",
    machine: () => withInit(),
    args: (machine) => backup(machine, "--stop-command", "true"),
    code: 2,
    says: /start/,
  },
  {
    what: "a backup that is not there",
    machine: () => withInit(),
    args: (machine) => ["verify", machine.path("clients.db.old")],
    code: 10,
    says: /no such file or directory/,
  },
  {
    what: "an unknown command",
    machine: () => Machine.make(),
    args: () => ["frobnicate"],
    code: 2,
    says: /frobnicate[\s\S]*--help/,
  },
  {
    what: "a command with a slip in it",
    machine: () => Machine.make(),
    args: () => ["list-client"],
    code: 2,
    says: /unknown command 'list-client'\n {2}Did you mean list-clients\?/,
  },
  {
    what: "settings with a key that there is none of",
    machine: () =>
      withStore(async (machine) => {
        await mkdir(machine.path("config", "hivemind-sqlcipher"), { recursive: true });
        await writeFile(
          machine.path("config", "hivemind-sqlcipher", "config.json"),
          '{"bakup": {}}',
        );
      }),
    args: () => ["backups"],
    code: 2,
    says: /bakup/,
  },
];

function fromFileList(machine: Machine): string[] {
  return ["list-clients", ...fromFile(machine)];
}

async function withInit(): Promise<Machine> {
  const machine = await Machine.make();
  await machine.init();
  return machine;
}

function backup(machine: Machine, ...args: string[]): string[] {
  return [
    "backup",
    "--to",
    machine.path("backups"),
    "--bundle-to",
    machine.path("bundles"),
    ...args,
  ];
}

test.for(cases)("$what: exit code $code", async ({ machine: make, args, code, says }) => {
  const machine = await make();
  const before = await contents(machine.folder);
  const answer = await machine.run(args(machine));
  expect(answer).toMatchObject({ code, stdout: "" });
  expect(answer.stderr).toMatch(/^error: /m);
  expect(answer.stderr).toMatch(says);
  expect(answer.stderr).not.toMatch(/\n\s+at /);

  const json = await machine.run([...args(machine), "--json"]);
  expect(json.code).toBe(code);
  expect(json.stdout.trimEnd().split("\n")).toHaveLength(1);
  expect(JSON.parse(json.stdout)).toEqual({
    error: { code, message: expect.any(String), hint: expect.any(String) },
  });
  const after = await contents(machine.folder);
  // The lock stays once it is made, and so does the folder that it lies in.
  for (let path = `${machine.store}.lock`; after[path] !== undefined; path = dirname(path)) {
    delete after[path];
    delete before[path];
  }
  expect(after).toEqual(before);
});

test("a folder that cannot be made is said, and not tried for ever", async () => {
  const machine = await withInit();
  const answer = await machine.run(backup(machine, "--to", "/proc/none/backups"));
  expect(answer).toMatchObject({ code: 18, stdout: "" });
  expect(answer.stderr).toMatch(/^error: cannot create the directory \/proc\/none: /m);
});

test("a full disk behind the output is an error; a reader that went away is none, and ends no work", async () => {
  const machine = await withInit();
  const shell = (line: string) => ["bash", "-o", "pipefail", "-c", line, "bash"];
  const full = await machine.run(["list-clients", "--json"], {
    before: shell('"$@" > /dev/full'),
  });
  expect(full).toEqual({
    code: 18,
    stdout: "",
    stderr: "error: cannot write to standard output: no space left on device\n",
  });
  const gone = await machine.run(["list-clients", "--json"], { before: shell('"$@" | true') });
  expect(gone).toEqual({ code: 0, stdout: "", stderr: "" });
  const deaf = await machine.run(backup(machine, "--verbose"), {
    before: shell('"$@" 2> >(true)'),
  });
  expect(deaf).toMatchObject({ code: 0, stdout: expect.stringMatching(/^Backed up/) });
});
