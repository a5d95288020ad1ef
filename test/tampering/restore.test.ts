/**
 * Restoring from a folder that another may write to, at any moment: what is put in place is what
 * was verified and asked about, or nothing is. The moment chosen here is the question, at which a
 * person takes their time.
 */
import { execFileSync } from "node:child_process";
import { copyFile, readFile, rm, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { expect, test } from "vitest";
import { formatManifest, manifestPath } from "../../src/backup/manifest.js";
import { newClient } from "../../src/client/client.js";
import { StoreError } from "../../src/errors.js";
import { withOperation } from "../../src/recovery/recover.js";
import { type RestoreOptions, restore } from "../../src/restore/restore.js";
import { ClientStore } from "../../src/store/client-store.js";
import { Machine } from "../cli/machine.js";
import { report } from "../prove-report.js";
import { temporaryFolder } from "../store/temporary.js";
import { adminsIn, backUp, pageSize, passphrase, type TwoBackups, twoBackups } from "./support.js";

interface Restored {
  readonly questions: string[];
  readonly outcome: string;
}

/** Restores in this process; `meanwhile` is what happens while the question stands. */
async function restoreInto(
  backups: TwoBackups,
  options: { noManifest?: boolean; meanwhile?: () => Promise<void> } = {},
): Promise<Restored> {
  const { store, newer } = backups;
  const questions: string[] = [];
  const passphraseFile = join(store, "..", "passphrase");
  await writeFile(passphraseFile, passphrase, { mode: 0o600 });
  const reporter: RestoreOptions["reporter"] = {
    notice: () => undefined,
    detail: () => undefined,
    confirm: async (question) => {
      questions.push(question);
      await options.meanwhile?.();
    },
  };
  const outcome = await withOperation(store, reporter, (lock) =>
    restore({
      ...{
        lock,
        reporter,
        hub: "none",
        recoveryCommand: ["false"],
        signal: new AbortController().signal,
      },
      source: { kind: "file", path: passphraseFile },
      settingsSection: { path: `${passphraseFile}.json`, store: undefined },
      service: { service: "none", unit: "none", storePath: store },
      backup: { file: newer.path },
      noManifest: options.noManifest,
    }),
  ).then(
    () => "restored",
    (error: unknown) => {
      if (error instanceof StoreError) return error.kind;
      throw error;
    },
  );
  return { questions, outcome };
}

/** A store that has lost a client since the newer backup, so that there is a question. */
async function withQuestion(): Promise<TwoBackups> {
  const folder = await temporaryFolder();
  const backups = await twoBackups(folder);
  await using store = await ClientStore.open(backups.store, passphrase);
  await store.updateClient(3, { can_broadcast: false });
  return backups;
}

test("another file in the backup's place at the time of the question is not restored, but what was asked about", async () => {
  const swaps: Record<string, (backups: TwoBackups) => Promise<void>> = {
    "the older backup": ({ older, newer }) => copyFile(older.path, newer.path),
    "the older backup, and its manifest": async ({ older, newer }) => {
      await copyFile(older.path, newer.path);
      await writeFile(manifestPath(newer.path), formatManifest(older.manifest));
    },
    "some of its pages older": async ({ older, newer }) => {
      const mixed = Buffer.concat([
        newer.bytes.subarray(0, pageSize),
        older.bytes.subarray(pageSize),
      ]);
      await writeFile(newer.path, mixed);
    },
    "a later state, made with the same key": async ({ store, newer }) => {
      await using opened = await ClientStore.open(store, passphrase);
      await opened.addItem(newClient({ client_id: 7, api_key: "seven", is_admin: true }));
      const later = await backUp(opened, join(store, ".."), "2026-11-27T18-50-00Z");
      await copyFile(later.path, newer.path);
    },
    nothing: ({ newer }) => rm(newer.path),
  };
  const taken: string[] = [];
  for (const [what, swap] of Object.entries(swaps)) {
    const backups = await withQuestion();
    const { questions, outcome } = await restoreInto(backups, { meanwhile: () => swap(backups) });
    expect(questions).toHaveLength(1);
    const restored = await readFile(backups.store);
    if (outcome !== "restored" || !restored.equals(backups.newer.bytes)) taken.push(what);
    expect(await adminsIn(backups.store), what).not.toContain(1);
  }
  report("backup exchanged between verification and copy", Object.keys(swaps).length, taken.length);
  expect(taken).toEqual([]);
}, 180_000);

test("what would widen only since the question was asked is not restored without another one", async () => {
  const backups = await withQuestion();
  const { questions, outcome } = await restoreInto(backups, {
    meanwhile: async () => {
      await using store = await ClientStore.open(backups.store, passphrase);
      await store.updateClient(4, { can_propagate: false });
    },
  });
  expect(questions.join()).not.toMatch(/propagate/);
  expect(outcome).toBe("refused");
  await using store = await ClientStore.open(backups.store, passphrase);
  expect((await store.getClientById(4))?.can_propagate).toBe(false);
}, 180_000);

test("without a manifest that holds, what nothing can tell is said and asked about, with the admins by name", async () => {
  const folder = await temporaryFolder();
  const backups = await twoBackups(folder);
  const { older, newer } = backups;
  // The page of client 1, as it was when it was an admin.
  for (let at = pageSize; at < newer.bytes.length; at += pageSize) {
    const mixed = Buffer.from(newer.bytes);
    older.bytes.copy(mixed, at, at, at + pageSize);
    await writeFile(newer.path, mixed);
    if ((await adminsIn(newer.path)).length > 0) break;
  }
  expect(await adminsIn(newer.path)).toEqual([1]);
  expect(await restoreInto(backups)).toEqual({ questions: [], outcome: "corrupted" });
  const no = () => Promise.reject(new StoreError("refused", "nothing was changed"));
  const asked = await restoreInto(backups, { noManifest: true, meanwhile: no });
  expect(asked.outcome).toBe("refused");
  expect(asked.questions.join()).toMatch(/sha256: .*some pages may be outdated/);
  expect(asked.questions.join()).toMatch(/at an unknown time, [^\n]*the admins 1\b/);
  expect(asked.questions.join()).toMatch(/1 would be an admin again/);
  await rm(manifestPath(newer.path));
  const bare = await restoreInto(backups, { noManifest: true, meanwhile: no });
  expect(bare.questions.join()).toMatch(/manifest: there is no manifest/);
  report("page rollback with --no-manifest: asked about", 2, 0);
}, 180_000);

test("a pipe, or a file without end, in the place of a manifest, a bundle or the settings keeps nobody waiting", async () => {
  const machine = await Machine.make();
  const folder = machine.path("backups");
  const { newer } = await twoBackups(machine.folder);
  const fifo = (path: string) => execFileSync("sh", ["-c", 'rm -f "$1"; mkfifo "$1"', "sh", path]);
  const zero = (path: string) => execFileSync("ln", ["-sf", "/dev/zero", path]);
  const bundle = machine.path("clients.0123456789abcdef.bundle.age");
  const proof = `${bundle}.proof.json`;
  const cases: [put: () => void, args: string[], code: number][] = [];
  await writeFile(machine.path("passphrase"), passphrase, { mode: 0o600 });
  const source = ["--passphrase-source", `file:${machine.path("passphrase")}`];
  for (const make of [fifo, zero]) {
    cases.push(
      [() => make(manifestPath(newer.path)), ["backups", folder, ...source], 0],
      [() => make(manifestPath(newer.path)), ["verify", newer.path, ...source], 14],
      [() => make(bundle), ["bundle", "show", bundle], 14],
      [() => make(machine.path("settings")), ["status", "--config", machine.path("settings")], 0],
      [() => {}, ["list-clients", "--config", machine.path("settings")], 14],
    );
  }
  const hung: string[] = [];
  for (const [put, args, code] of cases) {
    put();
    const limited = await machine.run(args, { before: ["timeout", "-s", "KILL", "20"] });
    if (limited.code !== code) hung.push(`${args.join(" ")}: ${limited.code} ${limited.stderr}`);
  }
  await writeFile(bundle, "age-encryption.org/v1\n-> X25519 a\n--- b\n");
  fifo(proof);
  const shown = await machine.run(["bundle", "show", bundle], {
    before: ["timeout", "-s", "KILL", "20"],
  });
  if (shown.code === null || shown.code > 100) hung.push("proof");
  report("pipes and endless files in a backup folder", cases.length + 1, hung.length);
  expect(hung).toEqual([]);
}, 180_000);
