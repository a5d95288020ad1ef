import {
  copyFile,
  mkdir,
  mkdtemp,
  open,
  readdir,
  readFile,
  rename,
  rm,
  writeFile,
} from "node:fs/promises";
import { hostname, tmpdir } from "node:os";
import { basename, dirname, join } from "node:path";
import { afterAll, beforeAll, expect, onTestFinished, test, vi } from "vitest";
import { localFiles } from "../../src/backup/backup-files.js";
import {
  backupPath,
  formatManifest,
  manifestPath,
  readManifest,
  signManifest,
} from "../../src/backup/manifest.js";
import { type PruneOptions, prune } from "../../src/backup/prune.js";
import { writeStoreRecord } from "../../src/config/store-record.js";
import { checkLastBackup } from "../../src/diagnostics/backups.js";
import { StoreError } from "../../src/errors.js";
import { openEncrypted } from "../../src/store/cipher.js";
import { ClientStore } from "../../src/store/client-store.js";
import { root } from "../built.js";
import { Machine } from "./machine.js";

interface Listed {
  path: string;
  created_at: string;
  age_seconds: number;
  clients: { active: number; revoked: number };
  key_id: string;
  method: string;
  mac: boolean | null;
  present: boolean;
  bundle: string | null;
}

interface Listing {
  backups: Listed[];
  others: { path: string; problem: string }[];
}

interface Pruned {
  prune: {
    dry_run: boolean;
    kept: { path: string; rules: string[] }[];
    removed: { path: string; size: number }[];
    freed: number;
    removed_bundles: string[];
    verified: string | null;
    left: { path: string; problem: string }[];
  };
}

const passphrase = "correct horse";

let machine: Machine;
let original: string;
let folders = 0;

/** One store with a client and a backup, for all tests. No hub runs on it. */
beforeAll(async () => {
  machine = Machine.in(await mkdtemp(join(tmpdir(), "hivemind-backups-")));
  await writeFile(machine.path("passphrase"), passphrase, { mode: 0o600 });
  await machine.init(
    ...["--passphrase-file", machine.path("passphrase")],
    ...["--to", machine.path("backups"), "--bundle-to", machine.path("bundles")],
  );
  await machine.run(["add-client"]);
  const { code, document } = await machine.json("backup", "--service", "none");
  expect(code).toBe(0);
  original = (document.backup as { path: string }).path;
});

afterAll(() => rm(machine.folder, { recursive: true }));

/** Copies that backup into a directory for one test. */
async function withBackup(): Promise<{ folder: string; newest: string }> {
  folders += 1;
  const folder = machine.path(`backups-${folders}`);
  const newest = join(folder, basename(original));
  await mkdir(folder);
  await copyFile(original, newest);
  await copyFile(manifestPath(original), manifestPath(newest));
  return { folder, newest };
}

/** Copies a backup and signs it with another time. */
async function madeAt(
  newest: string,
  store: string,
  at: string,
  { hostname, hasId = true }: { hostname?: string; hasId?: boolean } = {},
): Promise<string> {
  const path = backupPath(join(newest, ".."), store, new Date(at));
  await copyFile(newest, path);
  const { format, version, mac, store_id, ...contents } = await readManifest(manifestPath(newest));
  const { connection, key } = await openEncrypted(path, passphrase, {
    mode: "readonly",
    immutable: true,
  });
  await connection.close();
  const other = { ...(hostname && { hostname }), ...(hasId && { store_id }) };
  const sealed = signManifest({ ...contents, created_at: at, file: basename(path), ...other }, key);
  await writeFile(manifestPath(path), formatManifest(sealed));
  return path;
}

const silent = {
  notice: () => undefined,
  detail: () => undefined,
  confirm: async () => undefined,
};

/** Options that keep the newest backup of a directory. */
function pruning(folder: string): PruneOptions {
  return {
    ...{ folder, storePath: machine.store, keep: { last: 1 }, files: localFiles },
    source: { kind: "file", path: machine.path("passphrase") },
    ...{ dryRun: false, reporter: silent },
  };
}

