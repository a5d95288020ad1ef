/**
 * Journals of version 0.1.0, recovered by this version. The files on disk come from today's
 * operation, killed at the same step; its journal is then replaced by the recorded journal, with
 * the paths and inodes of these files.
 */
import { mkdir, readdir, readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { expect, test } from "vitest";
import type { BackupResult } from "../../src/backup/backup.js";
import { deleteEntry } from "../../src/keys/keyring.js";
import { type JournalEntry, journalPath } from "../../src/operation/journal.js";
import { root } from "../built.js";
import { fixturePassphrases } from "../store/temporary.js";
import { find, resultOf, World } from "../swap/world.js";

const encrypted = "sqlcipher4-schema2.db";
const passphrase = fixturePassphrases[encrypted];

const recorded: Record<string, JournalEntry> = JSON.parse(
  await readFile(new URL("../fixtures/journals-0.1.0.json", import.meta.url), "utf8"),
);

/** The report of the recovery, by the name or the operation of a journal. */
const reports: Record<string, RegExp> = {
  "rotate.renamed": /^finished the interrupted rotate/,
  "rotate.started": /^finished the interrupted rotate/,
  "rotate.removed": /^finished the interrupted rotate/,
  "encrypt.renamed": /^finished the interrupted encrypt/,
  "decrypt.renamed": /^finished the interrupted decrypt/,
  "restore.renamed": /^finished the interrupted restore/,
  rotate: /^undid the interrupted rotate/,
  encrypt: /^undid the interrupted encrypt/,
  decrypt: /^undid the interrupted decrypt/,
  restore: /^undid the interrupted restore/,
  "backup.claimed": /^completed the interrupted backup/,
  // The store is not in WAL mode: nothing is copied before the stop.
  "backup.stopped": /^started .* which an interrupted backup had stopped/,
  "backup.verified": /^removed .*, left by an interrupted backup/,
  "adopt.taking": /^finished the interrupted adopt/,
  adopt: /^undid the interrupted adopt/,
  "import-passphrase.taking": /^finished the interrupted import-passphrase/,
  "import-passphrase": /^undid the interrupted import-passphrase/,
  "upgrade-schema": /^started .* which an interrupted upgrade-schema had stopped/,
};

test.each(Object.entries(recorded))(
  "%s: recovered from its journal of 0.1.0",
  async (name, entry) => {
    const { operation } = entry;
    const { world, more } = await worldFor(operation);
    const before = (await find(world.path, passphrase)).rows.length;
    await kill(world, name, more);
    await replaceJournal(world, entry);
    await expectRecovered(world, operation, reports[name] ?? reports[operation]);
    expect((await find(world.path, passphrase)).rows.length).toBe(before);
  },
);

test("rotate.renamed, whose revert had begun: the old store is put back", async () => {
  const { world, more } = await worldFor("rotate");
  await kill(world, "rotate.renamed", more);
  await replaceJournal(world, { ...entryOf("rotate.renamed"), step: "reverting" });
  await expectRecovered(world, "rotate", /^put back the store that the interrupted rotate/);
  expect(await world.slots()).toEqual({ current: passphrase });
});

test("backup.stopped, of which only the restart is left: the unit is started", async () => {
  const { world, more } = await worldFor("backup");
  await kill(world, "backup.started", more);
  const { stopped } = entryOf("backup.stopped").data;
  await replaceJournal(world, { ...entryOf("backup.stopped"), step: "down", data: { stopped } });
  const settled = await world.settle();
  expect([settled.error, await world.isActive]).toEqual([undefined, true]);
  expect(await readdir(join(world.folder, "hivemind-core"))).not.toContain(
    "clients.db.journal.json",
  );
});

function entryOf(name: string): JournalEntry {
  const entry = recorded[name];
  if (!entry) throw new Error(`no journal was recorded for ${name}`);
  return entry;
}

/**
 * A store as the operation finds it, with a running unit where the operation stops it, and the
 * options.
 */
async function worldFor(operation: string): Promise<{ world: World; more: object }> {
  const isPlain = operation === "encrypt" || operation === "upgrade-schema";
  const world = await World.of(isPlain ? "plain-schema1.db" : encrypted);
  const more = await optionsFor(operation, world);
  if (!["adopt", "import-passphrase"].includes(operation)) await world.startUnit();
  return { world, more };
}

async function optionsFor(operation: string, world: World): Promise<object> {
  if (operation === "backup") return { to: world.to };
  if (operation === "adopt") {
    await deleteEntry(world.path, "current");
    const directory = join(world.folder, "config", "hivemind-core");
    await mkdir(directory, { recursive: true });
    const module = "hivemind-sqlite-db-plugin";
    const database = { module, [module]: { password: passphrase } };
    await writeFile(join(directory, "server.json"), JSON.stringify({ database }));
    return { removePassword: true };
  }
  if (operation === "encrypt" || operation === "upgrade-schema") return {};
  const { backup, bundle } = resultOf(
    await world.run<BackupResult>("backup", { ...world.withoutService, to: world.to }),
  );
  if (operation === "restore") return { backup: { file: backup.path } };
  if (operation !== "import-passphrase") return {};
  await deleteEntry(world.path, "current");
  return { bundle: bundle.path, opener: { identity: world.recoveryKey.identity } };
}

async function kill(world: World, step: string, more: object): Promise<void> {
  const killed = await world.run(step.slice(0, step.lastIndexOf(".")), more, {
    NODE_OPTIONS: `--import=${root}test/faults/kill-at-step.mjs`,
    HIVEMIND_TEST_STEP: step,
  });
  expect(killed.signal).toBe("SIGKILL");
}

/** Replaces the journal by an earlier version's: its fields, with the values of today's journal. */
async function replaceJournal(world: World, entry: JournalEntry): Promise<void> {
  const path = journalPath(world.path);
  const today: JournalEntry = JSON.parse(await readFile(path, "utf8"));
  const text = JSON.stringify(entry)
    .replaceAll("@FOLDER@", world.folder)
    .replaceAll("@UNIT@", world.unit);
  const earlier: JournalEntry = JSON.parse(text);
  const data = withValues(earlier.data, today.data);
  await writeFile(path, JSON.stringify({ ...earlier, data }));
}

function withValues(
  fields: Record<string, unknown>,
  values: Record<string, unknown>,
): Record<string, unknown> {
  const filled = Object.entries(fields).map(([key, field]) => {
    const value = values[key] ?? field;
    return [key, isObject(field) && isObject(value) ? withValues(field, value) : value];
  });
  return Object.fromEntries(filled);
}

function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

async function expectRecovered(world: World, operation: string, report?: RegExp): Promise<void> {
  const settled = await world.settle();
  expect(settled.error).toBeUndefined();
  const expected = report === undefined ? [] : [expect.stringMatching(report)];
  expect(settled.result).toEqual(expect.arrayContaining(expected));
  const hasUnit = !["adopt", "import-passphrase"].includes(operation);
  if (hasUnit) expect(await world.isActive).toBe(true);
  // The unit has the store open, so its log and its index exist.
  const leftovers = await world.leftovers();
  expect(leftovers.filter((name) => !hasUnit || !/-(wal|shm)$/.test(name))).toEqual([]);
}
