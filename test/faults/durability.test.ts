/**
 * What a power cut would leave, seen by the kernel: each command runs under strace, and one rule is
 * held against every name that it gives and takes in the trace.
 *
 * A file that is renamed or linked was synced since it was last written to. What is named in one
 * folder was synced before anything is named in another. When the journal moves on or goes, and
 * when the command ends, nothing is unsynced: no file that was written to, and no folder in which a
 * file or a folder was made, renamed, linked or removed.
 */
import { spawn } from "node:child_process";
import { cp, mkdir, mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { afterAll, beforeAll, expect, test } from "vitest";
import { sidecars } from "../../src/fs/sidecars.js";
import { deleteEntry, listEntries } from "../../src/keys/keyring.js";
import { Connection } from "../../src/store/connection.js";
import { root } from "../built.js";
import { Machine } from "../cli/machine.js";
import { alone, newestIn } from "../files/machine.js";
import { fixtures } from "../store/temporary.js";

const writing = ["write", "writev", "pwrite64", "pwritev", "ftruncate"];
const syncing = ["fsync", "fdatasync"];
/** With the forms that they have on other processors. */
const naming = [
  ...["openat", "mkdir", "rename", "link", "unlink"],
  ...["mkdirat", "renameat", "renameat2", "linkat", "unlinkat"],
];

interface Call {
  readonly name: string;
  /** Those that it names, or the one that its file descriptor is of. */
  readonly paths: string[];
  readonly text: string;
}

/** The calls of a trace that succeeded, in the order in which they ended. */
function callsIn(trace: string): Call[] {
  const begun = new Map<string, string>();
  return trace.split("\n").flatMap((line) => {
    const [, thread = "", rest = ""] = /^(\d+) +(.*)$/.exec(line) ?? [];
    const beginning = /^(.*) <unfinished \.\.\.>$/.exec(rest)?.[1];
    if (beginning !== undefined) begun.set(thread, beginning);
    const text = rest.replace(/^<\.\.\. \w+ resumed>/, () => begun.get(thread) ?? "");
    const name = /^(\w+)\(.* = \d+/.exec(text)?.[1];
    if (beginning !== undefined || name === undefined) return [];
    const named = [...text.matchAll(/"(\/[^"]*)"/g)].map(([, path = ""]) => path);
    const open = /^\w+\(\d+<(\/[^>]*)>/.exec(text)?.[1];
    return [{ name, text, paths: open === undefined ? named : [open] }];
  });
}

/**
 * Holds the rule against a trace.
 *
 * @returns each breach of it in `folder`, in a sentence.
 */
function breachesIn(trace: string, folder: string): string[] {
  /** What is not on the disk: files by their contents, and files and folders by their names. */
  const contents = new Set<string>();
  const names = new Set<string>();
  const found: string[] = [];
  const nothingIsUnsynced = (when: string) => {
    for (const path of contents) found.push(`${path} is not synced when ${when}`);
    for (const path of names) found.push(`the name ${path} is not synced when ${when}`);
    contents.clear();
    names.clear();
  };
  for (const { name, paths, text } of callsIn(trace)) {
    const [path = "", target = ""] = paths;
    // What lies beside a database is SQLite's own affair; the lock is made anew where there is
    // none.
    if ([...sidecars, ".lock"].some((suffix) => path.endsWith(suffix))) continue;
    if (!`${path}/`.startsWith(`${folder}/`)) continue;
    if (writing.includes(name)) contents.add(path);
    else if (syncing.includes(name)) {
      contents.delete(path);
      for (const each of names) if (dirname(each) === path) names.delete(each);
    } else if (name === "openat") {
      if (text.includes("O_EXCL")) names.add(path);
    } else if (/^mkdir/.test(name)) names.add(path);
    else if (/^unlink/.test(name)) {
      contents.delete(path);
      if (path.endsWith(".journal.json")) nothingIsUnsynced("the journal goes");
      names.add(path);
    } else {
      if (contents.delete(path)) found.push(`${path} is not synced when it is named ${target}`);
      if (/^rename/.test(name)) names.delete(path);
      for (const each of names) {
        if (dirname(each) !== dirname(target))
          found.push(`${each} is not synced when ${target} is named`);
      }
      if (target.endsWith(".journal.json")) nothingIsUnsynced("the journal moves on");
      names.add(target);
    }
  }
  nothingIsUnsynced("the command ends");
  return found;
}

let machine: Machine;

beforeAll(async () => {
  machine = Machine.in(await mkdtemp(join(tmpdir(), "hivemind-durability-")));
  for (const folder of ["safe", "bundles"]) await mkdir(machine.path(folder), { mode: 0o700 });
  await mkdir(dirname(machine.store), { recursive: true });
  await cp(join(fixtures, "plain-schema1.db"), machine.store);
  // The mode in which SQLite syncs nothing of an export for us.
  await using store = await Connection.open(machine.store, { mode: "readwrite" });
  await store.all("PRAGMA journal_mode = DELETE");
  for (const name of ["first", "second"]) {
    await writeFile(passphraseIn(name), name, { mode: 0o600 });
  }
  // They change with the passphrase, in another folder than the store's.
  const settings = machine.path("config", "hivemind-sqlcipher", "config.json");
  await mkdir(dirname(settings), { recursive: true });
  await writeFile(settings, JSON.stringify({ passphrase_source: `file:${passphraseIn("first")}` }));
});

afterAll(async () => {
  for (const store of [machine.store, otherStore()]) {
    for (const { slot } of await listEntries(store)) await deleteEntry(store, slot);
  }
  await rm(machine.folder, { recursive: true, force: true });
});

const otherStore = () => machine.path("other", "hivemind-core", "clients.db");

/** Runs a command, and answers its trace. */
async function traced(args: string[], exitCode = 0): Promise<string> {
  const log = machine.path("trace");
  const calls = [...writing, ...syncing, ...naming].map((call) => `?${call}`);
  const { code, stderr } = await machine.run(args, {
    before: [
      ...["strace", "-f", "-y", "--seccomp-bpf", "-s", "0", "-o", log],
      ...["-e", `trace=${calls.join()}`],
    ],
  });
  expect(`${code} ${code === exitCode ? "" : stderr}`).toBe(`${exitCode} `);
  return await readFile(log, "utf8");
}

/**
 * Holds the rule against a trace, and sees that it would be broken if none of these were synced.
 */
function expectDurable(trace: string, ...needed: (keyof typeof syncs)[]): void {
  expect(breachesIn(trace, machine.folder)).toEqual([]);
  for (const what of needed) {
    expect(breachesIn(trace.replaceAll(syncs[what], ""), machine.folder)).not.toEqual([]);
  }
}

/** The files here have a dot in their names, the folders have none. */
const syncs = {
  files: /^.* f(data)?sync\(\d+<[^>]*\.[^/>]*>.*$/gm,
  folders: /^.* fsync\(\d+<[^>]*\/[^/>.]*>.*$/gm,
};

const bundleTo = () => ["--bundle-to", machine.path("bundles")];
const keyTo = (name: string) => ["--recovery-key-file", machine.path("safe", name)];
const passphraseIn = (name: string) => machine.path("safe", `${name}.txt`);
/** A recovery key never replaces a file. */
let keys = 0;
const encrypt = () => {
  keys += 1;
  return ["encrypt", ...alone, ...keyTo(`key-${keys}.txt`), ...bundleTo()];
};
const backup = () => [
  ...["backup", "--service", "none", "--to", machine.path("backups")],
  ...bundleTo(),
];

/** One after the other, on one store. */
test.each<[string, () => string[]]>([
  [
    "init",
    () => [
      ...["init", "--db", otherStore(), ...keyTo("other-key.txt")],
      ...["--config", machine.path("settings", "own", "config.json")],
      ...["--bundle-to", machine.path("new", "bundles")],
    ],
  ],
  ["encrypt", encrypt],
  ["backup", backup],
  [
    "rotate",
    () => [
      ...["rotate", "--passphrase-file", passphraseIn("second"), ...alone, ...bundleTo()],
      ...["--reencrypt-backups", machine.path("backups")],
    ],
  ],
  ["restore", () => ["restore", newestIn(machine, "backups", ".db"), ...alone, "--yes"]],
  ["bundle export", () => ["bundle", "export", "--bundle-to", machine.path("exported", "bundles")]],
  ["export-clients", () => ["export-clients", "--path", machine.path("clients.json")]],
  ["decrypt", () => ["decrypt", ...alone, "--yes"]],
])("%s: what it says is done is on the disk", async (_, args) => {
  expectDurable(await traced(args()), "files", "folders");
});

test.each([
  ["encrypt.synced", encrypt],
  ["encrypt.renamed", encrypt],
  ["backup.verified", backup],
  ["backup.claimed", backup],
])("killed at %s: what the next command undoes or finishes is on the disk", async (step, args) => {
  const env = {
    NODE_OPTIONS: `--import=${root}test/faults/kill-at-step.mjs`,
    HIVEMIND_TEST_STEP: step,
  };
  expect((await machine.run(args(), { env })).code).toBeNull();
  expectDurable(await traced(["settle"]), "folders");
});

test("a service that does not start: the store that is put back is on the disk", async () => {
  const hub = spawn("tail", ["-f", machine.store], { stdio: "ignore" });
  const tried = machine.path("tried");
  const service = [
    ...["--stop-command", `kill ${hub.pid}`],
    ...["--start-command", `test -e ${tried} || ! touch ${tried}`],
  ];
  const passphrase = ["--passphrase-file", passphraseIn("first")];
  const rotate = ["rotate", ...passphrase, ...service, "--hub", "none", ...bundleTo()];
  const trace = await traced(rotate, 15);
  expect(trace).toMatch(/rename\("[^"]*\.replaced", "[^"]*clients\.db"\)/);
  expectDurable(trace, "files", "folders");
});