/** What doctor reads the backups of a directory from. */
function placesWith(backupFolder: string) {
  return {
    ...{ storePath: machine.store, settingsPath: "", backupFolder, bundleFolder: undefined },
    source: { kind: "keyring" } as const,
  };
}

async function damage(path: string): Promise<void> {
  const file = await open(path, "r+");
  await file.write(Buffer.alloc(64, 7), 0, 64, 5000);
  await file.close();
}

test("backups lists age, clients, key and bundle, and marks altered manifests", async () => {
  const { folder, newest } = await withBackup();
  const older = await madeAt(newest, machine.store, "2026-01-02T03:04:05.000Z");
  const altered = await madeAt(newest, machine.store, "2026-01-03T03:04:05.000Z");
  await writeFile(
    manifestPath(altered),
    (await readFile(manifestPath(altered), "utf8")).replace('"active": 1', '"active": 2'),
  );
  const gone = await madeAt(newest, machine.store, "2026-01-01T00:00:00.000Z");
  await rm(gone);
  const bare = join(gone, "..", "clients.2025-01-01T00-00-00Z.db");
  await copyFile(newest, bare);
  await writeFile(join(folder, "holiday.jpg"), "not ours");

  const { code, document } = await machine.json("backups", folder);
  expect(code).toBe(0);
  const { backups, others } = document as unknown as Listing;
  expect(backups).toMatchObject([
    { path: newest, mac: true, present: true, method: "stopped" },
    { path: altered, mac: false, present: true },
    { path: older, mac: true, present: true, clients: { active: 1, revoked: 0 } },
    { path: gone, mac: true, present: false },
  ]);
  expect(others).toEqual([{ path: bare, problem: "the backup has no manifest" }]);
  const [first] = backups;
  expect(first?.bundle).toBe(machine.path("bundles", `clients.${first?.key_id}.bundle.age`));

  const shown = await machine.run(["backups", folder]);
  expect(shown.code).toBe(0);
  expect(shown.stdout).toMatch(new RegExp(`^${basename(older)} .* \\d+d .* valid +found$`, "m"));
  expect(shown.stdout).toMatch(/ALTERED/);
  expect(shown.stdout).not.toContain("holiday");

  await writeFile(machine.path("wrong"), "another", { mode: 0o600 });
  const strange = await machine.json(
    ...["backups", folder, "--passphrase-source", `file:${machine.path("wrong")}`],
    ...["--bundle-to", machine.path("no-bundles-here")],
  );
  expect((strange.document as unknown as Listing).backups[0]).toMatchObject({
    mac: null,
    bundle: null,
  });
  expect((await machine.run(["backups", machine.path("nowhere")])).code).toBe(10);
  expect((await (await Machine.make()).run(["backups"])).code).toBe(2);
});

test("prune keeps what the rules keep, shows it with --dry-run, and ignores other files", async () => {
  const { folder, newest } = await withBackup();
  const made = new Map<string, string>();
  for (const at of [
    "2026-03-01T01:00:00.000Z",
    "2026-03-01T02:00:00.000Z",
    "2026-02-01T01:00:00.000Z",
  ]) {
    made.set(at, await madeAt(newest, machine.store, at));
  }
  const altered = await madeAt(newest, machine.store, "2025-01-03T03:04:05.000Z");
  await writeFile(
    manifestPath(altered),
    (await readFile(manifestPath(altered), "utf8")).replace('"active": 1', '"active": 2'),
  );
  await writeFile(join(folder, "clients.notes.txt"), "not ours");
  const before = await readdir(folder);

  const none = await machine.run(["prune", folder]);
  expect(none.code).toBe(2);
  expect(none.stderr).toContain("--keep-daily");
  expect((await machine.run(["prune", folder, "--keep-last", "-1"])).code).toBe(2);
  expect((await machine.run(["prune", folder, "--keep-last", "0"])).code).toBe(2);

  const rules = ["--keep-daily", "2", "--keep-monthly", "2"];
  const dry = (await machine.json("prune", folder, ...rules, "--dry-run"))
    .document as unknown as Pruned;
  expect(await readdir(folder)).toEqual(before);
  const { code, document } = await machine.json("prune", folder, ...rules);
  expect(code).toBe(0);
  const { prune } = document as unknown as Pruned;
  expect(prune).toEqual({ ...dry.prune, dry_run: false });
  expect(prune).toMatchObject({
    kept: [
      { path: newest, rules: ["daily", "monthly"] },
      { path: made.get("2026-03-01T02:00:00.000Z"), rules: ["daily", "monthly"] },
    ],
    removed: [
      { path: made.get("2026-03-01T01:00:00.000Z") },
      { path: made.get("2026-02-01T01:00:00.000Z") },
    ],
    removed_bundles: [],
    verified: newest,
    left: [{ path: altered, problem: "its manifest was altered" }],
  });
  const removed = prune.removed.flatMap(({ path }) =>
    [path, manifestPath(path)].map((each) => basename(each)),
  );
  expect(await readdir(folder)).toEqual(before.filter((name) => !removed.includes(name)));
});

