/**
 * Copies of backups in other directories: what each target gets, and what is left when a target is
 * missing, full or broken, or the process is killed.
 */
import { execFileSync } from "node:child_process";
import { subscribe, unsubscribe } from "node:diagnostics_channel";
import { copyFile, mkdir, readdir, readFile, rename, rm, stat, writeFile } from "node:fs/promises";
import { basename, join } from "node:path";
import { setTimeout } from "node:timers/promises";
import { afterAll, beforeAll, expect, onTestFinished, test, vi } from "vitest";
import { localFiles } from "../../src/backup/backup-files.js";
import {
  formatManifest,
  manifestPath,
  readManifest,
  signManifest,
} from "../../src/backup/manifest.js";
import { prune } from "../../src/backup/prune.js";
import { planCopies } from "../../src/copies/plan.js";
import { StoreError } from "../../src/errors.js";
import { stepChannelName } from "../../src/operation/step.js";
import type { Machine } from "../cli/machine.js";
import { backupsIn, flipByte, Original, unfinishedIn, unsoundIn } from "./backups.js";

interface Copy {
  target: string;
  contents: "backups" | "bundle";
  copied: { path: string; size: number; checked_by: string }[];
  skipped: string | null;
  duration_ms: number | null;
  errors: { code: number; message: string; hint?: string }[];
}

let original: Original;

beforeAll(async () => {
  original = await Original.make();
});

afterAll(() => original.remove());

const markersIn = async (folder: string) =>
  (await readdir(folder)).filter((name) => name.endsWith(".resume"));

const pruneToNewest = async (folder: string) =>
  await prune({
    ...{ ...original.secret, folder, keep: { last: 1 }, files: localFiles, dryRun: false },
    reporter: { notice: () => {}, detail: () => {}, confirm: async () => {} },
  });

async function smallDisk(size: string): Promise<string> {
  const path = original.newPath();
  await mkdir(path);
  execFileSync("mount", ["-t", "tmpfs", "-o", `size=${size},mode=700`, "tmpfs", path]);
  onTestFinished(() => void execFileSync("umount", ["-l", path]));
  return path;
}

test("backup copies to each target, the bundle only to targets of bundles, and remembers both; a full disk fails only its copy", async () => {
  const { machine } = original;
  const [usb, full, safe] = [original.newPath(), await smallDisk("4k"), original.newPath()];
  const { code, document } = await machine.json(
    ...["backup", "--service", "none", "--copy-bundle-to", safe],
    ...["--copy-to", usb, "--copy-to", full],
  );
  expect(code).toBe(18);
  const { path } = document.backup as { path: string };
  const all = await backupsIn(machine.path("backups"));
  const sizeOf = async (file: string) => (await stat(file)).size;
  const sizes = await Promise.all(all.map((name) => sizeOf(machine.path("backups", name))));
  const duration_ms = expect.any(Number);
  expect(document.copies as Copy[]).toEqual([
    {
      ...{ target: usb, contents: "backups", skipped: null, duration_ms, errors: [] },
      copied: all.map((name, at) => ({
        ...{ path: join(usb, original.copyName(name)), size: sizes[at] },
        checked_by: "read_back",
      })),
    },
    {
      ...{ target: full, contents: "backups", skipped: null, duration_ms, copied: [] },
      errors: [
        {
          code: 18,
          message: expect.stringContaining("no space left on device"),
          hint: "Free some space there.",
        },
      ],
    },
    {
      ...{ target: safe, contents: "bundle", skipped: null, duration_ms, errors: [] },
      copied: [
        {
          ...{ path: join(safe, basename(original.bundle)), checked_by: "read_back" },
          size: await sizeOf(original.bundle),
        },
      ],
    },
  ]);
  expect(await readFile(join(usb, original.copyName(path)))).toEqual(await readFile(path));
  expect(await readdir(full)).toEqual([]);
  expect(await readdir(safe)).toEqual(await readdir(machine.path("bundles")));
  const text = await machine.run(["backup", "--service", "none", "--quiet"]);
  expect(text.code).toBe(18);
  expect(text.stderr).toContain(`the backup is complete, but a copy in ${full} failed: no space`);
  expect(text.stdout).toContain(`Copies in ${usb}: 1 copied, read back and hashed`);
  expect(text.stdout).toContain(`Copies in ${full}: FAILED`);
  expect(text.stdout).toContain(`Bundle in ${safe}: up to date`);
  expect(await unsoundIn(usb)).toEqual([]);
  const listed = await machine.json("backups", usb);
  expect(listed.document.backups).toHaveLength(all.length + 1);
});

