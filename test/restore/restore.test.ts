import {
  cp,
  mkdir,
  readdir,
  readFile,
  rename,
  rm,
  symlink,
  truncate,
  writeFile,
} from "node:fs/promises";
import { dirname, join } from "node:path";
import { expect, onTestFinished, test } from "vitest";
import type { BackupResult } from "../../src/backup/backup.js";
import { defaultAllowedTypes, newClient, revokedApiKey } from "../../src/client/client.js";
import { deleteEntry, listEntries } from "../../src/keys/keyring.js";
import { unlock } from "../../src/keys/unlock.js";
import type { RestoreResult } from "../../src/restore/restore.js";
import { chooseBackup } from "../../src/restore/verified-backup.js";
import { ClientStore } from "../../src/store/client-store.js";
import type { RotateResult } from "../../src/swap/rotate.js";
import { root, testProgram } from "../built.js";
import { Machine } from "../cli/machine.js";
import { interpreter } from "../interop/python.js";
import { systemctl } from "../service/units.js";
import { find, keyring, passphraseFile, resultOf, World } from "../swap/world.js";

const fixture = "sqlcipher4-schema2.db";

/** A world with a backup, and what was backed up. */
async function backedUp(): Promise<{
  world: World;
  backup: string;
  rows: string[];
  bundle: string;
}> {
  const world = await World.of(fixture);
  const rows = await world.rows();
  const { backup, bundle } = resultOf(
    await world.run<BackupResult>("backup", { ...world.withoutService, to: world.to }),
  );
  return { world, backup: backup.path, rows, bundle: bundle.path };
}

async function change(world: World, body: (store: ClientStore) => Promise<void>): Promise<void> {
  const store = await ClientStore.from(await unlock(world.path, keyring, { mode: "readwrite" }));
  try {
    await body(store);
  } finally {
    await store.close();
  }
}

const clientIn = async (world: World, id: number) => {
  let found: Awaited<ReturnType<ClientStore["getClientById"]>>;
  await change(world, async (store) => {
    found = await store.getClientById(id);
  });
  return found;
};

const restore = (world: World, backup: string, more: object = {}) =>
  world.run<RestoreResult>("restore", {
    ...world.withoutService,
    backup: { file: backup },
    ...more,
  });

async function replacedIn(world: World): Promise<string[]> {
  return (await readdir(join(world.path, ".."))).filter((name) => name.includes(".replaced."));
}

test("the backup is the store again, and the replaced one is kept under a name that says when", async () => {
  const { world, backup, rows } = await backedUp();
  await change(world, (store) => store.addItem(newClient({ client_id: 8, api_key: "later" })));
  const later = await world.rows();
  const ran = await restore(world, backup);
  const { restored } = resultOf(ran);
  expect(await world.rows()).toEqual(rows);
  expect(ran.notices.join()).toMatch(/1 client missing from the backup/);
  expect(restored.replaced).toMatch(/clients\.db\.replaced\.\d{4}-\d\d-\d\dT\d\d-\d\d-\d\dZ$/);
  expect(await world.leftovers()).toEqual([]);
  await cp(restored.replaced ?? "", `${world.path}.2`);
  await rename(restored.replaced ?? "", world.path);
  expect(await world.rows()).toEqual(later);
});

test("--discard-replaced keeps none", async () => {
  const { world, backup } = await backedUp();
  const { restored } = resultOf(await restore(world, backup, { discardReplaced: true }));
  expect(restored.replaced).toBeNull();
  expect(await replacedIn(world)).toEqual([]);
});

test("the log of a store that is gone is moved away, and does not end up in the restored one", async () => {
  const { world, backup, rows } = await backedUp();
  await change(world, async (store) => {
    await store.connection.all("PRAGMA journal_mode = WAL");
    await store.addItem(newClient({ client_id: 8, api_key: "in the log" }));
    for (const suffix of ["-wal", "-shm"])
      await cp(world.path + suffix, `${world.path}.saved${suffix}`);
  });
  await rm(world.path);
  for (const suffix of ["-wal", "-shm"])
    await rename(`${world.path}.saved${suffix}`, world.path + suffix);
  const ran = await restore(world, backup);
  expect(resultOf(ran).restored.replaced).toBeNull();
  expect(ran.notices.join()).toMatch(
    /clients\.db-wal, which belongs to a store that no longer exists/,
  );
  expect(await world.rows()).toEqual(rows);
  expect((await replacedIn(world)).map((name) => name.slice(-4)).toSorted()).toEqual([
    "-shm",
    "-wal",
  ]);
});