test("prune keeps the last backup that verifies, and removes nothing without one", async () => {
  const { folder, newest } = await withBackup();
  const older = await madeAt(newest, machine.store, "2026-03-01T01:00:00.000Z");
  const oldest = await madeAt(newest, machine.store, "2026-02-01T01:00:00.000Z");
  // The manifest is authentic: only reading the whole file shows the damage.
  await damage(newest);
  const { code, document } = await machine.json("prune", folder, "--keep-last", "1");
  expect(code).toBe(0);
  expect((document as unknown as Pruned).prune).toMatchObject({
    kept: [
      { path: newest, rules: ["last"] },
      { path: older, rules: [] },
    ],
    removed: [{ path: oldest }],
    verified: older,
  });
  await damage(older);
  const left = await readdir(folder);
  const refused = await machine.run(["prune", folder, "--keep-last", "1"]);
  expect(refused.code).toBe(14);
  expect(refused.stderr).toMatch(/no backup verifies; nothing was removed/);
  expect(await readdir(folder)).toEqual(left);
});

test("prune refuses a backup from the future, because the newest one is unknown", async () => {
  const { folder, newest } = await withBackup();
  const future = await madeAt(newest, machine.store, "2199-03-01T01:00:00.000Z");
  const before = await readdir(folder);
  const refused = await machine.run(["prune", folder, "--keep-last", "1"]);
  expect(refused.code).toBe(17);
  expect(refused.stderr).toContain(future);
  expect(await readdir(folder)).toEqual(before);
  expect(await checkLastBackup(placesWith(folder))).toMatchObject({
    ok: false,
    severity: "warning",
  });
});

test("a clock behind the newest backup is refused by backup and prune, unless --yes is given", async () => {
  const { folder, newest } = await withBackup();
  await madeAt(newest, machine.store, "2199-03-01T01:00:00.000Z");
  const older = await madeAt(newest, machine.store, "2026-01-01T01:00:00.000Z");
  const before = await readdir(folder);
  const backup = ["backup", "--service", "none", "--to", folder];
  for (const args of [backup, ["prune", folder, "--keep-last", "2"]]) {
    const { code, stderr } = await machine.run(args);
    expect([code, stderr]).toEqual([17, expect.stringContaining("is in the future")]);
    expect(stderr).toContain("--yes");
  }
  expect(await readdir(folder)).toEqual(before);
  expect((await machine.run([...backup, "--yes"])).code).toBe(0);
  expect(await readdir(folder)).toHaveLength(before.length + 2);
  expect((await machine.run(["prune", folder, "--keep-last", "3", "--yes"])).code).toBe(0);
  expect(await readdir(folder)).not.toContain(basename(older));
});

test("a forged backup from the future stops no backup", async () => {
  const { folder, newest } = await withBackup();
  const future = await madeAt(newest, machine.store, "2199-03-01T01:00:00.000Z");
  const text = await readFile(manifestPath(future), "utf8");
  await writeFile(manifestPath(future), text.replace('"active": 1', '"active": 2'));
  expect((await machine.run(["backup", "--service", "none", "--to", folder])).code).toBe(0);
});