test("a target that is not mounted is skipped with a notice, and the next run catches up, oldest first", async () => {
  const local = await original.backups(1);
  const usb = original.newPath();
  await local.copy({ to: [usb] });
  await rename(usb, `${usb}-out`);
  await local.add(2);
  await local.add(3);
  const { reports, notices } = await local.copy({ to: [usb] });
  expect(reports).toMatchObject([{ copied: [], skipped: `${usb}: no such file or directory` }]);
  expect(notices).toEqual([
    `not copied to ${usb}: ${usb}: no such file or directory; a later backup copies what is missing there`,
  ]);
  await expect(readdir(usb)).rejects.toThrow("ENOENT");
  await rename(`${usb}-out`, usb);
  const later = await local.copy({ to: [usb] });
  expect(later.reports[0]?.copied.map(({ path }) => basename(path))).toEqual([
    ...[local.copyName(2), local.copyName(3)],
  ]);
  expect(await backupsIn(usb)).toEqual(await local.copyNames());
});

test("what a killed run left in a target is removed, also if its backup was pruned since then", async () => {
  const local = await original.backups(2);
  const usb = original.newPath();
  await mkdir(usb);
  const copy = local.copyName(1);
  const marker = `.${local.name(1)}.${original.storeId}.resume`;
  // A clone of the machine may be writing it.
  const now = new Date().toISOString().slice(0, 19).replaceAll(":", "-");
  const ofClone = `clients.${now}Z.${original.storeId}.db`;
  const others = [local.name(1), copy.replace(original.storeId, "0123456789abcdef"), ofClone];
  const unfinished = (name: string) => `.${name}.0123456789ab.partial`;
  for (const name of [copy, manifestPath(copy), marker, `${marker}d`, ...others]) {
    await writeFile(join(usb, unfinished(name)), "");
  }
  // The store's id is there.
  vi.stubEnv("XDG_STATE_HOME", original.machine.environment.XDG_STATE_HOME);
  onTestFinished(() => void vi.unstubAllEnvs());
  await local.copy({ to: [usb] });
  expect((await unfinishedIn(usb)).sort()).toEqual(others.map(unfinished).sort());
});

test("a name from the future or of another file in a target does not end catching up", async () => {
  const local = await original.backups(1);
  const usb = original.newPath();
  await local.copy({ to: [usb] });
  for (const name of ["clients.2999-01-01T00-00-00Z", "hub.2026-01-01T00-00-00Z"]) {
    await writeFile(join(usb, `${name}.${original.storeId}.db`), "something else");
    await writeFile(join(usb, `${name}.${original.storeId}.manifest.json`), "{}");
  }
  await local.add(2);
  const { document } = await original.machine.json(
    ...["backup", "--service", "none", "--to", local.folder, "--copy-to", usb],
  );
  const [{ copied } = { copied: [] }] = document.copies as Copy[];
  expect(copied.map(({ path }) => basename(path))).toEqual((await local.copyNames()).slice(1));
});

test("a directory that only the settings name is not created, and that is no failure", async () => {
  const local = await original.backups(1);
  const usb = original.newPath();
  const { reports } = await local.copy({ to: [usb], known: [usb] });
  expect(reports).toMatchObject([{ skipped: `${usb}: no such file or directory`, errors: [] }]);
  await expect(readdir(usb)).rejects.toThrow("ENOENT");
});

test("prune applies its rules to a target alone, and what it removed is not copied again", async () => {
  const local = await original.backups(1, 2, 3);
  const usb = original.newPath();
  await local.copy({ to: [usb] });
  const { removed } = await pruneToNewest(usb);
  expect(removed).toHaveLength(2);
  await local.add(4);
  await local.copy({ to: [usb] });
  expect(await backupsIn(usb)).toEqual([local.copyName(3), local.copyName(4)]);
  expect(await backupsIn(local.folder)).toHaveLength(4);
});