test("a client that is revoked now stays revoked, also one that the backup never had; readmitting is asked for", async () => {
  const { world, backup } = await backedUp();
  await change(world, async (store) => {
    await store.deleteItem(2);
    await store.addItem(newClient({ client_id: 8, api_key: "eight" }));
    await store.addItem(newClient({ client_id: 9, api_key: "nine" }));
    await store.deleteItem(9);
  });
  const ran = await restore(world, backup);
  // Client 8 was active: only its id must not be used again.
  expect(resultOf(ran).restored.stayedRevoked.toSorted()).toEqual([2, 9]);
  expect(ran.questions).toEqual([]);
  for (const id of [2, 8, 9]) expect((await clientIn(world, id))?.api_key).toBe(revokedApiKey);
  expect(await clientIn(world, 1)).toMatchObject({ name: "kitchen-satellite" });

  const again = await restore(world, backup, { readmitRevoked: true });
  expect(again.questions.join()).toMatch(/revoked clients would be admitted again: 2\./);
  expect((await clientIn(world, 2))?.api_key).not.toBe(revokedApiKey);
});

test("a client that is revoked at the last moment stays revoked, with a hub that writes all the time", async () => {
  const { world, backup } = await backedUp();
  await change(world, async ({ connection }) => {
    await connection.all("PRAGMA journal_mode = WAL");
  });
  await world.startUnit("Environment=HUB_WRITES=1");
  const revoke = `${process.execPath} ${testProgram("swap/revoke-client")} '${world.path}' 2`;
  const ran = await world.run<RestoreResult>(
    "restore",
    { backup: { file: backup } },
    {
      NODE_OPTIONS: `--import=${root}test/faults/at-step.mjs`,
      HIVEMIND_TEST_AT_STEP: JSON.stringify({ "restore.armed": `NODE_OPTIONS= ${revoke}` }),
    },
  );
  const { restored } = resultOf(ran);
  expect(restored.stayedRevoked).toEqual([2]);
  expect(restored.clients).toMatchObject({ revoked: expect.any(Number) });
  expect(await world.isActive).toBe(true);
  await systemctl("stop", world.unit);
  expect((await clientIn(world, 2))?.api_key).toBe(revokedApiKey);
});

test("permissions that would widen are listed, and nothing happens without a yes", async () => {
  const { world, backup } = await backedUp();
  await change(world, async (store) => {
    const one = await store.getClientById(1);
    await store.updateClient(1, {
      api_key: "given anew",
      can_broadcast: false,
      allowed_types: ["speak"],
      metadata: { ...one?.metadata, skill_blacklist: ["skill-a"] },
    });
    await store.updateClient(2, { is_admin: false, password: "given anew" });
  });
  const before = await readFile(world.path);
  const refused = await restore(world, backup, { yes: false });
  expect(refused.code).toBe(17);
  expect(refused.questions).toHaveLength(1);
  const [question = ""] = refused.questions;
  expect(question).toMatch(/1 \(kitchen-satellite\) could broadcast again; could send .*again/);
  expect(question).toMatch(
    /on its skill blacklist: skill-a; would have its earlier access key again/,
  );
  expect(question).toMatch(
    /2 \(.*\) would be an admin again; would have its earlier password again/,
  );
  expect(await readFile(world.path)).toEqual(before);
  expect(await world.leftovers()).toEqual([]);
  expect(resultOf(await restore(world, backup)).restored.widened).toHaveLength(2);
});