test.each([
  ["a new client", ["add-client"]],
  // In WAL mode, a change of a row alone moves neither the change counter nor a number of clients.
  ["a new name", ["rename-client", "1", "--name", "kitchen"]],
])(
  "prune keeps the newest contents, %s, which a wrong clock has dated first",
  async (_, change) => {
    const own = await Machine.make();
    await writeFile(own.path("passphrase"), passphrase, { mode: 0o600 });
    await own.init(
      ...["--passphrase-file", own.path("passphrase")],
      ...["--to", own.path("backups"), "--bundle-to", own.path("bundles")],
    );
    const made = async () => {
      const { document } = await own.json("backup", "--service", "none", "--online");
      return (document.backup as { path: string }).path;
    };
    expect((await own.run(["add-client"])).code).toBe(0);
    const old = await made();
    // A process that keeps the store open, like a hub, keeps the change in the log.
    await using hub = await ClientStore.open(own.store, passphrase);
    expect((await own.run(change)).code).toBe(0);
    const newest = await made();
    const dated = await madeAt(newest, own.store, "2019-01-01T00:00:30.000Z");
    await rm(newest);
    await rm(manifestPath(newest));
    const prune = ["prune", own.path("backups"), "--keep-last", "1"];
    const { code, stdout, stderr } = await own.run(prune);
    expect([code, stderr]).toEqual([0, expect.stringContaining(`${dated} stays`)]);
    expect(stdout).toContain(`${dated}  (newest contents)`);
    // Newest first, as they are dated.
    const kept = stdout.split("\n").filter((line) => line.startsWith("keep "));
    expect(kept.at(-1)).toContain(dated);
    expect(
      (await readdir(own.path("backups"))).filter((name) => name.endsWith(".db")).sort(),
    ).toEqual([basename(dated), basename(old)].sort());
    // A later backup has them too.
    await made();
    expect((await own.run(prune)).stderr).not.toContain("stays");
    expect(await readdir(own.path("backups"))).not.toContain(basename(dated));
    expect(await hub.connection.get("PRAGMA journal_mode")).toEqual({ journal_mode: "wal" });
  },
);

test("prune counts days in the local time zone, with --utc in UTC", async () => {
  const { folder, newest } = await withBackup();
  // One day in New York, two in UTC.
  const evening = await madeAt(newest, machine.store, "2026-03-02T02:00:00.000Z");
  const morning = await madeAt(newest, machine.store, "2026-03-01T15:00:00.000Z");
  const removed = async (...args: string[]) => {
    const prune = ["prune", folder, "--keep-daily", "5", "--dry-run", "--json", ...args];
    const { stdout } = await machine.run(prune, { env: { TZ: "America/New_York" } });
    return (JSON.parse(stdout) as Pruned).prune.removed.map(({ path }) => path);
  };
  expect(await removed()).toEqual([morning]);
  expect(await removed("--utc")).toEqual([]);
  expect(await readdir(folder)).toContain(basename(evening));
});

test("a kill between a backup and its manifest is finished by the next prune", async () => {
  const { folder, newest } = await withBackup();
  const half = await madeAt(newest, machine.store, "2026-03-01T01:00:00.000Z");
  await rm(half);
  // A split backup has no file of this name either, but keeps its manifest.
  const split = await madeAt(newest, machine.store, "2026-02-01T01:00:00.000Z");
  await rename(split, `${split}.002`);
  const { code, document } = await machine.json("prune", folder, "--keep-last", "1");
  expect(code).toBe(0);
  // The result names the manifest, for an operator who moved the backup away.
  const { removed, freed } = (document as unknown as Pruned).prune;
  expect(removed).toContainEqual(
    expect.objectContaining({ path: expect.stringMatching(/manifest\.json$/), size: 0 }),
  );
  expect(freed).toBe(removed.reduce((sum, { size }) => sum + size, 0));
  expect((await readdir(folder)).sort()).toEqual(
    [newest, manifestPath(newest), `${split}.002`, manifestPath(split)]
      .map((path) => basename(path))
      .sort(),
  );
});

