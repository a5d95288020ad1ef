/** Several hubs with one target: their stores have one name and one passphrase, but several ids. */
import {
  mkdir,
  readdir,
  readFile,
  rename,
  rm,
  symlink,
  truncate,
  writeFile,
} from "node:fs/promises";
import { basename, dirname, join } from "node:path";
import { afterAll, beforeAll, expect, test } from "vitest";
import { directoryFiles } from "../../src/backup/fleet.js";
import { verifyStores } from "../../src/backup/fleet-verify.js";
import {
  formatManifest,
  manifestPath,
  readManifest,
  signManifest,
} from "../../src/backup/manifest.js";
import { Machine } from "../cli/machine.js";
import { backupsIn, flipByte, Original, unsoundIn } from "./backups.js";
import { Servers } from "./servers.js";

let servers: Servers;
let attic: Original;
let cellar: Original;
/** Its passphrase is another. */
let loft: Original;

beforeAll(async () => {
  [servers, attic, cellar, loft] = await Promise.all([
    ...([Servers.start(), Original.make(), Original.make()] as const),
    Original.make("battery staple"),
  ]);
});

afterAll(async () => {
  await Promise.all([attic.remove(), cellar.remove(), loft.remove()]);
  await servers.stop();
});

interface Listed {
  readonly backups: { path: string; store_id: string | null; mac: boolean | null }[];
  readonly of_other_stores: number;
}

async function list({ machine }: Original, target: string): Promise<Listed> {
  const { code, document } = await machine.json("backups", target);
  expect([code, document]).toEqual([0, expect.objectContaining({ backups: expect.anything() })]);
  return document as unknown as Listed;
}

/** Copies backups of the same seconds to the target from both hubs at once. */
async function copyBoth(target: string) {
  const locals = await Promise.all([attic.backups(1, 2, 3), cellar.backups(1, 2, 3)]);
  const copied = await Promise.all(locals.map((local) => local.copy({ to: [target] })));
  expect(copied.flatMap(({ reports }) => reports.flatMap(({ errors }) => errors))).toEqual([]);
  const [ofAttic = [], ofCellar = []] = await Promise.all(locals.map((each) => each.copyNames()));
  return { locals, ofAttic, ofCellar };
}

test.each([
  ["a directory", () => attic.newPath()],
  ["a WebDAV server", () => "rclone:webdav:fleet"],
])("two hubs that back up in the same second share %s without mixing", async (_, targetOf) => {
  const target = targetOf();
  const folder = target.startsWith("/") ? target : join(servers.files, "fleet");
  const { locals, ofAttic, ofCellar } = await copyBoth(target);
  expect(await backupsIn(folder)).toEqual([...ofAttic, ...ofCellar].sort());
  expect(await unsoundIn(folder)).toEqual([]);

  const listed = await list(attic, target);
  expect(listed.backups.map(({ path }) => basename(path)).reverse()).toEqual(ofAttic);
  expect(listed.backups.every(({ mac, store_id }) => mac && store_id === attic.storeId)).toBe(true);
  expect(listed.of_other_stores).toBe(3);

  const { code, stderr } = await attic.machine.run(["prune", target, "--keep-last", "1"]);
  expect([code, stderr]).toEqual([0, ""]);
  expect(await backupsIn(folder)).toEqual([...ofAttic.slice(2), ...ofCellar].sort());
  // The newest of the other hub does not keep a hub's own from being caught up.
  const [local] = locals;
  await local?.add(4);
  await cellar.backups(9).then((other) => other.copy({ to: [target] }));
  const { reports } = (await local?.copy({ to: [target] })) ?? {};
  expect(reports?.[0]?.copied.map(({ path }) => basename(path))).toEqual([local?.copyName(4)]);
  const verify = await cellar.machine.run(["verify", `${target}/${ofCellar[0]}`]);
  expect(verify.code).toBe(0);
});