test("unattended, a list that no hub reads as more than now is no question, and one that a hub does is", async () => {
  const world = await World.of(fixture);
  await change(world, async (store) => {
    await store.connection.exec("PRAGMA user_version = 0");
    await store.sync();
    await store.updateClient(1, { allowed_types: [] });
  });
  const { backup } = resultOf(
    await world.run<BackupResult>("backup", { ...world.withoutService, to: world.to }),
  );
  const allow = (allowed_types: string[]) =>
    change(world, (store) => store.updateClient(1, { allowed_types }).then(() => undefined));
  await allow(["speak"]);
  const refused = await restore(world, backup.path, { yes: false });
  expect(refused.code).toBe(17);
  expect(refused.questions.join()).toMatch(/an empty list .* HiveMind 4 lets it send recog/);
  await allow([...defaultAllowedTypes, "speak"]);
  const ran = await restore(world, backup.path, { yes: false });
  expect(resultOf(ran).restored.widened).toEqual([]);
  expect(ran.questions).toEqual([]);
});

test("a backup of the previous passphrase, whose rows the store has, comes back under that passphrase", async () => {
  const { world, backup, rows } = await backedUp();
  const old = (await world.slots()).current;
  const { rotated } = resultOf(
    await world.run<RotateResult>("rotate", { ...world.withoutService, keepPrevious: true }),
  );
  const { current } = await world.slots();
  const { restored } = resultOf(await restore(world, backup));
  expect(restored.keyId).toBe(rotated.previousKeyId);
  expect(await world.rows()).toEqual(rows);
  const slots = await world.slots();
  expect(slots.current).toBe(old);
  expect(slots[`previous:${rotated.keyId}`]).toBe(current);
});

test("without the previous generation in the keyring, the bundle opens it", async () => {
  const { world, backup, bundle, rows } = await backedUp();
  resultOf(await world.run("rotate", world.withoutService));
  const refused = await restore(world, backup);
  expect(refused.code).toBe(12);
  const identity = world.recoveryKey.identity;
  const ran = await restore(world, backup, { bundle: { path: bundle, opener: { identity } } });
  resultOf(ran);
  expect(ran.questions.join()).toMatch(/No passphrase on this machine confirms[\s\S]* \d active/);
  expect(await world.rows()).toEqual(rows);
});