test("prune asks nothing about the backups that another machine made before this one took over the store's id", async () => {
  const { folder, newest } = await withBackup();
  await madeAt(newest, machine.store, "2026-03-01T01:00:00.000Z", { hostname: "attic" });
  expect((await machine.run(["prune", folder, "--keep-last", "1"])).code).toBe(0);
  expect(await readdir(folder)).toHaveLength(2);
  // The other machine goes on: its store may be a copy of this one.
  // One second later: a backup of the same second would have the same name.
  const later = new Date(Date.now() + 1000).toISOString();
  await madeAt(newest, machine.store, later, { hostname: "attic" });
  const { code, stderr } = await machine.run(["prune", folder, "--keep-last", "1"]);
  expect([code, stderr]).toEqual([2, expect.stringContaining("2 machines and are counted")]);
});

test("prune asks nothing about the backups that this machine made under a former name", async () => {
  const { folder, newest } = await withBackup();
  const { store_id: id } = await readManifest(manifestPath(newest));
  vi.stubEnv("XDG_STATE_HOME", machine.path("state-of-renamed"));
  onTestFinished(() => void vi.unstubAllEnvs());
  await writeStoreRecord(machine.store, "store-id", { id, since: "2026-01-01T00:00:00Z" });
  const before = { hostname: "dhcp-17" };
  await madeAt(newest, machine.store, "2026-03-01T01:00:00.000Z", before);
  const asked = async () => {
    const notices: string[] = [];
    const reporter = { ...silent, notice: (text: string) => notices.push(text) };
    const { removed } = await prune({ ...pruning(folder), dryRun: true, reporter });
    return [removed.length, notices];
  };
  expect(await asked()).toEqual([1, []]);
  // This machine may be a clone of the other one, which goes on.
  const yesterday = new Date(Date.now() - 24 * 60 * 60 * 1000).toISOString();
  const recent = await madeAt(newest, machine.store, yesterday, before);
  expect(await asked()).toEqual([2, [expect.stringContaining(`${hostname()}, dhcp-17`)]]);
  await localFiles.remove(recent);
  // This machine had its present name before, too.
  await madeAt(newest, machine.store, "2026-02-01T01:00:00.000Z");
  expect(await asked()).toEqual([2, []]);
  // It had the other name for a night, in which it made no backup under its own.
  for (const day of ["02-27", "02-28", "03-02"]) {
    await madeAt(newest, machine.store, `2026-${day}T01:00:00.000Z`);
  }
  expect(await asked()).toEqual([5, []]);
  // The other machine was a clone, which made a backup between two of this machine.
  const between = await madeAt(newest, machine.store, "2026-03-01T00:30:00.000Z");
  expect(await asked()).toEqual([6, [expect.stringContaining(`${hostname()}, dhcp-17`)]]);
  await localFiles.remove(between);
  // It made several at the same time as this machine.
  await madeAt(newest, machine.store, "2026-01-15T01:00:00.000Z", before);
  expect(await asked()).toEqual([6, [expect.stringContaining(`${hostname()}, dhcp-17`)]]);
});

test("prune counts backups of several machines together only after a confirmation", async () => {
  const { folder, newest } = await withBackup();
  const attic = { hostname: "attic", hasId: false };
  await madeAt(newest, machine.store, "2026-03-01T01:00:00.000Z", attic);
  const before = await readdir(folder);
  const keep = ["prune", folder, "--keep-last", "1"];
  const asked = await machine.run(keep);
  expect(asked.code).toBe(2);
  expect(asked.stderr).toContain(`2 machines and are counted together: ${hostname()}, attic`);
  expect(asked.stderr).toContain("--yes");
  expect((await machine.run([...keep, "--dry-run"])).stderr).toContain("attic");
  expect(await readdir(folder)).toEqual(before);
  // Without a removal there is no question.
  expect((await machine.run(["prune", folder, "--keep-last", "2"])).code).toBe(0);
  expect((await machine.run([...keep, "--yes"])).code).toBe(0);
  expect(await readdir(folder)).toHaveLength(2);
});

test("doctor names the machine that made the newest backup, if it is another", async () => {
  const { folder, newest } = await withBackup();
  await madeAt(newest, machine.store, new Date(Date.now() + 1000).toISOString(), {
    hostname: "attic",
  });
  expect(await checkLastBackup(placesWith(folder))).toMatchObject({
    ok: true,
    detail: expect.stringContaining(" on attic"),
  });
});