test("a run copies at most 50 backups to a target, and the next runs copy the others", async () => {
  const local = await original.backups(...Array.from({ length: 120 }, (_, day) => day + 1));
  const usb = original.newPath();
  const all = await local.copyNames();
  const { reports, notices } = await local.copy({ to: [usb] });
  expect(reports[0]?.copied).toHaveLength(50);
  expect(notices).toContain(`${usb} misses 120 backups; the next runs copy 70 of them`);
  expect(await backupsIn(usb)).toEqual([...all.slice(0, 49), ...all.slice(-1)]);
  expect(await markersIn(usb)).toEqual([expect.stringContaining(local.name(50))]);

  // A disk that is missing in between, or a damaged backup, does not end the catching up.
  await rename(usb, `${usb}-out`);
  await local.copy({ to: [usb] });
  await rename(`${usb}-out`, usb);
  // The target tells where to continue: a timer may have another state directory.
  vi.stubEnv("XDG_STATE_HOME", original.newPath());
  onTestFinished(() => void vi.unstubAllEnvs());
  await flipByte(local.path(60));
  const second = await local.copy({ to: [usb] });
  expect(second.reports[0]?.errors).toHaveLength(1);
  await local.copy({ to: [usb] });
  expect(await backupsIn(usb)).toEqual(all.filter((name) => name !== local.copyName(60)));
  expect(await markersIn(usb)).toEqual([]);
  await rm(join(usb, all[0] ?? ""));
  expect((await local.copy({ to: [usb] })).reports).toMatchObject([{ copied: [], errors: [] }]);
});

test("killed between the marker and the newest backup, the next run copies the others", async () => {
  const local = await original.backups(...Array.from({ length: 60 }, (_, day) => day + 1));
  const usb = original.newPath();
  expect(await local.copyKilledAt("copy.marker", { to: [usb] })).toBe("SIGKILL");
  expect(await markersIn(usb)).toHaveLength(1);
  expect((await local.copy({ to: [usb] })).reports[0]?.copied).toHaveLength(11);
  expect(await backupsIn(usb)).toEqual(await local.copyNames());
  expect(await markersIn(usb)).toEqual([]);
});

test.each([
  // Before and after "db", with which a name without an id ends.
  "0000000000000000",
  "ffffffffffffffff",
])(
  "backups left for the next runs are copied, also if the target is pruned to the newest: id %s",
  async (id) => {
    const local = await original
      .withStoreId(id)
      .backups(...Array.from({ length: 60 }, (_, day) => day + 1));
    const usb = original.newPath();
    await local.copy({ to: [usb] });
    await pruneToNewest(usb);
    expect(await backupsIn(usb)).toEqual([local.copyName(60)]);
    const { reports } = await local.copy({ to: [usb] });
    expect(reports[0]?.copied).toHaveLength(10);
    expect((await backupsIn(usb))[0]).toBe(local.copyName(50));
  },
);

test("a bundle of the same key with other contents is superseded in its target, not overwritten", async () => {
  const local = await original.backups(1);
  const safe = original.newPath();
  await local.copy({ bundlesTo: [safe] });
  await writeFile(join(safe, basename(original.bundle)), "an earlier bundle");
  const { reports } = await local.copy({ bundlesTo: [safe] });
  expect(reports).toMatchObject([{ contents: "bundle", errors: [] }]);
  expect(await readFile(join(safe, basename(original.bundle)))).toEqual(
    await readFile(original.bundle),
  );
  const superseded = (await readdir(safe)).find((name) => name.includes(".superseded-")) ?? "";
  expect(await readFile(join(safe, superseded), "utf8")).toBe("an earlier bundle");
});

test.each(["copy.staged", "copy.checked", "copy.superseded"])(
  "killed at %s of a changed bundle, the target keeps a bundle under its name",
  async (step) => {
    const local = await original.backups(1);
    const safe = original.newPath();
    const path = join(safe, basename(original.bundle));
    await local.copy({ bundlesTo: [safe] });
    await writeFile(path, "an earlier bundle");
    expect(await local.copyKilledAt(step, { bundlesTo: [safe] })).toBe("SIGKILL");
    expect(await readFile(path, "utf8")).toBe("an earlier bundle");
    expect((await local.copy({ bundlesTo: [safe] })).reports[0]?.errors).toEqual([]);
    expect(await readFile(path)).toEqual(await readFile(original.bundle));
    expect(await unfinishedIn(safe)).toEqual([]);
  },
);

