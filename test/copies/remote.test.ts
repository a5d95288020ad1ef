/**
 * Copies on remotes of rclone, with rclone's own WebDAV and SFTP servers on loopback: backup, list,
 * verify, prune and restore; servers that refuse, fail and lose connections; and kills.
 */
import { execFile, execFileSync } from "node:child_process";
import { randomBytes } from "node:crypto";
import { copyFile, mkdir, readdir, readFile, rm, stat, writeFile } from "node:fs/promises";
import { basename, join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { promisify } from "node:util";
import { afterAll, beforeAll, expect, onTestFinished, test } from "vitest";
import { type Listing, listBackups } from "../../src/backup/listing.js";
import { manifestPath } from "../../src/backup/manifest.js";
import { type PruneResult, prune } from "../../src/backup/prune.js";
import { verifyBackup } from "../../src/backup/verify.js";
import { planCopies } from "../../src/copies/plan.js";
import { withLocalFile, withView } from "../../src/copies/view.js";
import { Machine } from "../cli/machine.js";
import { proving } from "../prove-report.js";
import { backupsIn, flipByte, Original, passphrase, unfinishedIn, unsoundIn } from "./backups.js";
import { bucket, protocols, Servers, serverPassword } from "./servers.js";

let original: Original;
let servers: Servers;
let folders = 0;

const exec = promisify(execFile);

beforeAll(async () => {
  [servers, original] = await Promise.all([Servers.start(), Original.make()]);
});

afterAll(async () => {
  await original.remove();
  await servers.stop();
});

/** Returns a new directory on the servers: its name, and its path on this machine. */
function newFolder(): { name: string; path: string } {
  folders += 1;
  const name = `${bucket}/${folders}`;
  return { name, path: join(servers.files, name) };
}

/** The remotes that a test is repeated with. */
const remotes = proving ? protocols : (["webdav"] as const);

const silent = { notice: () => {}, detail: () => {}, confirm: async () => {} };

async function list(target: string): Promise<Listing> {
  const options = { storePath: original.machine.store, heads: "two of each key" } as const;
  return await withView(target, options, async ({ folder, translatePaths }) =>
    translatePaths(await listBackups({ ...original.secret, folder })),
  );
}

async function pruneTarget(target: string, keep: number): Promise<PruneResult> {
  const options = { storePath: original.machine.store, heads: "all" } as const;
  return await withView(target, options, async ({ folder, files, translatePaths }) =>
    translatePaths(
      await prune({
        ...{ ...original.secret, folder, files, keep: { last: keep } },
        ...{ dryRun: false, reporter: silent },
      }),
    ),
  );
}

/** Runs rclone as its user would. Returns its output. */
async function rclone(...args: string[]): Promise<string> {
  return (await exec("rclone", ["--retries", "1", ...args])).stdout;
}

async function verify(path: string): Promise<boolean> {
  return await withLocalFile(path, async (local) => (await verifyBackup(local, { passphrase })).ok);
}

test.each(protocols)("copies on %s are listed, verified and pruned there", async (remote) => {
  const local = await original.backups(1, 2);
  const [backups, bundles] = [newFolder(), newFolder()];
  const target = `rclone:${remote}:${backups.name}`;
  const run = { to: [target], bundlesTo: [`rclone:${remote}:${bundles.name}`] };
  const { reports } = await local.copy(run);
  expect(reports).toEqual([
    {
      ...{ target, contents: "backups", skipped: null, errors: [] },
      ...{ durationMs: expect.any(Number), postponed: 0 },
      copied: [1, 2].map((day) => ({
        ...{ path: `${target}/${local.copyName(day)}`, checkedBy: "read_back" },
        size: expect.any(Number),
      })),
    },
    expect.objectContaining({ contents: "bundle", errors: [], copied: [expect.anything()] }),
  ]);
  const copies = (await local.copyNames()).flatMap((name) => [name, manifestPath(name)]);
  expect((await readdir(backups.path)).sort()).toEqual(copies.sort());
  expect((await local.copy(run)).reports).toMatchObject([{ copied: [] }, { copied: [] }]);

  const { folder, backups: listed, others } = await list(target);
  expect([folder, others]).toEqual([target, []]);
  expect(listed).toMatchObject(
    [2, 1].map((day) => ({
      ...{ path: `${target}/${local.copyName(day)}`, present: true, mac: true },
    })),
  );
  const pruned = await pruneTarget(target, 1);
  expect(pruned.removed.map(({ path }) => path)).toEqual([`${target}/${local.copyName(1)}`]);
  expect(pruned).toMatchObject({ notRemoved: [], verified: `${target}/${local.copyName(2)}` });
  expect(await backupsIn(backups.path)).toEqual([local.copyName(2)]);
  // A bucket has no directories, so that each name in it is that of an empty one.
  const mistyped = remote === "s3" ? "rclone:s3:mistyped/1" : `${target}-mistyped`;
  await expect(list(mistyped)).rejects.toMatchObject({
    ...{ kind: "notFound", message: expect.stringContaining(mistyped) },
  });
});

test("the view of a remote has the space of one backup at a time, and keeps the first pages", async () => {
  const { name, path } = newFolder();
  await mkdir(path);
  const contents = randomBytes(300_000);
  const names = ["01", "02"].map((day) => `clients.2026-03-${day}T01-00-00Z.db`);
  for (const each of names) await writeFile(join(path, each), contents);
  const options = { storePath: original.machine.store, heads: "all" } as const;
  await withView(`rclone:webdav:${name}`, options, async ({ folder, files }) => {
    const [first = "", second = ""] = names.map((each) => join(folder, each));
    await files.makeReadable(first);
    expect(await readFile(first)).toEqual(contents);
    await files.makeReadable(second);
    expect(await readFile(second)).toEqual(contents);
    const { size, blocks } = await stat(first);
    expect(size).toBe(contents.length);
    expect(blocks * 512).toBeLessThan(100_000);
    expect((await readFile(first)).subarray(0, 65_536)).toEqual(contents.subarray(0, 65_536));
    await files.makeReadable(first);
    expect(await readFile(first)).toEqual(contents);
  });
});

test("a remote with SHA-256 of its own is not read back; an alias of the backups gets no bundle", async () => {
  const local = await original.backups(1);
  const folder = original.newPath();
  await servers.addRemote("disk", { type: "alias", remote: folder });
  const { reports } = await local.copy({ to: ["rclone:disk:a"], bundlesTo: ["rclone:disk:b"] });
  expect(reports).toMatchObject([
    { copied: [{ checkedBy: "remote_hash" }] },
    { copied: [{ checkedBy: "remote_hash" }] },
  ]);
  const refused = await local.copy({ to: [join(folder, "a")], bundlesTo: ["rclone:disk:a/b"] });
  expect(refused.reports[1]?.errors).toMatchObject([
    { kind: "refused", message: expect.stringContaining("is inside the backup directory") },
  ]);
  const planned = { to: "/b", bundleTo: "/k", copies: ["rclone:nas:x"] };
  for (const bundle of ["rclone:nas:x", "rclone:nas:x/y", "rclone:nas:"]) {
    const refusal = planCopies({ ...planned, bundleCopies: [bundle] });
    await expect(refusal).rejects.toMatchObject({ kind: "refused" });
  }
  await planCopies({ ...planned, bundleCopies: ["rclone:nas:xy", "rclone:usb:x"] });
});

test("a remote that is described in place, with credentials perhaps, is refused", async () => {
  for (const text of [
    "rclone::sftp,host=h,pass=x:p",
    "rclone:nas,pass=x:p",
    "rclone:nas",
    "rclone:-v:p",
    "rclone:nas:a/../b",
  ]) {
    const destinations = { to: "/b", bundleTo: "/k", copies: [text], bundleCopies: [] };
    await expect(planCopies(destinations)).rejects.toMatchObject({ kind: "usage" });
  }
});

test.each(remotes)(
  "an empty machine is restored from %s and the recovery key alone",
  async (remote) => {
    const { machine } = original;
    const [backups, bundles] = [newFolder(), newFolder()];
    const target = `rclone:${remote}:${backups.name}`;
    const strace = [
      "strace",
      "-f",
      "-s",
      "100000",
      "-e",
      "trace=execve",
      "-o",
      machine.path("trace"),
    ];
    const copyTo = ["--copy-to", target, "--copy-bundle-to", `rclone:${remote}:${bundles.name}`];
    await machine.run(["add-client"]);
    const backup = await machine.run(["backup", "--service", "none", ...copyTo], {
      before: strace,
    });
    expect(backup.code).toBe(0);
    // A target is saved only if none is.
    if (remote === remotes[0]) expect(backup.stderr).toContain("saved");
    const trace = await readFile(machine.path("trace"), "utf8");
    expect(trace).toContain("copyto");
    const config = await readFile(process.env.RCLONE_CONFIG ?? "", "utf8");
    const obscured = /pass = (\S+)/.exec(config)?.[1] ?? "";
    for (const secret of [passphrase, serverPassword, obscured])
      expect(trace).not.toContain(secret);

    const empty = await Machine.make();
    const listed = await empty.json("backups", target);
    const [newest] = listed.document.backups as { path: string; key_id: string; mac: null }[];
    expect(newest).toMatchObject({
      mac: null,
      path: expect.stringContaining(`${target}/clients.`),
    });
    const bundle = `rclone:${remote}:${bundles.name}/clients.${newest?.key_id}.bundle.age`;
    const key = ["--bundle", bundle, "--identity", machine.path("safe", "recovery-key.txt")];
    const from = newest?.path ?? "";
    expect((await empty.run(["verify", from, ...key])).code).toBe(0);
    const args = ["restore", from, ...key, "--service", "none", "--hub", "none", "--yes"];
    const { code, document } = await empty.json(...args);
    expect([code, document]).toEqual([0, expect.objectContaining({ restored: expect.anything() })]);
    expect(document.restored).toMatchObject({ path: empty.store, backup: from });
    const { document: clients } = await empty.json("list-clients");
    const { document: own } = await machine.json("list-clients");
    expect(clients.clients).toEqual(own.clients);
    expect((await empty.run(["drill", target])).code).toBe(0);

    // An older file under the newest name.
    await copyFile(
      join(backups.path, original.copyName(original.backup)),
      join(backups.path, basename(from)),
    );
    expect((await machine.run(["verify", from])).code).toBe(14);
  },
);

test.each(remotes)("a flipped byte, a cut and an older file are found on %s", async (remote) => {
  const local = await original.backups(1, 2, 3, 4);
  const { name, path } = newFolder();
  const target = `rclone:${remote}:${name}`;
  await local.copy({ to: [target] });
  await flipByte(join(path, local.copyName(1)));
  await writeFile(join(path, local.copyName(2)), (await readFile(local.path(2))).subarray(0, 8192));
  const [older, newer] = [3, 4].map((day) => join(path, local.copyName(day)));
  await copyFile(`${older}`, `${newer}`);
  await copyFile(manifestPath(`${older}`), manifestPath(`${newer}`));
  for (const day of [1, 2, 4]) {
    expect(await verify(`${target}/${local.copyName(day)}`)).toBe(false);
  }
  const { backups, others } = await list(target);
  expect(backups).toMatchObject([{ present: true }, { present: false }, { present: true }]);
  const problem = `the manifest belongs to ${local.name(3)}`;
  expect(others).toContainEqual(expect.objectContaining({ problem }));
  const { code } = await original.machine.run([
    ...["restore", `${target}/${local.copyName(1)}`, "--service", "none", "--hub", "none", "--yes"],
  ]);
  expect(code).toBe(14);
});

test("a server that refuses to remove, rename and overwrite keeps every copy, and prune reports it", async () => {
  const existing = (path: string) => join(servers.files, decodeURIComponent(path));
  const { existsSync } = await import("node:fs");
  await servers.addRefusing("worm", (method, path) => {
    const overwrites = method === "PUT" && existsSync(existing(path));
    return ["DELETE", "MOVE"].includes(method) || overwrites ? 403 : undefined;
  });
  const local = await original.backups(1, 2);
  const { name, path } = newFolder();
  const target = `rclone:worm:${name}`;
  expect((await local.copy({ to: [target] })).reports).toMatchObject([
    { errors: [], copied: [{ checkedBy: "read_back" }, { checkedBy: "read_back" }] },
  ]);
  const left = await unfinishedIn(path);
  // The marker of an earlier run cannot be removed. What is pruned there with other credentials is
  // copied again by this run, but by no later one.
  await copyFile(manifestPath(local.path(1)), join(path, `.${local.name(1)}.resume`));
  const removeFirst = async () => {
    const file = join(path, local.copyName(1));
    await Promise.all([rm(file), rm(manifestPath(file))]);
  };
  const nameOf = (copy: { path: string }) => basename(copy.path);
  await removeFirst();
  await local.add(3);
  const again = (await local.copy({ to: [target] })).reports[0];
  expect([again?.errors, again?.copied.map(nameOf)]).toEqual([
    [],
    [1, 3].map(local.copyName, local),
  ]);
  expect(await unfinishedIn(path)).toEqual(left);
  expect(left).toHaveLength(2);

  const pruned = await pruneTarget(target, 1);
  expect(pruned.removed).toEqual([]);
  expect(pruned.notRemoved.map((file) => file.path)).toEqual(
    [2, 1].map((day) => `${target}/${local.copyName(day)}`),
  );
  const { machine } = original;
  const { code, stderr } = await machine.run(["prune", target, "--keep-last", "1"]);
  expect([code, stderr]).toEqual([18, expect.stringContaining("2 backups")]);
  expect(await backupsIn(path)).toHaveLength(3);
  expect(await unsoundIn(path)).toEqual([]);

  await removeFirst();
  await local.add(4);
  expect((await local.copy({ to: [target] })).reports[0]?.copied.map(nameOf)).toEqual([
    local.copyName(4),
  ]);
});

test("OpenSSH's server that refuses to remove and rename keeps every copy", async () => {
  await servers.addRefusingOpenssh("append", "remove,rmdir,rename,posix-rename");
  const local = await original.backups(1, 2);
  const { name, path } = newFolder();
  const target = `rclone:append:${name}`;
  expect((await local.copy({ to: [target] })).reports).toMatchObject([
    { errors: [], copied: [{ checkedBy: "read_back" }, { checkedBy: "read_back" }] },
  ]);
  const pruned = await pruneTarget(target, 1);
  expect([pruned.removed, pruned.notRemoved]).toEqual([[], [expect.anything()]]);
  expect(await backupsIn(path)).toEqual([1, 2].map((day) => local.copyName(day)));
  expect(await unsoundIn(path)).toEqual([]);
});

test("a bucket with an object lock returns copies that an attacker removed and replaced", async () => {
  await servers.addObjectLock();
  const { machine } = original;
  const target = "rclone:writer:locked/hub";
  const local = await original.backups(1, 2);
  expect((await local.copy({ to: [target] })).reports).toMatchObject([
    { errors: [], copied: [{ checkedBy: "read_back" }, { checkedBy: "read_back" }] },
  ]);
  expect((await list(target)).backups).toMatchObject([{ mac: true }, { mac: true }]);
  const { code, stderr } = await machine.run(["prune", target, "--keep-last", "1"]);
  expect([code, stderr]).toEqual([18, expect.stringContaining("1 backup")]);
  const absent = await local.copy({ to: ["rclone:writer:absent/hub"] });
  expect(absent.reports[0]?.errors).toMatchObject([
    { kind: "notFound", hint: expect.stringContaining("rclone mkdir") },
  ]);

  const newest = `locked/hub/${local.copyName(2)}`;
  await sleep(1_100);
  const before = new Date().toISOString();
  await sleep(1_100);
  await writeFile(machine.path("other"), "other");
  await rclone("copyto", machine.path("other"), `writer:${newest}`);
  expect(await verify(`rclone:writer:${newest}`)).toBe(false);
  await rclone("delete", "owner:locked/hub");
  expect((await list("rclone:owner:locked/hub")).backups).toEqual([]);
  await expect(rclone("backend", "cleanup-hidden", "owner:locked/hub")).rejects.toThrow(
    "AccessDenied",
  );

  const returned = original.newPath();
  await rclone("copy", "--s3-version-at", before, "owner:locked/hub", returned);
  expect(await backupsIn(returned)).toEqual([1, 2].map((day) => local.copyName(day)));
  expect(await unsoundIn(returned)).toEqual([]);
});

test("a read-only server is enough to list and verify", async () => {
  await servers.addRefusing("reader", (method) =>
    ["GET", "HEAD", "PROPFIND", "OPTIONS"].includes(method) ? undefined : 403,
  );
  const local = await original.backups(1);
  const { name } = newFolder();
  await local.copy({ to: [`rclone:webdav:${name}`] });
  expect((await list(`rclone:reader:${name}`)).backups).toMatchObject([{ mac: true }]);
  expect(await verify(`rclone:reader:${name}/${local.copyName(1)}`)).toBe(true);
  await local.add(2);
  expect((await local.copy({ to: [`rclone:reader:${name}`] })).reports[0]?.errors).toMatchObject([
    { kind: "io", hint: expect.stringContaining("credentials and their rights") },
  ]);
});

/** What Go calls a cut connection depends on which side of it is noticed first. */
const cutConnection =
  /EOF|connection (reset|lost)|broken pipe|closed network connection|unexpected packet/;

test("each failure of a server has its code, and the next run catches up", async () => {
  await servers.addUntrusted("untrusted");
  await servers.addRefusing("full", (method) => (method === "PUT" ? 507 : undefined));
  await servers.addForeignHost("foreign");
  const failing = ["webdav", "s3", "openssh"] as const;
  for (const protocol of failing) {
    await servers.add(protocol, `${protocol}-wrong`, { password: "another password" });
    await servers.add(protocol, `${protocol}-down`, { port: 9 });
    await servers.addCut(protocol, `${protocol}-up`, { bytesTo: 7_000 });
    await servers.addCut(protocol, `${protocol}-down-cut`, { bytesFrom: 9_000 });
  }
  const io = { kind: "io" } as const;
  const failures = [
    {
      remote: "no-such-remote",
      kind: "usage",
      message: /didn't find section/,
      hint: /listremotes/,
    },
    { remote: "webdav-wrong", ...io, message: /401/, hint: /credentials/ },
    { remote: "s3-wrong", ...io, message: /403|SignatureDoesNotMatch/, hint: /credentials/ },
    { remote: "openssh-wrong", ...io, message: /unable to authenticate/, hint: /credentials/ },
    { remote: "untrusted", ...io, message: /certificate/, hint: /identified/ },
    { remote: "foreign", ...io, message: /knownhosts/, hint: /identified/ },
    { remote: "full", ...io, message: /507/, hint: /Free some space/ },
    ...(proving ? failing : ["webdav"]).flatMap((protocol) => [
      { remote: `${protocol}-down`, ...io, message: /connection refused/, hint: /reachable/ },
      { remote: `${protocol}-up`, ...io, message: cutConnection, hint: /reachable/ },
      { remote: `${protocol}-down-cut`, ...io, message: cutConnection, hint: /reachable/ },
    ]),
  ];
  for (const { remote, kind, message, hint } of failures) {
    const local = await original.backups(1);
    const { name, path } = newFolder();
    await mkdir(path, { recursive: true });
    const { reports } = await local.copy({ to: [`rclone:${remote}:${name}`] });
    const error = reports[0]?.errors[0];
    // The server of S3 removes a directory that is empty.
    await mkdir(path, { recursive: true });
    expect([remote, reports[0]?.errors.length, error?.kind]).toEqual([remote, 1, kind]);
    expect(error?.message).toMatch(message);
    expect(error?.message).not.toContain("\u001b");
    expect(error?.hint).toMatch(hint);
    expect([remote, await unsoundIn(path), await backupsIn(path)]).toEqual([remote, [], []]);
    if (!["full", "webdav-up", "openssh-up"].includes(remote)) continue;
    const { reports: later } = await local.copy({ to: [`rclone:webdav:${name}`] });
    expect(later[0]?.errors).toEqual([]);
    expect(await backupsIn(path)).toHaveLength(1);
    expect(await unfinishedIn(path)).toEqual([]);
  }
});

test.each(proving ? protocols : (["openssh"] as const))(
  "a server of %s whose disk is full gets no copy, and gets it later",
  async (remote) => {
    const local = await original.backups(1);
    const { name, path } = newFolder();
    await mkdir(path, { recursive: true });
    execFileSync("mount", ["-t", "tmpfs", "-o", "size=8k,mode=700", "tmpfs", path]);
    try {
      const { reports } = await local.copy({ to: [`rclone:${remote}:${name}`] });
      expect(reports).toMatchObject([{ copied: [], errors: [{ kind: "io" }] }]);
      expect(await unsoundIn(path)).toEqual([]);
    } finally {
      execFileSync("umount", ["-l", path]);
    }
    await mkdir(path, { recursive: true });
    const { reports } = await local.copy({ to: [`rclone:${remote}:${name}`] });
    expect(reports[0]?.errors).toEqual([]);
    expect(await unsoundIn(path)).toEqual([]);
    expect(await unfinishedIn(path)).toEqual([]);
  },
);

test("a download whose connection is cut is an error, not a damaged backup", async () => {
  await servers.addCut("webdav", "cut", { bytesFrom: 9_000 });
  const local = await original.backups(1);
  const { name } = newFolder();
  await local.copy({ to: [`rclone:webdav:${name}`] });
  await expect(verify(`rclone:cut:${name}/${local.copyName(1)}`)).rejects.toMatchObject({
    kind: "io",
  });
  const all = await original.machine.run(["verify", "--all", `rclone:cut:${name}`]);
  expect([all.code, all.stdout]).toEqual([18, expect.not.stringContaining("NOT INTACT")]);
  expect(all.stderr).toContain("rclone:cut:");
});

test.each(["verify", "restore", "drill"])(
  "an interrupted %s of a remote ends rclone and removes its private directory",
  async (command) => {
    const { connected, isOpen } = await servers.addSilent(`silent-${command}`);
    const TMPDIR = original.newPath();
    await mkdir(TMPDIR);
    const target = `rclone:silent-${command}:hubs`;
    const file = command === "drill" ? target : `${target}/${original.copyName(original.backup)}`;
    const { code, stderr } = await original.machine.run([command, file, "--yes"], {
      env: { TMPDIR },
      onSpawn: (child) => void connected.then(() => child.kill("SIGINT")),
    });
    expect([code, stderr]).toEqual([130, expect.stringContaining("interrupted by SIGINT")]);
    await expect.poll(isOpen, { timeout: 20_000 }).toBe(false);
    expect(await readdir(TMPDIR)).toEqual([]);
  },
);

test("while copies are uploaded, another operation is refused with the process to end", async () => {
  const { machine } = original;
  const { connected } = await servers.addSilent("silent-copy");
  let pid: number | undefined;
  const backup = machine.run(["backup", "--service", "none", "--copy-to", "rclone:silent-copy:a"], {
    onSpawn: (child) => {
      pid = child.pid;
    },
  });
  await connected;
  const prune = await machine.run(["prune", "--keep-last", "100"]);
  expect(prune.code).toBe(11);
  expect(prune.stderr).toContain(
    `another operation is running on ${machine.store} (${pid} (node))`,
  );
  expect(prune.stderr).toContain("the backup is kept");
  if (pid !== undefined) process.kill(pid, "SIGTERM");
  const { code, stderr } = await backup;
  expect([code, stderr]).toEqual([130, expect.stringContaining("is complete, but not every copy")]);
});

/** Replaces rclone for a test. */
async function replaceRclone(script: string): Promise<void> {
  const { PATH } = process.env;
  const folder = original.newPath();
  await mkdir(folder);
  await writeFile(join(folder, "rclone"), `#!/bin/sh\n${script}\n`, { mode: 0o700 });
  process.env.PATH = `${folder}:${PATH}`;
  onTestFinished(() => {
    process.env.PATH = PATH;
  });
}

test.each([
  "https://hub:s3cret@nas.example/hubs/x",
  "https://hub:s3@cret/s3cret@nas.example/hubs/x",
  "https://nas.example/hubs/x?sig=s3cret&mail=a@b",
  "https://nas.example/public.php/webdav/s3cret/x#s3cret",
])("an error shows no credentials in a URL: %s", async (url) => {
  await replaceRclone(
    `echo 'Failed to lsjson: Get "${url}": dial tcp: no route to host' >&2; exit 1`,
  );
  const error = await list("rclone:webdav:hubs").catch((thrown: Error) => thrown);
  expect(error).toMatchObject({ kind: "io", message: expect.stringContaining("no route to host") });
  expect(JSON.stringify(error) + (error as Error).message).not.toMatch(/s3|cret/);
});

test("unknown output of rclone fails only the copies to its remote", async () => {
  await replaceRclone("echo 'a notice of a newer version'");
  const local = await original.backups(1);
  const usb = original.newPath();
  const { reports } = await local.copy({ to: ["rclone:webdav:hubs", usb] });
  expect(reports).toMatchObject([
    { errors: [{ kind: "io", message: expect.stringContaining("rclone:webdav:hubs") }] },
    { errors: [], copied: [expect.anything()] },
  ]);
});

test("without rclone, the error says what to install", async () => {
  const { PATH } = process.env;
  process.env.PATH = original.newPath();
  onTestFinished(() => {
    process.env.PATH = PATH;
  });
  await expect(list("rclone:webdav:hubs")).rejects.toMatchObject({
    ...{ kind: "failed", message: expect.stringContaining("rclone is not installed") },
    hint: expect.stringContaining("apt install rclone"),
  });
});

test.each(protocols)(
  "a changed bundle on %s is superseded when the new one is there",
  async (remote) => {
    const local = await original.backups(1);
    const { name, path } = newFolder();
    const file = join(path, basename(original.bundle));
    const run = { bundlesTo: [`rclone:${remote}:${name}`] };
    await mkdir(path, { recursive: true });
    const earlier = Buffer.alloc((await readFile(original.bundle)).length, "e");
    await writeFile(file, earlier);
    expect(await local.copyKilledAt("copy.checked", run)).toBe("SIGKILL");
    expect(await readFile(file)).toEqual(earlier);
    expect((await local.copy(run)).reports[0]?.errors).toEqual([]);
    expect(await readFile(file)).toEqual(await readFile(original.bundle));
    const superseded = (await readdir(path)).filter((each) => each.includes(".superseded-"));
    expect(superseded).toHaveLength(1);
    expect(await readFile(join(path, `${superseded}`))).toEqual(earlier);
    expect(await unfinishedIn(path)).toEqual([]);
  },
);

test("where renames and removals are refused, a changed bundle stays, and one temporary file", async () => {
  await servers.addRefusing("append", (method) =>
    ["DELETE", "MOVE"].includes(method) ? 403 : undefined,
  );
  const local = await original.backups(1);
  const { name, path } = newFolder();
  const file = basename(original.bundle);
  await mkdir(path, { recursive: true });
  await writeFile(join(path, file), "an earlier bundle");
  for (const _ of [1, 2, 3]) {
    const { reports } = await local.copy({ bundlesTo: [`rclone:append:${name}`] });
    expect(reports[0]?.errors).toMatchObject([{ kind: "io" }]);
  }
  expect(await readFile(join(path, file), "utf8")).toBe("an earlier bundle");
  const others = (await readdir(path)).filter((each) => each !== file);
  expect(others.sort()).toEqual([
    expect.stringMatching(/^\.clients\..*\.partial$/),
    ".renames-are-refused.partial",
  ]);
});

test("a damaged file of the same size, without a manifest, is replaced on a remote", async () => {
  const local = await original.backups(1);
  const { name, path } = newFolder();
  await mkdir(path, { recursive: true });
  await copyFile(local.path(1), join(path, local.copyName(1)));
  await flipByte(join(path, local.copyName(1)));
  expect((await local.copy({ to: [`rclone:webdav:${name}`] })).reports[0]?.errors).toEqual([]);
  expect([await backupsIn(path), await unsoundIn(path)]).toEqual([[local.copyName(1)], []]);
});

const steps = ["copy.staged", "copy.backup"];
if (proving) steps.push("copy.checked", "copy.named", "copy.manifest");
const killedRemotes = proving ? ["webdav", "sftp"] : ["webdav"];

test.each(killedRemotes)(
  "killed at any step of a copy to %s: nothing counts that is not complete, and the next run completes it",
  async (remote) => {
    for (const step of steps) {
      const local = await original.backups(1);
      const { name, path } = newFolder();
      const run = { to: [`rclone:${remote}:${name}`] };
      expect([step, await local.copyKilledAt(step, run)]).toEqual([step, "SIGKILL"]);
      expect([step, await unsoundIn(path)]).toEqual([step, []]);
      expect([step, (await local.copy(run)).reports[0]?.errors]).toEqual([step, []]);
      expect(await backupsIn(path)).toEqual(await local.copyNames());
      expect(await unsoundIn(path)).toEqual([]);
      expect(await unfinishedIn(path)).toEqual([]);
    }
  },
);

test.each(remotes)(
  "two runs to one target on %s at once leave every backup complete",
  async (remote) => {
    const local = await original.backups(1);
    const { name, path } = newFolder();
    const run = { to: [`rclone:${remote}:${name}`] };
    await Promise.all([local.copy(run), local.copy(run)]);
    expect((await local.copy(run)).reports[0]?.errors).toEqual([]);
    expect(await backupsIn(path)).toEqual(await local.copyNames());
    expect(await unsoundIn(path)).toEqual([]);
    expect(await unfinishedIn(path)).toEqual([]);
  },
);

test("an upload that was interrupted under its final name is replaced where renames are refused", async () => {
  await servers.addRefusing("fixed", (method) =>
    ["DELETE", "MOVE"].includes(method) ? 403 : undefined,
  );
  const local = await original.backups(1);
  const { name, path } = newFolder();
  await mkdir(path, { recursive: true });
  await writeFile(join(path, local.copyName(1)), (await readFile(local.path(1))).subarray(0, 5000));
  expect((await local.copy({ to: [`rclone:fixed:${name}`] })).reports[0]?.errors).toEqual([]);
  expect(await unsoundIn(path)).toEqual([]);
  await writeFile(manifestPath(join(path, local.copyName(1))), "{");
  // rclone's server has the former size for a moment, because it does not see this write.
  const size = () => rclone("lsl", `fixed:${name}`);
  await expect.poll(size, { timeout: 20_000 }).toMatch(/^ +1 .*manifest\.json$/m);
  expect((await local.copy({ to: [`rclone:fixed:${name}`] })).reports[0]?.errors).toEqual([]);
  expect((await list(`rclone:fixed:${name}`)).backups).toMatchObject([{ mac: true }]);
});