test.each(["SIGINT", "SIGTERM"])("%s interrupts prune between two backups", async (signal) => {
  const { folder, newest } = await withBackup();
  const months = ["05", "04", "03", "02"];
  const older = await Promise.all(
    months.map((month) => madeAt(newest, machine.store, `2026-${month}-01T01:00:00.000Z`)),
  );
  const { code, stderr } = await machine.run(["prune", folder, "--keep-last", "1"], {
    env: {
      NODE_OPTIONS: `--import=${root}test/faults/kill-at-step.mjs`,
      HIVEMIND_TEST_STEP: "backup-file.removed",
      HIVEMIND_TEST_SIGNAL: signal,
    },
  });
  expect(code).toBe(130);
  expect(stderr).toMatch(new RegExp(`interrupted by ${signal} .*: 1 of 4 backups were removed`));
  const staying = [newest, ...older.slice(1)].flatMap((path) => [path, manifestPath(path)]);
  expect((await readdir(folder)).sort()).toEqual(staying.map((path) => basename(path)).sort());
  expect((await machine.run(["prune", folder, "--keep-last", "1"])).code).toBe(0);
  expect(await readdir(folder)).toHaveLength(2);
});

test("prune removes nothing if it is interrupted before the first removal", async () => {
  const { folder, newest } = await withBackup();
  await madeAt(newest, machine.store, "2026-03-01T01:00:00.000Z");
  const before = await readdir(folder);
  const interrupted = prune({
    ...pruning(folder),
    signal: AbortSignal.abort(new StoreError("interrupted", "interrupted by a test")),
  });
  await expect(interrupted).rejects.toMatchObject({
    kind: "interrupted",
    message: "interrupted by a test",
  });
  expect(await readdir(folder)).toEqual(before);
});

test("prune removes nothing without the passphrase", async () => {
  const { folder, newest } = await withBackup();
  await madeAt(newest, machine.store, "2026-03-01T01:00:00.000Z");
  const before = await readdir(folder);
  await writeFile(machine.path("wrong"), "another", { mode: 0o600 });
  const source = ["--passphrase-source", `file:${machine.path("wrong")}`];
  const { code, document } = await machine.json("prune", folder, "--keep-last", "1", ...source);
  expect(code).toBe(0);
  expect((document as unknown as Pruned).prune).toMatchObject({ kept: [], removed: [] });
  expect((document as unknown as Pruned).prune.left).toHaveLength(2);
  const absent = ["--passphrase-source", `file:${machine.path("absent")}`];
  expect((await machine.run(["prune", folder, "--keep-last", "1", ...absent])).code).toBe(13);
  expect(await readdir(folder)).toEqual(before);
});