test.each([
  ["a directory", () => attic.newPath()],
  ["a WebDAV server", () => "rclone:webdav:all"],
])("--all lists and verifies every store of %s", async (_, targetOf) => {
  const target = targetOf();
  const folder = target.startsWith("/") ? target : join(servers.files, "all");
  const locals = await Promise.all([attic, cellar, loft].map((hub) => hub.backups(1, 2)));
  for (const local of locals) await local.copy({ to: [target] });
  const [ofAttic, , ofLoft] = locals;
  await writeFile(join(folder, "clients.2026-01-09T00-00-00Z.db"), "not yet complete");
  await writeFile(join(folder, "notes.txt"), "no backup");

  const { document } = await attic.machine.json("backups", target, "--all");
  const stores = document.stores as { store_id: string; own: boolean }[];
  expect(stores.map(({ store_id }) => store_id).sort()).toEqual(
    [attic, cellar, loft].map(({ storeId }) => storeId).sort(),
  );
  const [own, ...none] = stores.filter((store) => store.own);
  expect(none).toEqual([]);
  expect(own).toMatchObject({
    ...{ store_id: attic.storeId, name: "clients", backups: 2, incomplete: 0 },
    oldest: "2026-01-01T00:00:00.000Z",
    newest: { path: `${target}/${ofAttic?.copyName(2)}`, created_at: "2026-01-02T00:00:00.000Z" },
  });
  const problem = "the backup has no manifest";
  const incomplete = { path: `${target}/clients.2026-01-09T00-00-00Z.db`, problem };
  expect(document).toMatchObject({ folder: target, others: [incomplete], others_count: 1 });
  const { stdout } = await attic.machine.run(["backups", target, "--all"]);
  expect(stdout).toContain("clients (own)");
  for (const { storeId } of [attic, cellar, loft]) expect(stdout).toContain(storeId);

  // One passphrase opens the backups of two stores, but not those of the third.
  const verified = await attic.machine.json("verify", "--all", target);
  expect([verified.code, verified.document.backups]).toEqual([0, expect.anything()]);
  const verdicts = verified.document.stores as { store_id: string; reason: string | null }[];
  expect(verdicts).toHaveLength(3);
  for (const verdict of verdicts) {
    const isLoft = verdict.store_id === loft.storeId;
    expect(verdict).toMatchObject({ intact: isLoft ? 0 : 2, not_opened: isLoft ? 2 : 0 });
    expect(verdict.reason === null).toBe(!isLoft);
  }
  const bundles = ["--bundle-to", dirname(loft.bundle)];
  const locked = await attic.machine.run(["verify", "--all", target, ...bundles]);
  expect([locked.code, locked.stdout]).toEqual([0, expect.stringContaining("--identity FILE")]);
  const key = ["--identity", loft.machine.path("safe", "recovery-key.txt")];
  const { code, stdout: text } = await attic.machine.run([
    ...["verify", "--all", target, ...bundles, ...key],
  ]);
  expect([code, text]).toEqual([
    0,
    expect.stringContaining("6 intact, 0 not intact, 0 not opened, of 3 stores"),
  ]);

  const [missing, flipped] = [`${ofAttic?.copyName(1)}`, `${ofLoft?.copyName(1)}`];
  await rm(join(folder, missing));
  await flipByte(join(folder, flipped));
  const bad = await attic.machine.json("verify", "--all", target, ...bundles, ...key);
  const results = bad.document.backups as { path: string; ok: boolean; problem: string }[];
  expect([
    bad.code,
    results
      .filter(({ ok }) => !ok)
      .map(({ path }) => basename(path))
      .sort(),
  ]).toEqual([14, [missing, flipped].sort()]);
  const empty = await Machine.make();
  await rm(join(folder, missing.replace(/\.db$/, ".manifest.json")));
  const unopened = await empty.run(["verify", "--all", target]);
  expect([unopened.code, unopened.stdout]).toEqual([12, expect.stringContaining("5 not opened")]);
});

test("verify --all reads the others if a backup of a remote is too large for this machine", async () => {
  const local = await attic.backups(1, 2, 3);
  const target = "rclone:webdav:large";
  await local.copy({ to: [target] });
  // Sparse: more than any disk has free.
  await truncate(join(servers.files, "large", local.copyName(1)), 2 ** 43);
  const { code, document } = await attic.machine.json("verify", "--all", target);
  const results = document.backups as { path: string; ok: boolean | null; problem: string }[];
  expect([code, results.map(({ ok }) => ok).toSorted()]).toEqual([18, [null, true, true]]);
  const [large] = results.filter(({ ok }) => ok === null);
  expect(large?.problem).toContain("no space left on device");
  expect(document.error).toMatchObject({ message: expect.stringContaining("1 backup could not") });
});