test("a target that was away during a rotation gets the bundles of earlier backups, too", async () => {
  const local = await original.backups(1, 2);
  const earlier = "0123456789abcdef";
  const manifest = manifestPath(local.path(1));
  const { format: _, version, mac, ...contents } = await readManifest(manifest);
  const signed = signManifest({ ...contents, key_id: earlier }, original.key);
  await writeFile(manifest, formatManifest(signed));
  const bundle = original.bundle.replace(/[0-9a-f]{16}/, earlier);
  await copyFile(original.bundle, bundle);
  onTestFinished(() => rm(bundle));
  const safe = original.newPath();
  const names = [bundle, original.bundle].map((path) => join(safe, basename(path)));
  const { reports } = await local.copy({ bundlesTo: [safe] });
  expect(reports).toMatchObject([{ copied: names.map((path) => ({ path })), errors: [] }]);
  await writeFile(names[0] ?? "", "not replaced");
  expect((await local.copy({ bundlesTo: [safe] })).reports).toMatchObject([
    { copied: [], errors: [] },
  ]);
  expect(await readFile(names[0] ?? "", "utf8")).toBe("not replaced");
});

test("on a full disk, an earlier bundle keeps its name", async () => {
  const local = await original.backups(1);
  const safe = await smallDisk("8k");
  const name = basename(original.bundle);
  await writeFile(join(safe, name), "an earlier bundle");
  await writeFile(join(safe, "filler"), Buffer.alloc(4096));
  const { reports } = await local.copy({ bundlesTo: [safe] });
  expect(reports[0]?.errors).toMatchObject([{ kind: "io" }]);
  expect((await readdir(safe)).sort()).toEqual([name, "filler"].sort());
});

test.each([
  { copy: "copies", bundle: "copies", relation: "is the backup directory" },
  { copy: "copies", bundle: "copies/bundles", relation: "is inside the backup directory" },
  { copy: "copies/backups", bundle: "copies", relation: "contains the backup directory" },
  { copy: "bundles/copies", bundle: "safe", relation: "contains the backup directory" },
  { copy: "copies", bundle: "backups/safe", relation: "is inside the backup directory" },
])(
  "a target of bundles that $relation is refused: $bundle, $copy",
  async ({ copy, bundle, relation }) => {
    const folder = original.newPath();
    await expect(
      planCopies({
        ...{ to: join(folder, "backups"), bundleTo: join(folder, "bundles") },
        ...{ copies: [join(folder, copy)], bundleCopies: [join(folder, bundle)] },
      }),
    ).rejects.toMatchObject({ kind: "refused", message: expect.stringContaining(relation) });
  },
);

test("the directory of the backups is not a target of their copies", async () => {
  const { machine } = original;
  const { code, stderr } = await machine.run(["backup", "--copy-to", machine.path("backups")]);
  expect(code).toBe(2);
  expect(stderr).toContain(`would go to ${machine.path("backups")} itself`);
});

test("a file of the same name with other contents stays, and the other backups are copied", async () => {
  const local = await original.backups(1, 2);
  const usb = original.newPath();
  await mkdir(usb);
  await writeFile(join(usb, local.copyName(1)), "something else");
  const { reports } = await local.copy({ to: [usb] });
  expect(reports[0]?.errors).toMatchObject([
    { kind: "refused", message: `${join(usb, local.copyName(1))} exists with other contents` },
  ]);
  expect(reports[0]?.copied).toMatchObject([{ path: join(usb, local.copyName(2)) }]);
  expect(await readFile(join(usb, local.copyName(1)), "utf8")).toBe("something else");
});

test("a backup that is damaged on this machine is not copied, the others are", async () => {
  const local = await original.backups(1, 2);
  await flipByte(local.path(1));
  const usb = original.newPath();
  const { reports } = await local.copy({ to: [usb] });
  expect(reports[0]?.errors).toMatchObject([
    { kind: "corrupted", message: expect.stringContaining(`${local.path(1)} does not match`) },
  ]);
  expect(await backupsIn(usb)).toEqual([local.copyName(2)]);
  expect(await unfinishedIn(usb)).toEqual([]);
});