test("on a new machine, backup, bundle and recovery key are enough", async () => {
  const { world, backup, bundle, rows } = await backedUp();
  const machine = await World.of("plain-schema0.db");
  await rm(machine.path);
  const opener = { identity: world.recoveryKey.identity };
  const path = join(machine.folder, "missing");
  const source = { kind: "file", path };
  const refused = await restore(machine, backup, { source, bundle: { path: bundle, opener } });
  expect([refused.code, refused.error]).toMatchObject([
    17,
    {
      message: expect.stringMatching(`${path} does not yield .* of the backup: no such file`),
      hint: expect.stringContaining("bundle show BUNDLE --identity FILE --show-passphrase"),
    },
  ]);
  const ran = await restore(machine, backup, { bundle: { path: bundle, opener }, hub: "auto" });
  const { restored } = resultOf(ran);
  expect(restored.replaced).toBeNull();
  expect(ran.questions.join()).toMatch(/the admins 2 \(/);
  expect(await machine.rows()).toEqual(rows);
  expect((await machine.slots()).current).toBe((await world.slots()).current);
});

test("a store that nothing opens is moved aside with what lies beside it", async () => {
  const { world, backup, rows } = await backedUp();
  await writeFile(world.path, "x".repeat(8192));
  await writeFile(`${world.path}-wal`, "its log");
  const { restored } = resultOf(await restore(world, backup));
  expect(await world.rows()).toEqual(rows);
  expect(await readFile(restored.replaced ?? "", "utf8")).toBe("x".repeat(8192));
  expect(await readFile(`${restored.replaced}-wal`, "utf8")).toBe("its log");
  expect(await world.leftovers()).toContain(`${replacedName(restored)}-wal`);
});

test("killed while such a store is moved: it is all back after the next command, or all aside", async () => {
  const { world, backup, rows } = await backedUp();
  const outcomes = new Set<string>();
  const slots = await world.slots();
  for (let nth = 2; nth <= 13; nth++) {
    const copy = await world.copy(slots);
    onTestFinished(() => copy.remove());
    await writeFile(copy.path, "x".repeat(8192));
    await writeFile(`${copy.path}-wal`, "its log");
    const request = copy.options({ ...copy.withoutService, backup: { file: backup } });
    const killed = await copy.drive(
      ["restore", JSON.stringify(request)],
      { UV_THREADPOOL_SIZE: "1" },
      ["strace", "-f", "-o", "/dev/null", "-e", `inject=rename:signal=SIGKILL:when=${nth}`],
    );
    const settled = await copy.settle();
    expect(settled.error).toBeUndefined();
    const [aside] = (await replacedIn(copy)).filter((name) => name.endsWith("Z"));
    const where = aside ? join(copy.path, "..", aside) : copy.path;
    expect(await readFile(where, "utf8")).toBe("x".repeat(8192));
    expect(await readFile(`${where}-wal`, "utf8")).toBe("its log");
    if (aside) expect(await copy.rows()).toEqual(rows);
    outcomes.add(`${killed.result ? "ended" : "killed"}, ${aside ? "aside" : "back"}`);
  }
  expect([...outcomes].toSorted()).toEqual(["ended, aside", "killed, aside", "killed, back"]);
}, 180_000);

const replacedName = (restored: RestoreResult["restored"]) => restored.replaced?.split("/").at(-1);

test("if the unit does not become active with the restored store, the old one is put back", async () => {
  const { world, backup } = await backedUp();
  const old = (await world.slots()).current ?? "";
  resultOf(await world.run("rotate", { ...world.withoutService, keepPrevious: true }));
  const { current = "" } = await world.slots();
  const rows = await world.rows();
  // This hub knows the passphrase of the present store alone.
  await world.startUnit("", await passphraseFile(world, current));
  const ran = await world.run<RestoreResult>("restore", { backup: { file: backup } });
  expect(ran.code).toBe(15);
  expect(ran.error?.message).toMatch(/the replaced store was put back/);
  expect(await world.isActive).toBe(true);
  expect(await world.rows()).toEqual(rows);
  expect(await replacedIn(world)).toEqual([]);
  expect((await world.slots()).current).toBe(current);
  expect(Object.values(await world.slots())).toContain(old);
  await systemctl("stop", world.unit);
});

test("the restart timer leaves as much time for a large backup over a small store as over a large one", async () => {
  const world = await World.of(fixture);
  const small = await readFile(world.path);
  await change(world, async ({ connection }) => {
    await connection.run("UPDATE clients SET description = ? WHERE client_id = 1", [
      "x".repeat(10_000_000),
    ]);
  });
  const { backup } = resultOf(
    await world.run<BackupResult>("backup", { ...world.withoutService, to: world.to }),
  );
  await writeFile(world.path, small);
  await world.startUnit();
  const programs = join(world.folder, "programs");
  await mkdir(programs);
  const log = join(world.folder, "timers");
  const script = `#!/bin/sh\necho "$@" >>'${log}'\nexec /usr/bin/systemd-run "$@"\n`;
  await writeFile(join(programs, "systemd-run"), script, { mode: 0o755 });
  for (let run = 0; run < 2; run++) {
    resultOf(
      await world.run<RestoreResult>(
        "restore",
        { backup: { file: backup.path }, discardReplaced: true },
        { PATH: `${programs}:${process.env.PATH}` },
      ),
    );
  }
  const timers = (await readFile(log, "utf8")).matchAll(/--on-active=(\d+)ms/g);
  const [first = 0, second = 0, ...others] = [...timers].map(([, ms]) => Number(ms));
  expect(others).toEqual([]);
  expect(first).toBeGreaterThan(60_000);
  expect(Math.abs(first - second)).toBeLessThan(1000);
});

test("--to restores beside, with the passphrase in the keyring for that path, and touches nothing else", async () => {
  const { world, backup, rows } = await backedUp();
  const to = join(world.folder, "beside.db");
  const before = await readFile(world.path);
  resultOf(await restore(world, backup, { to }));
  expect((await find(to)).rows).toEqual(rows);
  expect(await readFile(world.path)).toEqual(before);
  expect((await restore(world, backup, { to })).code).toBe(17);
  for (const { slot } of await listEntries(to)) await deleteEntry(to, slot);
});

test("--from-time takes the newest backup that is not newer", async () => {
  const { world, backup, rows } = await backedUp();
  const between = new Date();
  await change(world, (store) => store.updateClient(1, { name: "renamed" }).then(() => undefined));
  await new Promise((done) => setTimeout(done, 1100));
  resultOf(await world.run("backup", { ...world.withoutService, to: world.to }));
  const ran = await world.run<RestoreResult>("restore", {
    ...world.withoutService,
    backup: { directory: world.to, before: between.toISOString() },
  });
  expect(resultOf(ran).restored.backup).toBe(backup);
  expect(await world.rows()).toEqual(rows);
  const none = await world.run("restore", {
    ...world.withoutService,
    backup: { directory: world.to, before: "2001-01-01T00:00:00Z" },
  });
  expect(none.code).toBe(10);
});

test.each(["11.12.2026", "2026-02-31", "5", "03/04/2026", "2026-11-24T25:00Z", ""])(
  "--from-time refuses %j",
  async (time) => {
    const machine = await Machine.make();
    const { code, stderr } = await machine.run(["restore", "--from-time", time]);
    expect([code, stderr]).toEqual([2, expect.stringContaining("is not a time")]);
  },
);

test("restore uses the new passphrase file after the recovery of a rotation, and saves the file of an option", async () => {
  const machine = await Machine.make();
  const [old, next] = [machine.path("old"), machine.path("next")];
  await writeFile(old, "the old passphrase", { mode: 0o600 });
  await writeFile(next, "the new passphrase", { mode: 0o600 });
  await machine.init(
    ...["--passphrase-source", `file:${old}`],
    ...["--to", machine.path("backups"), "--bundle-to", machine.path("bundles")],
  );
  const { document } = await machine.json("backup", "--service", "none");
  const { path } = document.backup as { path: string };
  const none = ["--service", "none", "--hub", "none"];
  const killed = await machine.run(["rotate", "--passphrase-file", next, ...none], {
    env: {
      NODE_OPTIONS: `--import=${root}test/faults/at-step.mjs`,
      HIVEMIND_TEST_AT_STEP: JSON.stringify({ "rotate.renamed": "kill" }),
    },
  });
  expect(killed.code).toBe(null);
  const { code, stderr } = await machine.run(["restore", path, "--yes", ...none]);
  expect([code, stderr]).toEqual([12, expect.stringContaining(`file:${next} does not open`)]);
  expect((await machine.run(["list-clients"])).code).toBe(0);
  // The settings follow the source of the restored passphrase.
  const source = ["--passphrase-source", `file:${old}`];
  const restored = await machine.run(["restore", path, "--yes", ...source, ...none]);
  expect(restored).toMatchObject({ code: 0 });
  expect(await machine.run(["list-clients"])).toMatchObject({ code: 0 });
});

test("a folder without a backup that is old enough, one that is not there, and one that cannot be read are told apart", async () => {
  const { world, backup } = await backedUp();
  const before = new Date("2001-01-01T00:00:00Z");
  const choose = (folder: string) => chooseBackup({ directory: folder, before }, world.path);
  await expect(choose(world.to)).rejects.toMatchObject({
    kind: "notFound",
    message: `no backup from before 2001-01-01T00:00:00.000Z in ${world.to}`,
    hint: expect.stringContaining(`backups '${world.to}'`),
  });
  await expect(choose(join(world.to, "gone"))).rejects.toMatchObject({
    kind: "notFound",
    message: `no such directory: ${join(world.to, "gone")}`,
    hint: expect.any(String),
  });
  await expect(choose(backup)).rejects.toMatchObject({ kind: "io" });
});

test("another sound backup that is put in the chosen one's place before the copy is refused, and nothing changes", async () => {
  const { world, backup } = await backedUp();
  await change(world, (store) => store.addItem(newClient({ client_id: 8, api_key: "later" })));
  const later = await world.rows();
  const { backup: newer } = resultOf(
    await world.run<BackupResult>("backup", { ...world.withoutService, to: world.to }),
  );
  const ran = await world.run(
    "restore",
    { ...world.withoutService, backup: { file: newer.path } },
    {
      NODE_OPTIONS: `--import=${root}test/faults/at-step.mjs`,
      HIVEMIND_TEST_AT_STEP: JSON.stringify({
        "restore.copying": `cp '${backup}' '${newer.path}'`,
      }),
    },
  );
  expect(ran.error).toMatchObject({ kind: "corrupted", message: expect.stringMatching(/sha256/) });
  expect(await world.rows()).toEqual(later);
  expect(await world.leftovers()).toEqual([]);
});

test("the copy is restored, whatever happens to the backup after it was made; a damaged copy is refused", async () => {
  const { world, backup, rows } = await backedUp();
  await change(world, (store) => store.addItem(newClient({ client_id: 8, api_key: "later" })));
  const later = await world.rows();
  const restoreWhile = (command: string) =>
    world.run<RestoreResult>(
      "restore",
      { ...world.withoutService, backup: { file: backup } },
      {
        NODE_OPTIONS: `--import=${root}test/faults/at-step.mjs`,
        HIVEMIND_TEST_AT_STEP: JSON.stringify({ "restore.copied": command }),
      },
    );
  const staged = `'${dirname(world.path)}'/.clients.db.*.partial`;
  const damaged = await restoreWhile(
    `printf x | dd of=$(echo ${staged}) bs=1 seek=5000 conv=notrunc`,
  );
  expect(damaged.error).toMatchObject({
    kind: "corrupted",
    message: expect.stringMatching(/sha256: .*page 2/),
  });
  expect(await world.rows()).toEqual(later);
  expect(await world.leftovers()).toEqual([]);
  resultOf(await restoreWhile(`echo damaged >'${backup}'`));
  expect(await world.rows()).toEqual(rows);
});

test.each(["copying", "copied", "verified"])(
  "a restore killed when it is %s leaves nothing behind after the next command",
  async (step) => {
    const { world, backup, rows } = await backedUp();
    const killed = await world.run(
      "restore",
      { ...world.withoutService, backup: { file: backup } },
      {
        NODE_OPTIONS: `--import=${root}test/faults/at-step.mjs`,
        HIVEMIND_TEST_AT_STEP: JSON.stringify({ [`restore.${step}`]: "kill" }),
      },
    );
    expect(killed.signal).toBe("SIGKILL");
    resultOf(await restore(world, backup));
    expect(await world.rows()).toEqual(rows);
    expect(await world.leftovers()).toEqual([]);
  },
);

test("a manifest that is missing or does not hold is refused; --no-manifest opens the bare file", async () => {
  const { world, backup, rows } = await backedUp();
  const manifest = backup.replace(/db$/, "manifest.json");
  const text = await readFile(manifest, "utf8");
  await writeFile(manifest, text.replace(/"hostname": "[^"]*"/, '"hostname": "elsewhere"'));
  const forged = await restore(world, backup);
  expect([forged.code, forged.error?.message]).toEqual([14, expect.stringMatching(/mac: /)]);
  await rm(manifest);
  const bare = await restore(world, backup);
  expect(bare.code).toBe(14);
  expect(bare.error?.hint).toMatch(/--no-manifest/);
  const { restored } = resultOf(await restore(world, backup, { noManifest: true }));
  expect(restored.createdAt).toBeNull();
  expect(await world.rows()).toEqual(rows);
});

test("a damaged backup is refused with and without its manifest, and nothing changes", async () => {
  const { world, backup, bundle } = await backedUp();
  const bytes = await readFile(backup);
  bytes[5000] = (bytes[5000] ?? 0) ^ 1;
  await writeFile(backup, bytes);
  const before = await readFile(world.path);
  for (const noManifest of [false, true]) {
    expect((await restore(world, backup, { noManifest })).code).toBe(14);
  }
  // The lost key_id does not make the bundle that of another backup.
  await writeFile(backup, bytes.fill(0, 0, 512));
  const opener = { identity: world.recoveryKey.identity };
  const headless = await restore(world, backup, { bundle: { path: bundle, opener } });
  expect([headless.code, headless.error?.message]).toEqual([
    14,
    expect.stringMatching(/sha256: .*key_id: 0{16}, but [0-9a-f]{16} in the manifest/),
  ]);
  await truncate(backup, 6000);
  expect((await restore(world, backup, { noManifest: true })).code).toBe(14);
  expect(await readFile(world.path)).toEqual(before);
  expect(await world.leftovers()).toEqual([]);
});

test.each([
  ["no such backup", (world: World) => ({ backup: { file: join(world.to, "none.db") } }), 10],
  ["a folder for a backup", (world: World) => ({ backup: { file: world.to } }), 17],
  [
    "a bundle of another store",
    async () => {
      const other = await World.of("sqlcipher3-schema2.db");
      const { bundle } = resultOf(
        await other.run<BackupResult>("backup", { ...other.withoutService, to: other.to }),
      );
      const identity = other.recoveryKey.identity;
      return { bundle: { path: bundle.path, opener: { identity } } };
    },
    17,
  ],
  [
    "a wrong recovery key",
    async (world: World) => {
      const other = await World.of(fixture);
      const [keyId] = await world.bundles();
      return {
        bundle: {
          path: join(world.bundleTo, `clients.${keyId}.bundle.age`),
          opener: { identity: other.recoveryKey.identity },
        },
      };
    },
    12,
  ],
  [
    "a cut-off bundle",
    async (world: World) => {
      const [keyId] = await world.bundles();
      const path = join(world.bundleTo, `clients.${keyId}.bundle.age`);
      await truncate(path, 400);
      return { bundle: { path, opener: { identity: world.recoveryKey.identity } } };
    },
    14,
  ],
  [
    "a folder where the store should be",
    async (world: World) => {
      await rename(world.path, `${world.path}.away`);
      await mkdir(world.path);
      return {};
    },
    17,
  ],
  [
    "a link to a backup that is elsewhere",
    async (world: World) => {
      await symlink("/nowhere", join(world.to, "link.db"));
      return { backup: { file: join(world.to, "link.db") } };
    },
    10,
  ],
] as const)("%s is refused in words, and nothing changes", async (_what, options, code) => {
  const { world, backup } = await backedUp();
  const before = await readFile(world.path);
  const ran = await restore(world, backup, await options(world));
  expect([ran.code, ran.error?.message]).toEqual([code, expect.any(String)]);
  const kept = await readFile(world.path).catch(() => readFile(`${world.path}.away`));
  expect(kept).toEqual(before);
  expect((await world.leftovers()).filter((name) => name.includes("partial"))).toEqual([]);
});

test("a file that is restored beside the store needs a folder; at the store's own place it is the store", async () => {
  const { world, backup, rows } = await backedUp();
  const nowhere = await restore(world, backup, { to: join(world.folder, "no", "folder.db") });
  expect([nowhere.code, nowhere.error?.hint]).toEqual([10, expect.stringContaining("mkdir")]);
  await rm(world.path);
  expect(resultOf(await restore(world, backup, { to: world.path })).restored.path).toBe(world.path);
  expect(await world.rows()).toEqual(rows);
});

test("a hub that does not know the backup's schema would enforce no blacklist of it: that is asked about", async () => {
  const { world, backup } = await backedUp();
  const withHub = (line: "released" | "development") =>
    world.run<RestoreResult>(
      "restore",
      { ...world.withoutService, backup: { file: backup } },
      { PATH: `${dirname(interpreter(line))}:${process.env.PATH}` },
    );
  expect((await withHub("released")).questions.join()).toMatch(
    /has schema 2, and the hub here .* does not support schema 2: it would ignore every blacklist/,
  );
  expect((await withHub("development")).questions).toEqual([]);
  // Named by --to, the store's own place is no less the hub's.
  await rm(world.path);
  const named = await world.run<RestoreResult>(
    "restore",
    { ...world.withoutService, backup: { file: backup }, to: world.path },
    { PATH: `${dirname(interpreter("released"))}:${process.env.PATH}` },
  );
  expect(named.questions.join()).toMatch(/does not support schema 2/);
});