test("verify --all takes parts, and a manifest that cannot be read or is of a newer version, for no damage", async () => {
  const local = await attic.backups(1, 2, 3, 4, 5, 6);
  const path = (day: number) => manifestPath(local.path(day));
  const text = await readFile(path(1), "utf8");
  await rm(path(2));
  await symlink(path(2), path(2));
  await writeFile(path(3), text.replace('"version": 1', '"version": 99'));
  await writeFile(path(4), text.slice(0, 100));
  await writeFile(path(5), text);
  await rename(local.path(6), `${local.path(6)}.001`);
  const found = new Map<string, boolean | null>();
  const verifying = async () => {
    const secrets = { ...attic.secret, opener: undefined };
    for await (const { path, ok } of verifyStores(directoryFiles(local.folder), secrets)) {
      found.set(path, ok);
    }
  };
  await expect(verifying()).rejects.toMatchObject({
    ...{ kind: "io", message: expect.stringContaining("1 backup could not be read") },
  });
  const of = [1, 2, 3, 4, 5, 6].map((day) => found.get(local.path(day)));
  expect(of).toEqual([true, null, null, false, false, null]);
});

test("status --all finds the stores whose newest backup is old, incomplete or from the future", async () => {
  const [target, empty] = [attic.newPath(), attic.newPath()];
  await mkdir(empty);
  const locals = await Promise.all([attic, cellar, loft].map((hub) => hub.backups(1, 2)));
  for (const local of locals) await local.copy({ to: [target] });
  const status = (...args: string[]) => attic.machine.json("status", "--all", target, ...args);
  const problemsOf = ({ document }: Awaited<ReturnType<typeof status>>) =>
    Object.fromEntries(
      (document.stores as { store_id: string; problem: string | null }[]).map(
        ({ store_id, problem }) => [store_id, problem],
      ),
    );
  const all = (problem: string | null) => ({
    ...{ [attic.storeId]: problem, [cellar.storeId]: problem, [loft.storeId]: problem },
  });
  const late = await status();
  expect([late.code, problemsOf(late)]).toEqual([1, all("overdue")]);
  expect(late.document).toMatchObject({ max_age_seconds: 8 * 86_400, problems: 3, ok: false });
  const current = await status("--max-age", "99999d");
  expect([current.code, problemsOf(current)]).toEqual([0, all(null)]);

  // A copy that was truncated, a hub with a wrong clock, and an unfinished copy.
  const [, ofCellar, ofLoft] = locals;
  await truncate(join(target, `${ofCellar?.copyName(2)}`), 4096);
  const future = manifestPath(join(target, `${ofLoft?.copyName(2)}`));
  const text = await readFile(future, "utf8");
  await writeFile(
    future,
    text.replace(/"created_at": "[^"]+"/, '"created_at": "2999-01-01T00:00:00.000Z"'),
  );
  await writeFile(join(target, "clients.2026-01-09T00-00-00Z.db"), "not yet complete");
  const bad = await status("--max-age", "99999d");
  expect([bad.code, problemsOf(bad)]).toEqual([
    1,
    {
      [attic.storeId]: null,
      [cellar.storeId]: "newest incomplete",
      [loft.storeId]: "newest from the future",
    },
  ]);
  expect(bad.document).toMatchObject({ problems: 2, others_count: 1, unreadable_manifests: 0 });
  const quiet = await attic.machine.run(["status", "--all", target, "--max-age", "99999d", "-q"]);
  expect(quiet.stdout).not.toContain(attic.storeId);
  expect(quiet.stdout).toMatch(new RegExp(`^${cellar.storeId} .* NEWEST INCOMPLETE$`, "m"));

  // A manifest that cannot be read may be that of the newest backup.
  await writeFile(future, text.slice(0, 100));
  const unreadable = await status("--max-age", "99999d");
  expect([unreadable.code, problemsOf(unreadable)[loft.storeId]]).toEqual([1, null]);
  expect(unreadable.document).toMatchObject({ problems: 1, unreadable_manifests: 1, ok: false });

  const run = async (...args: string[]) => {
    const { code, stdout, stderr } = await attic.machine.run(["status", ...args]);
    return [code, stdout + stderr];
  };
  expect(await run("--all", empty)).toEqual([1, `No backups in ${empty}\n`]);
  expect(await run("--all", `${empty}/absent`)).toEqual([10, expect.anything()]);
  expect(await run("--all", target, "--max-age", "1w")).toEqual([
    2,
    expect.stringContaining('"1w" is not an age'),
  ]);
  expect(await run(target)).toEqual([2, expect.stringContaining("only with --all")]);
});