test("prune --bundles removes a bundle only if no backup and no store needs it", async () => {
  const { folder, newest } = await withBackup();
  const old = await madeAt(newest, machine.store, "2026-03-01T01:00:00.000Z");
  await rm(newest);
  await rm(manifestPath(newest));
  const rotated = await machine.json(
    "rotate",
    "--keep-previous",
    "--hub",
    "none",
    "--service",
    "none",
  );
  expect(rotated.code).toBe(0);
  const { document } = await machine.json("backup", "--service", "none", "--to", folder);
  const current = document.backup as { path: string; key_id: string };
  const oldKey = (await readManifest(manifestPath(old))).key_id;
  const bundles = machine.path("bundles");
  const foreign = join(bundles, "clients.0123456789abcdef.bundle.age");
  await copyFile(join(bundles, `clients.${oldKey}.bundle.age`), foreign);

  const names = await readdir(bundles);
  const withoutAsking = await machine.json("prune", folder, "--keep-last", "1", "--dry-run");
  expect((withoutAsking.document as unknown as Pruned).prune.removed_bundles).toEqual([]);
  // The disk, or the server, refuses to remove the old backup.
  const refused = await prune({
    ...{ folder, storePath: machine.store, source: { kind: "keyring" }, keep: { last: 1 } },
    bundles: { directory: bundles, otherFolders: [], otherStores: [], otherKeyIds: [] },
    dryRun: false,
    files: {
      ...localFiles,
      remove: () => Promise.reject(new StoreError("io", "refused")),
    },
    reporter: { notice: () => {}, detail: () => {}, confirm: async () => {} },
  });
  expect(refused).toMatchObject({ removedBundles: [], notRemoved: [{ path: old }] });
  expect(await readdir(bundles)).toEqual(names);
  // Next to the store is a copy that only the old bundle opens.
  const replaced = `${machine.store}.replaced.2026-03-01T01-00-00Z`;
  await copyFile(old, replaced);
  const needed = await machine.json("prune", folder, "--keep-last", "1", "--bundles");
  expect((needed.document as unknown as Pruned).prune).toMatchObject({
    kept: [{ path: current.path }],
    removed: [{ path: old }],
    removed_bundles: [],
  });
  await rm(replaced);
  // The settings name another directory, with a backup of that key whose first bytes are damaged.
  const bytes = await readFile(original);
  await writeFile(original, Buffer.from(bytes).fill(0, 0, 512));
  const elsewhere = await machine.json("prune", folder, "--keep-last", "1", "--bundles");
  await writeFile(original, bytes);
  expect((elsewhere.document as unknown as Pruned).prune.removed_bundles).toEqual([]);
  // The disk of that directory is not mounted.
  await rename(dirname(original), `${dirname(original)}.away`);
  const away = await machine.run(["prune", folder, "--keep-last", "1", "--bundles"]);
  expect([away.code, away.stderr]).toEqual([
    18,
    expect.stringContaining("cannot tell which bundles are needed"),
  ]);
  await rename(`${dirname(original)}.away`, dirname(original));
  // Only a remote in the settings has a backup of that key.
  const remote = machine.path("remote");
  await rename(dirname(original), remote);
  await mkdir(dirname(original));
  await mkdir(machine.path("config", "rclone"));
  await writeFile(machine.path("config", "rclone", "rclone.conf"), "[offsite]\ntype = local\n");
  const settingsPath = machine.path("config", "hivemind-sqlcipher", "config.json");
  const settings = JSON.parse(await readFile(settingsPath, "utf8"));
  settings.backup.copies = [`rclone:offsite:${remote}`];
  await writeFile(settingsPath, JSON.stringify(settings));
  const copied = await machine.json("prune", folder, "--keep-last", "1", "--bundles");
  expect((copied.document as unknown as Pruned).prune.removed_bundles).toEqual([]);
  // Its manifest cannot be read, or is missing.
  const [manifest = ""] = (await readdir(remote)).filter((name) => name.endsWith(".json"));
  for (const damage of [
    () => writeFile(join(remote, manifest), "{"),
    () => rm(join(remote, manifest)),
  ]) {
    await damage();
    const damaged = await machine.json("prune", folder, "--keep-last", "1", "--bundles");
    expect((damaged.document as unknown as Pruned).prune.removed_bundles).toEqual([]);
  }
  // The pruned remote has a backup of another store with that key.
  const shared = machine.path("shared");
  await mkdir(shared);
  const [own = ""] = await readdir(remote);
  await rename(join(remote, own), join(shared, own.replace("clients.", "hub.")));
  const remoteTarget = `rclone:offsite:${shared}`;
  const ofAnother = await machine.json("prune", remoteTarget, "--keep-last", "1", "--bundles");
  expect((ofAnother.document as unknown as Pruned).prune.removed_bundles).toEqual([]);
  await rm(remote, { recursive: true });
  const unreachable = await machine.run(["prune", folder, "--keep-last", "1", "--bundles"]);
  expect([unreachable.code, unreachable.stderr]).toEqual([10, expect.stringContaining(remote)]);
  await mkdir(remote);
  // The last backup with that key is gone, but the keyring still has its passphrase.
  const last = await machine.json("prune", folder, "--keep-last", "1", "--bundles");
  const { removed_bundles: removed } = (last.document as unknown as Pruned).prune;
  expect(removed.map((path) => basename(path))).toEqual(
    names.filter((name) => name.includes(oldKey)).sort(),
  );
  expect((await readdir(bundles)).sort()).toEqual(
    names.filter((name) => !name.includes(oldKey)).sort(),
  );
});
