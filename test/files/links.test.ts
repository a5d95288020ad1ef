/**
 * Symbolic and hard links at every path that is written: what they lead to is left as it is. And
 * somebody who swaps them in all the time, in folders that they may write to.
 */
import { execFileSync } from "node:child_process";
import {
  chmodSync,
  existsSync,
  linkSync,
  lstatSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { mkdir, readFile } from "node:fs/promises";
import { dirname, join } from "node:path";
import { expect, onTestFinished, test } from "vitest";
import { claimName, createFile, replaceFile, stagedName } from "../../src/fs/atomic.js";
import { deleteEntry, listEntries } from "../../src/keys/keyring.js";
import { Machine } from "../cli/machine.js";
import { proving, report } from "../prove-report.js";
import { temporaryFolder } from "../store/temporary.js";
import { alone, init, newestIn } from "./machine.js";
import { isRoot, nobody, startSwapper } from "./others.js";

async function machineOf(): Promise<Machine> {
  const machine = await Machine.make();
  onTestFinished(async () => {
    for (const { slot } of await listEntries(machine.store)) await deleteEntry(machine.store, slot);
  });
  await mkdir(machine.path("safe"), { mode: 0o700 });
  return machine;
}

/** Names without what differs from run to run. */
const general = (path: string) =>
  path
    .replace(/\d{4}-\d\d-\d\dT\d\d-\d\d-\d\d(-\d+)?Z/g, "TIME")
    .replace(/\b[0-9a-f]{16}\b/g, "HEX")
    .replace(/\.[0-9a-f]{12}\.(partial|replaced)/, ".HEX.$1");

/** Every path below the machine's folder that the commands below make, replace or write to. */
const written = [
  "backups",
  "backups/.backup.db.HEX.partial",
  "backups/.backup.manifest.json.HEX.partial",
  "backups/clients.TIME.db",
  "backups/clients.TIME.manifest.json",
  "bundles",
  "bundles/.clients.HEX.bundle.age.HEX.partial",
  "bundles/.clients.HEX.bundle.age.proof.json.HEX.partial",
  "bundles/clients.HEX.bundle.age",
  "bundles/clients.HEX.bundle.age.proof.json",
  "config",
  "config/hivemind-sqlcipher",
  "config/hivemind-sqlcipher/.config.json.HEX.partial",
  "config/hivemind-sqlcipher/config.json",
  "config/hivemind-sqlcipher/config.json.lock",
  "data",
  "data/hivemind-core",
  "data/hivemind-core/.clients.db.HEX.partial",
  "data/hivemind-core/.clients.db.HEX.partial-journal",
  "data/hivemind-core/.clients.db.HEX.partial-shm",
  "data/hivemind-core/.clients.db.HEX.partial-wal",
  "data/hivemind-core/.clients.db.HEX.replaced",
  "data/hivemind-core/.clients.db.journal.json.HEX.partial",
  "data/hivemind-core/clients.db",
  "data/hivemind-core/clients.db-journal",
  "data/hivemind-core/clients.db-shm",
  "data/hivemind-core/clients.db-wal",
  "data/hivemind-core/clients.db.journal.json",
  "data/hivemind-core/clients.db.lock",
  "data/hivemind-core/clients.db.replaced.TIME",
  "safe/recovery-key.txt",
  "state",
  "state/hivemind-sqlcipher",
  "state/hivemind-sqlcipher/.directories-HEX.json.HEX.partial",
  "state/hivemind-sqlcipher/.rehearsal-HEX.json.HEX.partial",
  "state/hivemind-sqlcipher/.runs-HEX.json.HEX.partial",
  "state/hivemind-sqlcipher/.store-id-HEX.json.HEX.partial",
  "state/hivemind-sqlcipher/directories-HEX.json",
  "state/hivemind-sqlcipher/rehearsal-HEX.json",
  "state/hivemind-sqlcipher/runs-HEX.json",
  "state/hivemind-sqlcipher/store-id-HEX.json",
];

test("the paths that are written are those that the tests below know", async () => {
  const machine = await machineOf();
  const log = machine.path("trace");
  const traced = [
    ...["strace", "-f", "--seccomp-bpf", "-z", "-o", log, "-s", "4096"],
    ...["-e", "trace=openat,mkdir,mkdirat,rename,renameat2,link,linkat,symlink"],
  ];
  const found = new Set<string>();
  const run = async (...args: string[]) => {
    const { code, stderr } = await machine.run(args, { before: traced });
    expect(`${args[0]}: ${code} ${code === 0 ? "" : stderr}`).toBe(`${args[0]}: 0 `);
    for (const line of (await readFile(log, "utf8")).split("\n")) {
      if (/openat\(/.test(line) && !/O_CREAT|O_WRONLY|O_RDWR/.test(line)) continue;
      for (const [, path = ""] of line.matchAll(/"(\/[^"]*)"/g)) {
        if (path.startsWith(`${machine.folder}/`))
          found.add(general(path.slice(machine.folder.length + 1)));
      }
    }
  };
  await run(...init(machine));
  await run("add-client", "--name", "kitchen");
  await run("backup", "--service", "none");
  await run("rotate", ...alone, "--keep-previous");
  await run("restore", newestIn(machine, "backups", ".db"), ...alone, "--yes");
  expect([...found].filter((path) => !written.includes(path)).toSorted()).toEqual([]);
});

interface Place {
  readonly what: string;
  /** Prepares the machine, and gives the path where the link is put. */
  readonly path: (machine: Machine) => string;
  /** The command that would write there. */
  readonly args: (machine: Machine) => string[];
  /**
   * Operators move a store elsewhere by a symbolic link: it is followed, and what is made there is
   * for its owner alone.
   */
  readonly isRelocatable?: boolean;
  /**
   * SQLite writes to its log by this name whatever else the file is called; it keeps to what is no
   * symbolic link.
   */
  readonly isSqlites?: boolean;
}

const store = ({ store: path }: Machine) => path;
const backup = () => ["backup", "--service", "none"];
const beside = (suffix: string, args: (machine: Machine) => string[]) => ({
  what: `clients.db${suffix}`,
  path: (machine: Machine) => `${store(machine)}${suffix}`,
  args,
});

/** The names that somebody can know beforehand. */
const places: Place[] = [
  beside(".lock", backup),
  beside(".journal.json", backup),
  beside(".journal.json", () => ["rotate", ...alone]),
  beside("-journal", () => ["add-client", "--name", "hall"]),
  { ...beside("-wal", () => ["add-client", "--name", "hall"]), isSqlites: true },
  {
    what: "the settings",
    path: (machine) => machine.path("config", "hivemind-sqlcipher", "config.json"),
    args: (machine) => [...init(machine), "--db", machine.path("new.db")],
  },
  {
    what: "the recovery key's file",
    path: (machine) => machine.path("safe", "new-key.txt"),
    args: (machine) => [
      ...["init", "--db", machine.path("new.db"), "--config", machine.path("new.json")],
      ...["--recovery-key-file", machine.path("safe", "new-key.txt")],
    ],
  },
  {
    what: "a new store",
    isRelocatable: true,
    path: (machine) => machine.path("new.db"),
    args: (machine) => [
      ...["init", "--db", machine.path("new.db"), "--config", machine.path("new.json")],
      ...["--recovery-key-file", machine.path("safe", "new-key.txt")],
    ],
  },
  {
    what: "the bundle",
    path: (machine) => newestIn(machine, "bundles", ".age"),
    args: backup,
  },
  {
    what: "the bundle's proof",
    path: (machine) => `${newestIn(machine, "bundles", ".age")}.proof.json`,
    args: backup,
  },
  {
    what: "the recovery sheet",
    path: (machine) => machine.path("sheet.html"),
    args: (machine) => [
      ...[
        "bundle",
        "print",
        newestIn(machine, "bundles", ".age"),
        "-o",
        machine.path("sheet.html"),
      ],
    ],
  },
  {
    what: "an export",
    path: (machine) => machine.path("list.csv"),
    args: (machine) => ["export-clients", "--path", machine.path("list.csv")],
  },
  {
    what: "a restored store beside",
    path: (machine) => machine.path("beside.db"),
    args: (machine) => [
      ...["restore", newestIn(machine, "backups", ".db"), ...alone],
      ...["--to", machine.path("beside.db"), "--yes"],
    ],
  },
  {
    what: "the JSON store",
    isRelocatable: true,
    path: (machine) => machine.path("data", "hivemind-core", "copy.json"),
    args: () => [
      ...["migrate", "--from", "hivemind-sqlcipher-db-plugin", "--to", "hivemind-json-db-plugin"],
      ...["--to-setting", "name=copy", "--yes"],
    ],
  },
];

const words = "somebody's own file, which is none of this program's affair\n";

test("a link at a path that is written is refused or replaced, and what it leads to stays as it is", async () => {
  const machine = await machineOf();
  expect((await machine.run(init(machine))).code).toBe(0);
  expect((await machine.run(backup())).code).toBe(0);
  const victim = machine.path("victim");
  const victimFolder = machine.path("elsewhere");
  mkdirSync(victimFolder);
  const changed: string[] = [];
  let tried = 0;
  const kinds = {
    "symbolic link": (path: string) => symlinkSync(victim, path),
    "hard link": (path: string) => linkSync(victim, path),
    "dangling link": (path: string) => symlinkSync(join(victimFolder, "new"), path),
  };
  const cases = places.flatMap((place) =>
    Object.entries(kinds).map(([kind, make]) => ({ place, kind, make })),
  );
  for (const { place, kind, make } of cases.filter((_, index) => proving || index % 5 === 0)) {
    const path = place.path(machine);
    mkdirSync(dirname(path), { recursive: true });
    rmSync(victim, { force: true });
    writeFileSync(victim, words, { mode: 0o644 });
    chmodSync(victim, 0o644);
    const kept = existsSync(path) ? readFileSync(path) : undefined;
    rmSync(path, { force: true });
    make(path);
    const { code } = await machine.run(place.args(machine), {
      before: ["timeout", "-s", "KILL", "170"],
    });
    tried += 1;
    const stats = statSync(victim);
    const same =
      readFileSync(victim, "utf8") === words &&
      (stats.mode & 0o777) === 0o644 &&
      stats.size === words.length;
    const made = readdirSync(victimFolder);
    const isFine = made.every(
      (name) => place.isRelocatable && (statSync(join(victimFolder, name)).mode & 0o777) === 0o600,
    );
    if (
      !(same || (place.isSqlites && kind === "hard link")) ||
      !isFine ||
      code === null ||
      code > 100
    ) {
      changed.push(`${place.what}, ${kind}: ${code} ${made.join()}`);
    }
    for (const name of made) rmSync(join(victimFolder, name));
    rmSync(path, { force: true, recursive: true });
    if (kept !== undefined) writeFileSync(path, kept, { mode: 0o600 });
    for (const name of ["new.db", "new.db.lock", "new.json", "beside.db", "beside.db.lock"]) {
      rmSync(machine.path(name), { force: true });
    }
    rmSync(machine.path("safe", "new-key.txt"), { force: true });
    for (const { slot } of await listEntries(machine.path("new.db"))) {
      await deleteEntry(machine.path("new.db"), slot);
    }
    for (const { slot } of await listEntries(machine.path("beside.db"))) {
      await deleteEntry(machine.path("beside.db"), slot);
    }
  }
  report("links at the paths that are written", tried, changed.length);
  expect(changed).toEqual([]);
}, 600_000);

test.runIf(isRoot)(
  "writing durably in a folder where another user swaps links in all the time touches nothing else",
  async () => {
    const folder = await temporaryFolder();
    chmodSync(folder, 0o755);
    const shared = join(folder, "shared");
    mkdirSync(shared);
    chmodSync(shared, 0o777);
    const victim = join(folder, "victim");
    writeFileSync(victim, words, { mode: 0o600 });
    await startSwapper(victim, "partial|final|kept", [shared]);
    const tries = proving ? 600 : 200;
    const changed: string[] = [];
    let wrote = 0;
    const attempt = (work: Promise<unknown>) =>
      work.then(
        () => {
          wrote += 1;
        },
        () => undefined,
      );
    for (let n = 0; n < tries; n++) {
      const staged = stagedName(join(shared, "final"));
      await attempt(
        createFile(staged, "secret").then(() => claimName(staged, join(shared, `final${n}`))),
      );
      await attempt(replaceFile(join(shared, "kept"), `contents ${n}`));
      const { uid, mode, size } = lstatSync(victim);
      if (
        readFileSync(victim, "utf8") !== words ||
        uid !== 0 ||
        (mode & 0o777) !== 0o600 ||
        size !== words.length
      ) {
        changed.push(`try ${n}`);
        break;
      }
    }
    report("links swapped in while files are written durably", 2 * tries, changed.length);
    expect(changed).toEqual([]);
    expect(wrote).toBeGreaterThan(0);
  },
);

test.runIf(isRoot)(
  "root at work in another user's folders, who swaps links in: nothing of root's is written or given away",
  async () => {
    const machine = await machineOf();
    expect((await machine.run(init(machine))).code).toBe(0);
    expect((await machine.run(backup())).code).toBe(0);
    const { folder } = machine;
    chmodSync(folder, 0o755);
    const safeCopy = machine.path("safe", "backup.db");
    const original = newestIn(machine, "backups", ".db");
    execFileSync("cp", [original, safeCopy]);
    execFileSync("cp", ["-r", "--preserve", machine.path("data"), machine.path("data.saved")]);
    // Root's own file, and one that is empty: a database could be begun in that.
    const victims = [machine.path("victim"), machine.path("empty-victim")];
    const rounds = proving ? 5 : 1;
    const changed: string[] = [];
    let tried = 0;
    for (let round = 0; round < rounds; round++) {
      for (const [index, victim] of victims.entries()) {
        for (const args of [
          ["rotate", ...alone],
          ["restore", original, ...alone, "--no-manifest", "--yes"],
          ["backup", "--service", "none"],
        ]) {
          rmSync(machine.path("data"), { recursive: true });
          execFileSync("cp", [
            "-r",
            "--preserve",
            machine.path("data.saved"),
            machine.path("data"),
          ]);
          execFileSync("cp", [safeCopy, original]);
          chmodSync(machine.path("data"), 0o755);
          execFileSync("chown", ["-R", `${nobody}:${nobody}`, dirname(machine.store)]);
          execFileSync("chown", ["-R", `${nobody}:${nobody}`, machine.path("backups")]);
          writeFileSync(victim, index === 0 ? words : "", { mode: 0o600 });
          const swapper = await startSwapper(victim, "partial|replaced|journal.json$", [
            dirname(machine.store),
            machine.path("backups"),
          ]);
          await machine.run(args, { before: ["timeout", "-s", "KILL", "170"] });
          swapper.kill("SIGKILL");
          tried += 1;
          const { uid, mode } = lstatSync(victim);
          if (
            readFileSync(victim, "utf8") !== (index === 0 ? words : "") ||
            uid !== 0 ||
            (mode & 0o777) !== 0o600
          ) {
            changed.push(
              `${args[0]}, ${index === 0 ? "a file" : "an empty file"}: now of ${uid}, ${statSync(victim).size} bytes`,
            );
          }
        }
      }
    }
    report("root in another user's folders, who swaps links in", tried, changed.length);
    expect(changed).toEqual([]);
  },
  1_200_000,
);