test("backups and clients of another store in one local directory stay apart", async () => {
  const { machine } = cellar;
  const folder = attic.newPath();
  const args = ["--service", "none", "--to", folder];
  const first = await attic.machine.json("backup", ...args);
  expect((await machine.json("backup", ...args)).code).toBe(0);
  expect((await machine.json("backup", ...args)).code).toBe(0);
  const { path } = first.document.backup as { path: string };
  expect((await machine.run(["prune", folder, "--keep-last", "1"])).code).toBe(0);
  expect(await backupsIn(folder)).toHaveLength(2);
  expect(await backupsIn(folder)).toContain(basename(path));
  const { document } = await attic.machine.json(
    ...["restore", "--from-time", "2100-01-01", "--service", "none", "--hub", "none", "--yes"],
  );
  // The other hub's newest backup has the same passphrase, but is not this store's.
  expect(document).toMatchObject({ restored: { backup: expect.not.stringContaining(folder) } });
});

test("a store that is restored on an empty machine keeps its id, also in its bundle", async () => {
  const empty = await Machine.make();
  const key = ["--identity", attic.machine.path("safe", "recovery-key.txt")];
  const restore = ["restore", attic.backup, "--bundle", attic.bundle, ...key];
  expect((await empty.run([...restore, "--service", "none", "--hub", "none", "--yes"])).code).toBe(
    0,
  );
  const { document } = await empty.json(
    ...["backup", "--service", "none", "--to", empty.path("backups")],
    ...["--bundle-to", empty.path("bundles"), "--recovery-key-file", empty.path("key.txt")],
  );
  const { path } = document.backup as { path: string };
  expect((await readManifest(manifestPath(path))).store_id).toBe(attic.storeId);
  const bundle = (document.bundle as { path: string }).path;
  const shown = await empty.json("bundle", "show", bundle, "--identity", empty.path("key.txt"));
  expect(shown.document).toMatchObject({ bundle: { contents: { store_id: attic.storeId } } });
});

/** Signs a backup's manifest again, with another machine or without an id. */
async function resign(path: string, by: Original, { hostname = "", hasId = true }): Promise<void> {
  const { format, version, mac, store_id, ...contents } = await readManifest(manifestPath(path));
  const changed = { ...contents, ...(hostname && { hostname }), ...(hasId && { store_id }) };
  await writeFile(manifestPath(path), formatManifest(signManifest(changed, by.key)));
}

test("backups of earlier versions, without an id, are counted by their key as before", async () => {
  const local = await attic.backups(1, 2, 3);
  await resign(local.path(1), attic, { hasId: false });
  await resign(local.path(2), attic, { hasId: false });
  const { backups } = await list(attic, local.folder);
  expect(backups.map(({ store_id: id, mac }) => [id, mac])).toEqual([
    ...[[attic.storeId, true]],
    ...[[null, true]],
    ...[[null, true]],
  ]);
  const usb = attic.newPath();
  await local.copy({ to: [usb] });
  expect(await backupsIn(usb)).toEqual([local.name(1), local.name(2), local.copyName(3)]);
  const pruned = await attic.machine.run(["prune", usb, "--keep-last", "1"]);
  expect([pruned.code, pruned.stderr]).toEqual([0, ""]);
  expect(await backupsIn(usb)).toEqual([local.copyName(3)]);
});

test("a manifest whose store id was replaced is listed as altered", async () => {
  const local = await attic.backups(1, 2);
  const path = manifestPath(local.path(1));
  await writeFile(path, (await readFile(path, "utf8")).replace(attic.storeId, cellar.storeId));
  const { backups, of_other_stores: others } = await list(attic, local.folder);
  expect([backups.map(({ mac }) => mac), others]).toEqual([[true, false], 0]);
  expect((await attic.machine.run(["prune", local.folder, "--keep-last", "1"])).code).toBe(0);
  expect(await backupsIn(local.folder)).toHaveLength(2);
  expect((await attic.machine.run(["verify", local.path(1)])).code).toBe(14);
});

test("a lost record of the id is restored from the backups of this machine, but of no other", async () => {
  const local = await Original.make();
  const { machine } = local;
  const state = machine.path("state", "hivemind-sqlcipher");
  const forget = async () => {
    const [record] = (await readdir(state)).filter((name) => name.startsWith("store-id-"));
    await rm(join(state, `${record}`));
  };
  const backUp = async () => {
    const { document } = await machine.json("backup", "--service", "none");
    const { path } = document.backup as { path: string };
    return { path, id: (await readManifest(manifestPath(path))).store_id };
  };
  await forget();
  const second = await backUp();
  expect(second.id).toBe(local.storeId);
  // The newest with an id is another machine's: is this a copy of its store?
  await resign(second.path, local, { hostname: "attic" });
  await forget();
  expect((await backUp()).id).toBeUndefined();
  expect((await machine.run(["prune", dirname(second.path), "--keep-last", "1"])).stderr).toContain(
    "2 machines and are counted together",
  );
  await local.remove();
});