test("a backup that cannot be read on this machine does not keep the newer ones from being copied", async () => {
  const local = await original.backups(1, 2);
  const usb = original.newPath();
  // As on a bad sector.
  const strace = ["strace", "-f", "-qq", "-o", "/dev/null", "-P", local.path(1)];
  const args = ["backup", "--service", "none", "--to", local.folder, "--copy-to", usb, "--json"];
  const { code, stdout } = await original.machine.run(args, {
    before: [...strace, "-e", "inject=pread64:error=EIO"],
  });
  const [{ copied, errors } = { copied: [], errors: [] }] = JSON.parse(stdout).copies as Copy[];
  expect([code, errors.map(({ message }) => message)]).toEqual([
    18,
    [expect.stringContaining(local.path(1))],
  ]);
  expect(copied.map(({ path }) => basename(path))).toEqual((await local.copyNames()).slice(1));
});

test("a manifest that was altered is not copied", async () => {
  const local = await original.backups(1, 2);
  const manifest = manifestPath(local.path(1));
  const text = await readFile(manifest, "utf8");
  await writeFile(manifest, text.replace('"active": 1', '"active": 2'));
  const usb = original.newPath();
  await local.copy({ to: [usb] });
  expect(await backupsIn(usb)).toEqual([local.copyName(2)]);
});

test("a flipped byte and another backup's file that was put back are found in a copy", async () => {
  const { machine } = original;
  const local = await original.backups(1);
  const usb = original.newPath();
  await local.copy({ to: [usb] });
  await flipByte(join(usb, local.copyName(1)));
  expect((await machine.run(["verify", join(usb, local.copyName(1))])).code).toBe(14);
  await machine.run(["add-client"]);
  const { document } = await machine.json("backup", "--service", "none", "--copy-to", usb);
  const { path } = document.backup as { path: string };
  await copyFile(local.path(1), join(usb, original.copyName(path)));
  const restore = ["restore", join(usb, original.copyName(path)), "--service", "none", "--yes"];
  expect((await machine.run(restore)).code).toBe(14);
});

const steps = [
  ...["copy.staged", "copy.checked", "copy.named", "copy.backup", "copy.manifest"],
  ...["copy.bundle"],
];

test("killed at any step of a copy: nothing counts that is not complete, and the next run completes it", async () => {
  for (const step of steps) {
    const local = await original.backups(1);
    const [usb, safe] = [original.newPath(), original.newPath()];
    const run = { to: [usb], bundlesTo: [safe] };
    expect([step, await local.copyKilledAt(step, run)]).toEqual([step, "SIGKILL"]);
    expect([step, await unsoundIn(usb)]).toEqual([step, []]);
    const { reports } = await local.copy(run);
    expect([step, reports.flatMap(({ errors }) => errors)]).toEqual([step, []]);
    expect(await backupsIn(usb)).toEqual(await local.copyNames());
    expect(await unsoundIn(usb)).toEqual([]);
    expect(await unfinishedIn(usb)).toEqual([]);
    expect((await readdir(safe)).sort()).toEqual(
      (await readdir(original.machine.path("bundles"))).sort(),
    );
  }
});

test.each(["copy.staged", "copy.checked"])(
  "interrupted at %s, nothing appears in the target after the interruption",
  async (step) => {
    const local = await original.backups(1);
    const usb = original.newPath();
    const interruption = new AbortController();
    const abort = (reached: unknown) => {
      if (reached === step) interruption.abort(new StoreError("interrupted", "by a test"));
    };
    subscribe(stepChannelName, abort);
    onTestFinished(() => void unsubscribe(stepChannelName, abort));
    await expect(local.copy({ to: [usb], signal: interruption.signal })).rejects.toMatchObject({
      ...{
        kind: "interrupted",
        message: expect.stringContaining("is complete, but not every copy"),
      },
    });
    expect(await readdir(usb)).toEqual([]);
    await setTimeout(300);
    expect(await readdir(usb)).toEqual([]);
    expect((await local.copy({ to: [usb] })).reports[0]?.copied).toHaveLength(1);
  },
);

test("status, metrics and doctor tell when each target was last complete", async () => {
  const local = await Original.make();
  onTestFinished(() => local.remove());
  const { machine } = local;
  const [usb, full] = [local.newPath(), await smallDisk("4k")];
  const copyTo = ["--copy-to", usb, "--copy-to", full];
  const { code, document: made } = await machine.json("backup", "--service", "none", ...copyTo);
  expect(code).toBe(18);
  const { size } = made.backup as { size: number };
  const { document } = await machine.json("status");
  expect(document.copies).toEqual([
    {
      ...{ target: usb, contents: "backups", skipped: null, error: null },
      ...{ at: expect.any(String), succeeded_at: expect.any(String) },
      ...{ duration_ms: expect.any(Number), size },
    },
    {
      ...{ target: full, contents: "backups", skipped: null, succeeded_at: null },
      ...{ at: expect.any(String), error: expect.stringContaining("no space left") },
      ...{ duration_ms: expect.any(Number), size: null },
    },
  ]);
  const { stdout: status } = await machine.run(["status"]);
  expect(status).toMatch(new RegExp(`^copied +backups to ${usb}, 20`, "m"));
  expect(status).toMatch(new RegExp(`^copied +backups to ${full}, never; the last run: `, "m"));
  const { stdout: metrics } = await machine.run(["status", "--format", "prometheus"]);
  expect(metrics).toMatch(
    new RegExp(`^hivemind_sqlcipher_copy_success_timestamp_seconds.*${usb}.* \\d+`, "m"),
  );
  expect(metrics).toMatch(new RegExp(`^hivemind_sqlcipher_copy_failed.*${full}.* 1$`, "m"));
  expect(metrics).toMatch(new RegExp(`^hivemind_sqlcipher_copy_bytes.*${usb}.* ${size}$`, "m"));
  expect(metrics).toMatch(
    new RegExp(`^hivemind_sqlcipher_copy_duration_seconds.*${usb}.* [.\\d]+$`, "m"),
  );
  expect(await targetFindings(machine)).toEqual([
    `the backups were never completely copied to ${full}`,
  ]);

  // The disk is elsewhere, and may be for a month.
  await rename(usb, `${usb}-away`);
  await machine.run(["backup", "--service", "none"]);
  const skipped = { skipped: expect.any(String), duration_ms: null, size };
  expect((await machine.json("status")).document.copies).toMatchObject([skipped, {}]);
  await age(machine, 20);
  expect(await targetFindings(machine)).toHaveLength(1);
  await age(machine, 20);
  expect(await targetFindings(machine)).toEqual([
    expect.stringMatching(`the backups were last copied to ${usb} at 20`),
    expect.stringContaining(full),
  ]);

  // As the fix says: mount its disk, then run a backup.
  await rename(`${usb}-away`, usb);
  await machine.run(["backup", "--service", "none"]);
  expect(await targetFindings(machine)).toEqual([expect.stringContaining(full)]);
});

test("a record of copies that cannot be read does not fail a backup", async () => {
  const local = await Original.make();
  onTestFinished(() => local.remove());
  const { machine } = local;
  const backup = ["backup", "--service", "none", "--copy-to", local.newPath()];
  expect((await machine.run(backup)).code).toBe(0);
  const folder = join(machine.environment.XDG_STATE_HOME ?? "", "hivemind-sqlcipher");
  const [name = ""] = (await readdir(folder)).filter((each) => each.startsWith("copies-"));
  await rm(join(folder, name));
  await mkdir(join(folder, name));
  const { code, stderr } = await machine.run(backup);
  expect([code, stderr]).toEqual([0, expect.stringContaining("the copies were not recorded: ")]);
});

/** Returns the beginnings of doctor's findings on the targets of copies. */
async function targetFindings(machine: Machine): Promise<string[]> {
  const { document } = await machine.json("doctor");
  const checks = document.checks as { name: string; ok: boolean; detail: string }[];
  return checks
    .filter(({ name, ok }) => name === "copy-targets" && !ok)
    .map(({ detail }) => detail.split(": ")[0] ?? "");
}

/** Moves the times in the record of copies back by some days. */
async function age(machine: Machine, days: number): Promise<void> {
  const folder = join(machine.environment.XDG_STATE_HOME ?? "", "hivemind-sqlcipher");
  const [name = ""] = (await readdir(folder)).filter((each) => each.startsWith("copies-"));
  const path = join(folder, name);
  const earlier = (await readFile(path, "utf8")).replaceAll(/"(20[^"]+Z)"/g, (_, time) =>
    JSON.stringify(new Date(Date.parse(time) - days * 86_400_000).toISOString()),
  );
  await writeFile(path, earlier);
}
