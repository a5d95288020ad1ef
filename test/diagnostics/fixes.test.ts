/**
 * Each fix that doctor prints is executed as it is printed, and its finding is gone afterwards. A
 * fix that was never carried out has done harm: it deleted the only database of a hub.
 */
import { mkdtempSync, readdirSync } from "node:fs";
import { chmod, copyFile, mkdir, readFile, rm, writeFile } from "node:fs/promises";
import { hostname, userInfo } from "node:os";
import { basename, dirname, join } from "node:path";
import { expect, onTestFinished, test } from "vitest";
import {
  backupPath,
  formatManifest,
  manifestPath,
  readManifest,
  signManifest,
} from "../../src/backup/manifest.js";
import { newClient } from "../../src/client/client.js";
import { DatabaseFactory } from "../../src/databases/registry.js";
import { checkPermissions } from "../../src/diagnostics/files.js";
import { getEntry } from "../../src/keys/keyring.js";
import { Journal } from "../../src/operation/journal.js";
import { redirectToFile } from "../../src/service/systemctl.js";
import { openEncrypted } from "../../src/store/cipher.js";
import { ClientStore } from "../../src/store/client-store.js";
import { root } from "../built.js";
import { Machine } from "../cli/machine.js";
import { hubScript } from "../hub/support.js";
import {
  exec,
  property,
  removeUnits,
  systemctl,
  uniqueName,
  until,
  writeUnits,
} from "../service/units.js";
import { fixtures } from "../store/temporary.js";

interface Check {
  name: string;
  ok: boolean;
  detail: string;
  fix: string | null;
}

/** A machine on which the printed command line can be typed. */
class Site {
  private constructor(
    readonly machine: Machine,
    /** Options that name the store. */
    readonly here: readonly string[],
    readonly environment: NodeJS.ProcessEnv,
  ) {}

  /**
   * @param unitsOfUser - uses the directory where the user manager reads units, and so a settings
   *   file of another name
   */
  static async make({ unitsOfUser = false, init = [] as string[] } = {}): Promise<Site> {
    const machine = await Machine.make();
    const bin = machine.path("bin");
    await mkdir(bin);
    await writeFile(
      join(bin, "hivemind-sqlcipher"),
      `#!/bin/sh\nexec '${process.execPath}' '${root}dist/cli/main.js' "$@"\n`,
      { mode: 0o755 },
    );
    const here = unitsOfUser
      ? ["--db", machine.store, "--config", machine.path("settings.json")]
      : [];
    const environment = {
      ...machine.environment,
      PATH: `${bin}:/usr/bin:/bin`,
      ...(unitsOfUser && { XDG_CONFIG_HOME: "" }),
    };
    const site = new Site(machine, here, environment);
    await machine.init(
      ...[
        "--to",
        machine.path("backups"),
        "--bundle-to",
        machine.path("bundles"),
        ...here,
        ...init,
      ],
    );
    return site;
  }

  run(...args: string[]) {
    return this.machine.run([...args, ...this.here], { env: this.environment });
  }

  async backup(): Promise<string> {
    const { code, stdout, stderr } = await this.run("backup", "--service", "none", "--json");
    expect(code, stderr).toBe(0);
    return (JSON.parse(stdout) as { backup: { path: string } }).backup.path;
  }

  /** Adds clients with these ids. */
  async addClients(...ids: number[]): Promise<void> {
    await using store = await this.open();
    await store.addItems(ids.map((id) => newClient({ client_id: id, api_key: `key ${id}` })));
  }

  async open(): Promise<ClientStore> {
    return ClientStore.open(this.machine.store, await this.passphrase());
  }

  async passphrase(): Promise<string> {
    return (await getEntry(this.machine.store, "current")) ?? "";
  }

  async findings(name: string, ...options: string[]): Promise<Check[]> {
    const { stdout } = await this.run("doctor", "--json", ...options);
    const { checks } = JSON.parse(stdout) as { checks: Check[] };
    return checks.filter((check) => !check.ok && check.name === name);
  }

  /** Types a fix into a shell, with what only the user knows in place of the capitals. */
  async type(fix: string, known: Readonly<Record<string, string>> = {}): Promise<void> {
    let line = commandIn(fix);
    for (const [placeholder, value] of Object.entries(known)) {
      expect(line).toContain(placeholder);
      line = line.replace(placeholder, value);
    }
    const { code, stderr } = (await exec("/bin/sh", ["-ec", line], { env: this.environment }).catch(
      (error: { code: number; stderr: string }) => error as { code?: number; stderr: string },
    )) as { code?: number; stderr: string };
    // `doctor --fill-gaps` reports the other findings.
    expect([0, ...(line.includes(" doctor ") ? [1] : [])], stderr).toContain(code ?? 0);
  }
}

/** Returns the command of a fix: all of it, or what follows the colon of a sentence. */
function commandIn(fix: string): string {
  return /^[A-Z]/.test(fix) ? fix.slice(fix.lastIndexOf(": ") + 2) : fix;
}

/** Copies a backup and signs it with another time. */
async function madeAt(site: Site, newest: string, at: string): Promise<string> {
  const path = backupPath(dirname(newest), site.machine.store, new Date(at));
  await copyFile(newest, path);
  const { format, version, mac, ...contents } = await readManifest(manifestPath(newest));
  const { connection, key } = await openEncrypted(path, await site.passphrase(), {
    mode: "readonly",
    immutable: true,
  });
  await connection.close();
  const dated = { ...contents, created_at: at, file: basename(path), hostname: hostname() };
  await writeFile(manifestPath(path), formatManifest(signManifest(dated, key)));
  return path;
}

async function alterManifest(backup: string): Promise<void> {
  const path = manifestPath(backup);
  const text = await readFile(path, "utf8");
  await writeFile(path, text.replace(/"active": \d+/, '"active": 77'));
}

interface Row {
  /** What is wrong, and which finding reports it. */
  readonly problem: string;
  readonly finding: string;
  readonly detail: RegExp;
  readonly arrange: (site: Site) => Promise<unknown>;
  /** What only the user knows, for the capitals in the fix. */
  readonly known?: (site: Site) => Record<string, string>;
}

const rows: Row[] = [
  {
    problem: "an interrupted operation",
    finding: "interrupted",
    detail: /backup, started .* was interrupted/,
    arrange: async ({ machine }) => {
      const staged = { copy: machine.path("backups", "c"), manifest: machine.path("backups", "m") };
      const bundle = { folder: machine.path("bundles"), key_id: "0123456789abcdef" };
      await Journal.begin(machine.store, "backup", "backup.beginning", { staged, bundle });
    },
  },
  {
    problem: "a store that others can read, in a directory that others can write",
    finding: "permissions",
    detail: /other users can/,
    arrange: async ({ machine }) => {
      await chmod(machine.store, 0o644);
      await chmod(dirname(machine.store), 0o777);
      await chmod(machine.path("backups"), 0o755);
    },
  },
  {
    problem: "an old copy of the store",
    finding: "copies",
    detail: /older copies/,
    arrange: async ({ machine }) => {
      await copyFile(machine.store, `${machine.store}.replaced.2026-01-01T00-00-00Z`);
      // The store of another hub is no copy.
      await copyFile(machine.store, join(dirname(machine.store), "guest-clients.db"));
    },
  },
  {
    problem: "credentials in plain text that no hub uses",
    finding: "plaintext",
    detail: /in plain text/,
    arrange: ({ machine }) => writeFile(join(dirname(machine.store), "clients.json"), "{}"),
  },
  {
    problem: "a copy in plain SQLite whose name ends with the store's",
    finding: "plaintext",
    detail: /old-clients\.db.*$/,
    arrange: ({ machine }) =>
      copyFile(join(fixtures, "plain-schema2.db"), join(dirname(machine.store), "old-clients.db")),
  },
  {
    problem: "a gap between the client ids",
    finding: "id-gaps",
    detail: /overwrites client 4/,
    arrange: (site) => site.addClients(1, 4),
  },
  {
    problem: "a log of another store beside a backup that was copied over the store",
    finding: "structure",
    detail: /the store is damaged/,
    arrange: async (site) => {
      const { store: path } = site.machine;
      const backup = await site.backup();
      await site.addClients(1);
      const log = site.machine.path("log");
      {
        await using store = await site.open();
        await store.connection.run("UPDATE clients SET name = 'kitchen'");
        await copyFile(`${path}-wal`, log);
      }
      await copyFile(backup, path);
      await copyFile(log, `${path}-wal`);
    },
  },
  {
    problem: "a directory of backups that is gone",
    finding: "directories",
    detail: /backups/,
    arrange: ({ machine }) => rm(machine.path("backups"), { recursive: true }),
  },
  {
    problem: "no backup yet",
    finding: "last-backup",
    detail: /there is no backup/,
    arrange: async () => undefined,
  },
  {
    problem: "a clock behind the newest backup",
    finding: "last-backup",
    detail: /from the future/,
    arrange: async (site) => madeAt(site, await site.backup(), "2199-03-01T01:00:00.000Z"),
  },
  {
    problem: "a newest backup whose manifest was altered",
    finding: "last-backup",
    detail: /does not count, because its manifest was altered/,
    arrange: async (site) => alterManifest(await site.backup()),
  },
  {
    problem: "a forged backup from the future",
    finding: "last-backup",
    detail: /does not count, because its manifest was altered/,
    arrange: async (site) =>
      alterManifest(await madeAt(site, await site.backup(), "2199-03-01T01:00:00.000Z")),
  },
  {
    problem: "no bundle",
    finding: "bundle",
    detail: /no such file|there is no bundle/,
    arrange: async ({ machine }) => {
      await rm(machine.path("bundles"), { recursive: true });
      await mkdir(machine.path("bundles"), { mode: 0o700 });
    },
  },
  {
    problem: "settings without a directory for backups",
    finding: "last-backup",
    detail: /name no directory for backups/,
    arrange: (site) => changeBackupSettings(site, ({ bundle_to }) => ({ bundle_to })),
    known: ({ machine }) => ({
      DIRECTORY: machine.path("backups"),
      ANOTHER: machine.path("bundles"),
    }),
  },
  {
    problem: "settings without a directory for bundles",
    finding: "bundle",
    detail: /name no directory for bundles/,
    arrange: (site) => changeBackupSettings(site, ({ to }) => ({ to })),
    known: ({ machine }) => ({ DIRECTORY: machine.path("bundles") }),
  },
  {
    problem: "a bundle on the disk of the store",
    finding: "bundle-disk",
    detail: /on the same disk as the store/,
    arrange: async () => undefined,
    known: () => {
      const disk = mkdtempSync("/dev/shm/hivemind-bundles-");
      onTestFinished(() => rm(disk, { recursive: true }));
      return { DIRECTORY: disk };
    },
  },
  {
    problem: "no restore test yet",
    finding: "restore-tried",
    detail: /no backup was ever restored/,
    arrange: (site) => site.backup(),
    known: ({ machine }) => ({ "RECOVERY-KEY": machine.path("safe", "recovery-key.txt") }),
  },
  {
    problem: "drills with the keyring only",
    finding: "bundle-tried",
    detail: /no test with the bundle and its recovery key is recorded/,
    arrange: async (site) => {
      await site.backup();
      expect((await site.machine.run(["drill"])).code).toBe(0);
    },
    known: ({ machine }) => ({ "RECOVERY-KEY": machine.path("safe", "recovery-key.txt") }),
  },
  {
    problem: "settings that are not JSON",
    finding: "settings",
    detail: /is not JSON/,
    arrange: ({ machine }) =>
      writeFile(machine.path("config", "hivemind-sqlcipher", "config.json"), '{"store": '),
    known: ({ machine }) => ({
      "--to DIRECTORY": `--to ${machine.path("backups")}`,
      "--bundle-to DIRECTORY": `--bundle-to ${machine.path("bundles")}`,
      RECIPIENT: "age1lvyvwawkr0mcnnnncaghunadrqkmuf9e6507x9y920xxpp866cnql7dp2z",
    }),
  },
  {
    problem: "a passphrase in the secrets of a container engine",
    finding: "container",
    detail: /read from a container engine's secrets/,
    arrange: async (site) => {
      const { machine } = site;
      const secret = machine.path("containers", "storage", "secrets", "filedriver");
      await mkdir(dirname(secret), { recursive: true });
      await writeFile(secret, await site.passphrase(), { mode: 0o600 });
      const path = machine.path("config", "hivemind-sqlcipher", "config.json");
      const settings = JSON.parse(await readFile(path, "utf8"));
      await writeFile(path, JSON.stringify({ ...settings, passphrase_source: `file:${secret}` }));
    },
    known: ({ machine }) => ({
      BUNDLE: machine.path("bundles", readdirSync(machine.path("bundles"))[0] ?? ""),
      "RECOVERY-KEY": machine.path("safe", "recovery-key.txt"),
    }),
  },
  {
    problem: "a password in server.json that others can read",
    finding: "password",
    detail: /other users can read it/,
    arrange: async (site) => {
      await writeServerJson(site, { password: await site.passphrase() });
      await chmod(serverJsonOf(site), 0o644);
    },
  },
];

/** What a fix does that is typed into an editor: it sets keys of the SQLite plugin. */
async function applySettings(site: Site, fix: string): Promise<void> {
  const text = await readFile(serverJsonOf(site), "utf8");
  const { database, ...others } = JSON.parse(text);
  const plugin = database[database.module];
  for (const [, key = "", value = ""] of fix.matchAll(/"(name|subfolder)" to "([^"]*)"/g)) {
    plugin[key] = value;
  }
  delete plugin.db_path;
  await writeFile(serverJsonOf(site), JSON.stringify({ ...others, database }), { mode: 0o600 });
}

async function changeBackupSettings(
  { machine }: Site,
  change: (backup: Record<string, string>) => Record<string, string | undefined>,
): Promise<void> {
  const path = machine.path("config", "hivemind-sqlcipher", "config.json");
  const settings = JSON.parse(await readFile(path, "utf8"));
  await writeFile(path, JSON.stringify({ ...settings, backup: change(settings.backup) }));
}

function serverJsonOf({ machine }: Site): string {
  return machine.path("config", "hivemind-core", "server.json");
}

async function writeServerJson(
  site: Site,
  settings: object = {},
  plugin = "hivemind-sqlite-db-plugin",
): Promise<void> {
  await mkdir(dirname(serverJsonOf(site)), { recursive: true });
  const database = { module: plugin, [plugin]: settings };
  await writeFile(serverJsonOf(site), JSON.stringify({ network_protocol: {}, database }), {
    mode: 0o600,
  });
}

test.each(rows)("$problem: the fix removes the finding", async (row) => {
  const site = await Site.make();
  await row.arrange(site);
  const [found, ...others] = await site.findings(row.finding);
  expect(found?.detail).toMatch(row.detail);
  expect(others).toEqual([]);
  await site.type(found?.fix ?? "", row.known?.(site));
  const left = await site.findings(row.finding);
  // Nobody else can read it any more, but it still is in plain text.
  expect(left.filter(({ detail }) => row.detail.test(detail))).toEqual([]);
});

const scheduleRows: (Row & { finding: "schedule" })[] = [
  {
    problem: "a timer that does not run",
    finding: "schedule",
    detail: /\.timer is not running/,
    arrange: (site) => readSchedule(site).then(({ unit }) => systemctl("stop", unit)),
  },
  {
    problem: "a timer that is not enabled",
    finding: "schedule",
    detail: /\.timer is not enabled/,
    arrange: (site) => readSchedule(site).then(({ unit }) => systemctl("disable", unit)),
  },
  {
    problem: "a timer whose time is past",
    finding: "schedule",
    detail: /never elapses/,
    arrange: async (site) => {
      const { unit } = await readSchedule(site);
      await edit(unit, /OnCalendar=.*/, "OnCalendar=2020-01-01");
      await systemctl("restart", unit);
    },
  },
  {
    problem: "a Node.js that an upgrade has removed",
    finding: "schedule",
    detail: /names a program that is gone.*\/no\/node/,
    arrange: async (site) => {
      const { service } = await readSchedule(site);
      await edit(service, process.execPath, "/no/node");
    },
  },
  {
    problem: "a timer of the installation before an upgrade",
    finding: "schedule",
    detail: /starts another installation .*\/former\/cli\/main\.js, not .*\/dist\/cli\/main\.js$/,
    arrange: async (site) => {
      const { service } = await readSchedule(site);
      await edit(service, `${root}dist/cli/main.js`, await writeFormer(site));
    },
  },
  {
    problem: "a timer with a former passphrase source",
    finding: "schedule",
    detail: /reads the passphrase from file:\/old, not from keyring/,
    arrange: async (site) => {
      const { service } = await readSchedule(site);
      await edit(service, " backup ", " backup --passphrase-source file:/old ");
    },
  },
  {
    problem: "a scheduled backup that failed",
    finding: "schedule",
    detail: /the last scheduled backup failed .* exit code 18/,
    arrange: async (site) => {
      const { service } = await readSchedule(site);
      await rm(site.machine.path("backups"), { recursive: true });
      await systemctl("start", service).catch(() => undefined);
      await mkdir(site.machine.path("backups"), { mode: 0o700 });
    },
  },
];

/** Writes the main file of another installation. */
async function writeFormer({ machine }: Site): Promise<string> {
  const path = machine.path("former", "cli", "main.js");
  await mkdir(dirname(path), { recursive: true });
  await writeFile(path, "");
  return path;
}

const unitFolder = join(process.env.HOME ?? "", ".config/systemd/user");

async function readSchedule(site: Site): Promise<{ unit: string; service: string }> {
  const { stdout } = await site.run("schedule", "status", "--json");
  return (JSON.parse(stdout) as { schedule: { unit: string; service: string } }).schedule;
}

async function edit(unit: string, from: string | RegExp, to: string): Promise<void> {
  const path = join(unitFolder, unit);
  await writeFile(path, (await readFile(path, "utf8")).replace(from, to));
  await systemctl("daemon-reload");
}

test.each(scheduleRows)("$problem: the fix makes the schedule work again", async (row) => {
  const site = await Site.make({ unitsOfUser: true });
  onTestFinished(async () => {
    await site.run("schedule", "remove");
  });
  const installed = await site.run("schedule", "install", "--service", "none");
  expect(installed.code, installed.stderr).toBe(0);
  await row.arrange(site);
  const found = (await site.findings("schedule")).filter(({ detail }) => row.detail.test(detail));
  expect(found).toHaveLength(1);
  await site.type(found[0]?.fix ?? "");
  const left = await site.findings("schedule");
  expect(left.filter(({ fix }) => fix !== `loginctl enable-linger ${userInfo().username}`)).toEqual(
    [],
  );
});

const run = `${process.execPath} ${root}dist/cli/main.js run`;

interface HubRow {
  problem: string;
  detail: RegExp;
  start: string;
  server?: object;
  /** What the drop-in keeps of the unit's `run`. */
  options?: string;
}

const hubRows: HubRow[] = [
  {
    problem: "a unit that an installer has written again, without run",
    detail: /starts the hub without the passphrase/,
    start: "HUB listen",
  },
  {
    problem: "a unit whose server.json has another password",
    detail: /starts the hub with another password/,
    start: "HUB listen",
    server: { password: "of an earlier store" },
  },
  {
    problem: "a unit whose Node.js is gone",
    detail: /starts a program that is gone.*\/no\/node/,
    start:
      "/usr/bin/env X=$$Y /no/node /opt/dist/cli/main.js run --no-key-cache --db STORE --redis-password-source file:/%%a$$b -- HUB listen",
    options: `/usr/bin/env "X=$$Y" ${run} --no-key-cache --db STORE --redis-password-source "file:/%%a$$b"`,
  },
];

test.each(hubRows)("$problem: the drop-in of the fix starts the hub", async (row) => {
  const site = await Site.make();
  const { machine } = site;
  await writeServerJson(site, row.server);
  const hub = machine.path("bin", "hivemind-core");
  await writeFile(
    hub,
    `#!/bin/sh\ngrep -c password '${serverJsonOf(site)}' >'${machine.path("seen")}'\nexec sleep infinity\n`,
    { mode: 0o755 },
  );
  const name = `${uniqueName()}.service`;
  const environment = ["DATA", "CONFIG", "STATE"].map(
    (kind) => `Environment="XDG_${kind}_HOME=${machine.environment[`XDG_${kind}_HOME`]}"\n`,
  );
  const start = row.start.replace("HUB", hub).replace("STORE", machine.store);
  onTestFinished(async () => {
    await removeUnits(name);
    await rm(join(unitFolder, `${name}.d`), { recursive: true, force: true });
    await systemctl("daemon-reload");
  });
  await writeUnits({
    [name]: `[Service]\n${environment.join("")}ExecStart=${start}\n[Install]\nWantedBy=default.target\n`,
  });
  const [found, ...others] = await site.findings("hub-unit");
  expect(found?.detail).toMatch(row.detail);
  expect(others).toEqual([]);
  await site.type(found?.fix ?? "");
  expect(await site.findings("hub-unit")).toEqual([]);
  await until(async () => (await readFile(machine.path("seen"), "utf8").catch(() => "")) !== "");
  expect((await readFile(machine.path("seen"), "utf8")).trim()).toBe("1");
  const dropIn = await readFile(join(unitFolder, `${name}.d`, "hivemind-sqlcipher.conf"), "utf8");
  expect(dropIn).toMatch(
    new RegExp(`^ExecStart=\\nType=exec\\nExecStart=.* -- ${hub} listen$`, "m"),
  );
  if (row.options === undefined) return;
  expect(dropIn).toContain(`ExecStart=${row.options.replace("STORE", machine.store)} -- `);
});

/** A unit that starts a hub, a script with this text, with the machine's directories. */
async function hubUnit(
  { machine }: Site,
  { script = "exec sleep infinity", more = "", start = "HUB listen", suffix = "" } = {},
): Promise<{ name: string; hub: string }> {
  const hub = machine.path("bin", "hivemind-core");
  await writeFile(hub, `#!/bin/sh\n${script}\n`, { mode: 0o755 });
  const name = `${uniqueName()}${suffix}.service`;
  const environment = ["DATA", "CONFIG", "STATE"].map(
    (kind) => `Environment="XDG_${kind}_HOME=${machine.environment[`XDG_${kind}_HOME`]}"\n`,
  );
  onTestFinished(async () => {
    await removeUnits(name);
    await rm(join(unitFolder, `${name}.d`), { recursive: true, force: true });
    await systemctl("daemon-reload");
  });
  await writeUnits({
    [name]: `[Service]\n${environment.join("")}ExecStart=${start.replace("HUB", hub)}\n${more}[Install]\nWantedBy=default.target\n`,
  });
  return { name, hub };
}

test("an interrupted backup whose directories are gone: commands work and name the way out", async () => {
  const site = await Site.make();
  const { machine } = site;
  const staged = { copy: machine.path("backups", "c"), manifest: machine.path("backups", "m") };
  const bundle = { folder: machine.path("bundles"), key_id: "0123456789abcdef" };
  await Journal.begin(machine.store, "backup", "backup.beginning", { staged, bundle });
  await rm(machine.path("backups"), { recursive: true });
  await rm(machine.path("bundles"), { recursive: true });
  const journal = `${machine.store}.journal.json`;
  const [found] = await site.findings("interrupted");
  expect(found?.detail).toContain(`its journal is ${journal}`);
  expect(found?.fix).toMatch(/^Keep the journal until a command reports that it is not needed: /);
  const listed = await site.run("list-clients");
  expect([listed.code, listed.stderr]).toEqual([0, expect.stringContaining("Mount its disk")]);
  expect(listed.stderr).toContain(`If the files are gone for good: rm '${journal}'`);
  await mkdir(machine.path("backups"), { mode: 0o700 });
  await site.type(found?.fix ?? "");
  expect(await site.findings("interrupted")).toEqual([]);
});

test("a store that is locked: the fix does not replace it by a backup", async () => {
  const site = await Site.make();
  await using store = await site.open();
  await store.connection.exec("PRAGMA journal_mode = DELETE");
  await store.connection.exec("BEGIN EXCLUSIVE");
  const fix = "Remove the cause, then run doctor again.";
  expect(await site.findings("store")).toMatchObject([
    { detail: expect.stringContaining("database is locked"), fix },
  ]);
  await store.connection.exec("ROLLBACK");
});

test("a password in server.json: the fix lets run pass it, removes it from the file and replaces it", async () => {
  const site = await Site.make();
  await writeServerJson(site, { password: await site.passphrase() });
  const { machine } = site;
  const { name } = await hubUnit(site, {
    script: `grep -o '"password": *"[^"]*"' "$XDG_CONFIG_HOME/hivemind-core/server.json" >>'${machine.path("seen")}'; exec sleep infinity`,
  });
  await systemctl("start", name);
  const before = await site.passphrase();
  const [found, ...others] = await site.findings("password");
  expect([found?.detail, others]).toEqual([expect.stringContaining("in plain text"), []]);
  await site.type(found?.fix ?? "");
  expect(await site.findings("password")).toEqual([]);
  expect(await site.findings("hub-unit")).toEqual([]);
  const after = await site.passphrase();
  expect(after).not.toBe(before);
  expect(await readFile(serverJsonOf(site), "utf8")).not.toContain("password");
  await until(async () => (await readFile(machine.path("seen"), "utf8")).includes(after));
  expect(await systemctl("is-active", name)).toBe("active");
});

test("a server.json that names another store: both ways of the fix agree with the hub", async () => {
  for (const wrong of [{ name: "others" }, { subfolder: "elsewhere" }, { db_path: "/x/y.db" }]) {
    const site = await Site.make();
    await writeServerJson(site, wrong);
    const named = ["--db", site.machine.store];
    const [found] = await site.findings("server.json", ...named);
    expect(found?.detail).toMatch(
      /the hub uses .*(?:others\.db|elsewhere\/clients\.db|y\.db), not /,
    );
    const [, other = ""] = /--db '([^']*)'$/.exec(found?.fix ?? "") ?? [];
    expect(await site.findings("server.json", "--db", other)).toEqual([]);
    await applySettings(site, found?.fix ?? "");
    expect(await site.findings("server.json", ...named)).toEqual([]);
  }
});

test("a hub's program that is gone: installed again at that path, nothing is left to report", async () => {
  const site = await Site.make();
  await writeServerJson(site);
  const { name, hub } = await hubUnit(site, { start: `${run} -- HUB listen` });
  const program = await readFile(hub);
  await rm(hub);
  const [found, ...others] = await site.findings("hub-unit");
  expect(found?.detail).toBe(`${name} starts a program that is gone or cannot be executed: ${hub}`);
  expect(others).toEqual([]);
  expect(found?.fix).toMatch(/^Install hivemind-core again at that path, or correct the unit: /);
  expect(commandIn(found?.fix ?? "")).toBe(`systemctl --user edit --full ${name}`);
  await writeFile(hub, program, { mode: 0o755 });
  expect(await site.findings("hub-unit")).toEqual([]);
  const former = await writeFormer(site);
  await edit(name, `${root}dist/cli/main.js`, former);
  expect(await site.findings("hub-unit")).toMatchObject([
    {
      severity: "warning",
      detail: `${name} starts another installation of hivemind-sqlcipher: ${former}, not ${root}dist/cli/main.js`,
      fix: expect.stringContaining(`run --print-unit dropin --unit '${name}'`),
    },
  ]);
});

test("a unit that prepares its hub with a program that is gone: the drop-in replaces this command", async () => {
  const site = await Site.make();
  const { machine } = site;
  await writeServerJson(site);
  const seen = machine.path("seen");
  const prepare = `run --db ${machine.store} --prepare %t/%n/server.json`;
  const { name } = await hubUnit(site, {
    script: `cat "$RUNTIME_DIRECTORY/server.json" >>'${seen}'; exec sleep infinity`,
    more: `RuntimeDirectory=%n
RuntimeDirectoryMode=0700
ExecStartPre=-/bin/sh -c 'echo "$$0" >>${seen}' %n
ExecStartPre=+/no/node /opt/dist/cli/main.js ${prepare} -- ${machine.path("bin", "hivemind-core")} listen
`,
  });
  const [found, ...others] = await site.findings("hub-unit");
  expect(found?.detail).toMatch(/starts a program that is gone.*: \/no\/node, \/opt\/dist/);
  expect(others).toEqual([]);
  await site.type(found?.fix ?? "");
  expect(await site.findings("hub-unit")).toEqual([]);
  await until(async () => (await readFile(seen, "utf8").catch(() => "")).includes("password"));
  expect((await readFile(seen, "utf8")).split("\n")[0]).toBe(name);
  const dropIn = join(unitFolder, `${name}.d`, "hivemind-sqlcipher.conf");
  const former = await readFile(dropIn, "utf8");
  // Printed from what the drop-in itself has made of the unit, it is the same.
  await site.type(found?.fix ?? "");
  expect(await readFile(dropIn, "utf8")).toBe(former);
  const given = ["--unit", name, "--db", machine.path("other.db"), "--no-key-cache"];
  const { stdout } = await site.run("run", "--print-unit", "dropin", ...given);
  expect(stdout).toContain(` run --db ${machine.path("other.db")} --prepare /`);
  expect(stdout).toContain(" --no-key-cache -- ");
});

test("a drop-in that prepares a hub: only the program in its command changes", async () => {
  const site = await Site.make();
  const { name, hub } = await hubUnit(site);
  const dropIn = join(unitFolder, `${name}.d`, "hivemind-sqlcipher.conf");
  await mkdir(dirname(dropIn));
  const text = (start: string) =>
    `# by setup\n[Service]\nRuntimeDirectory=%n\nExecStartPre=${start} --db /a --prepare /run/b -- ${hub} listen\nLimitCORE=0\n`;
  await writeFile(dropIn, text("/no/node /opt/dist/cli/main.js run"));
  await systemctl("daemon-reload");
  const { stdout } = await site.run("run", "--print-unit", "dropin", "--unit", name);
  expect(stdout).toBe(`# ${dropIn}\n${text(run)}`);
});

test("a hub that an installer has moved: the fix renews the drop-in, which starts the old one", async () => {
  const site = await Site.make();
  await writeServerJson(site);
  const { name, hub } = await hubUnit(site);
  const dropIn = join(unitFolder, `${name}.d`, "hivemind-sqlcipher.conf");
  const former = site.machine.path("former", "hivemind-core");
  await mkdir(dirname(former));
  await mkdir(dirname(dropIn));
  const start = `${run} --db ${site.machine.store} -- ${former} listen`;
  await writeFile(dropIn, `[Service]\nExecStart=\nExecStart=${start}\n`);
  await systemctl("daemon-reload");
  const [found, ...others] = await site.findings("hub-unit");
  expect(found).toMatchObject({
    severity: "error",
    detail: `${dropIn} starts another hub than ${name} itself, which names ${hub} listen`,
  });
  expect(others).toEqual([]);
  await copyFile(hub, former);
  await chmod(former, 0o755);
  // Once the unit runs, the manager keeps its command, also when the shell clears the drop-in.
  await systemctl("start", name);
  expect(await site.findings("hub-unit")).toMatchObject([{ severity: "warning" }]);
  await site.type(found?.fix ?? "");
  expect(await site.findings("hub-unit")).toEqual([]);
  expect(await readFile(dropIn, "utf8")).toContain(` -- ${hub} listen\n`);
  expect(await property(name, "ActiveState")).toBe("active");
});

test("core dumps of the hub: the fix sets the limit in its unit, and in a shell", async () => {
  const site = await Site.make();
  await writeServerJson(site);
  const start = `${run} -- HUB listen`;
  const { name } = await hubUnit(site, { start, more: "LimitCORE=infinity\n" });
  await systemctl("start", name);
  const unit = ["--service", "systemd-user", "--unit", name];
  const [found] = await site.findings("core-dumps", ...unit);
  expect(found?.detail).toMatch(/^when the hub crashes, /);
  await site.type(found?.fix ?? "");
  expect(await systemctl("is-active", name)).toBe("active");
  expect(await site.findings("core-dumps", ...unit)).toEqual([]);

  await removeUnits(name);
  const doctor = "hivemind-sqlcipher doctor --json || true";
  const inShell = async (line: string) => {
    const { stdout } = await exec("/bin/sh", ["-c", line], { env: site.environment });
    const { checks } = JSON.parse(stdout) as { checks: Check[] };
    return checks.filter((check) => check.name === "core-dumps" && !check.ok);
  };
  const [left] = await inShell(`ulimit -S -c unlimited && ${doctor}`);
  expect(left?.detail).toMatch(/programs started from here crash/);
  expect(await inShell(`${commandIn(left?.fix ?? "")} && ${doctor}`)).toEqual([]);
});

test("a hub in a restart loop is not running, for doctor and for status", async () => {
  const site = await Site.make();
  const { machine } = site;
  await writeServerJson(site);
  const hub = machine.path("bin", "hivemind-core");
  await writeFile(hub, "#!/bin/sh\nexit 1\n", { mode: 0o755 });
  const name = `${uniqueName()}.service`;
  onTestFinished(() => removeUnits(name));
  const main = `${process.execPath} ${root}dist/cli/main.js`;
  await writeUnits({
    [name]: `[Service]\nEnvironment="XDG_DATA_HOME=${machine.path("data")}" "XDG_CONFIG_HOME=${machine.path("config")}" "XDG_STATE_HOME=${machine.path("state")}"\nExecStart=${main} run -- ${hub} listen\nRestart=always\nRestartSec=30\n`,
  });
  await systemctl("start", name);
  await until(async () => (await systemctl("show", "-P", "SubState", name)) === "auto-restart");
  const [found] = await site.findings("hub-unit");
  expect(found?.detail).toMatch(/is in a restart loop/);
  const status = await machine.json("status");
  expect(status.document).toMatchObject({
    service: { unit: expect.stringContaining(name.replace(".service", "")), active: false },
    problems: [expect.stringContaining("restart loop")],
  });
  await writeFile(hub, "#!/bin/sh\nexec sleep infinity\n", { mode: 0o755 });
  await site.type(found?.fix ?? "");
  expect(await site.findings("hub-unit")).toEqual([]);
});

/** A copy of the environment of a hub, in which packages can be installed. */
async function pythonOf(site: Site, line: "released" | "development"): Promise<string> {
  const environment = site.machine.path("venv");
  await exec("cp", ["-a", dirname(dirname(await hubScript(line))), environment]);
  return join(environment, "bin", "python");
}

test.each([
  ["a hub without the SQLite plugin", "development", /is not installed/],
  ["a hub whose plugin ignores passwords", "released", /ignores it and writes plain text/],
] as const)(
  "%s: the fix installs packages that open the store",
  async (_, line, detail) => {
    const site = await Site.make();
    const python = await pythonOf(site, line);
    if (line === "development") {
      await exec(python, [
        "-m",
        "pip",
        "uninstall",
        "-y",
        "hivemind-sqlite-database",
        "sqlcipher3",
      ]);
    }
    const [found] = await site.findings("hub", "--hub-python", python);
    expect(found?.detail).toMatch(detail);
    await site.type(found?.fix ?? "");
    expect(await site.findings("hub", "--hub-python", python)).toEqual([]);
  },
  180_000,
);

test("HiveMind 4 beside a plugin that encrypts: no client with a blacklist is moved there, and the fix upgrades the hub", async () => {
  const site = await Site.make();
  const { machine } = site;
  const python = await pythonOf(site, "released");
  await exec(python, ["-m", "pip", "install", "--no-deps", "hivemind-sqlite-database==0.4.3a9"]);
  const directory = dirname(machine.store);
  const json = "hivemind-json-db-plugin";
  await writeServerJson(site, {}, json);
  const client = newClient({ client_id: 1, api_key: "k", name: "kitchen" });
  {
    await using database = await DatabaseFactory.create(json, { subfolder: directory });
    await database.addItem(client);
  }
  const move = ["migrate", "--from", json, "--to", "hivemind-sqlcipher-db-plugin", "--switch"];
  const migrate = () => machine.run([...move, "--dry-run", "--hub-python", python]);
  expect((await migrate()).stderr).not.toContain("blacklist");
  {
    await using database = await DatabaseFactory.create(json, { subfolder: directory });
    await database.updateItem({ ...client, metadata: { skill_blacklist: ["skill-lock"] } });
  }
  const refused = await migrate();
  expect([refused.code, refused.stderr]).toEqual([
    17,
    expect.stringMatching(/would not enforce the blacklists of client 1 .*kitchen/),
  ]);
  const [found] = await site.findings("hub", "--hub-python", python);
  expect(found?.detail).toMatch(/enforces no blacklist/);
  await site.type(found?.fix ?? "");
  expect(await site.findings("hub", "--hub-python", python)).toEqual([]);
}, 300_000);

test("a store whose schema the hub does not know: the fix updates the hub's packages", async () => {
  const site = await Site.make({ init: ["--schema-version", "2"] });
  const python = await pythonOf(site, "development");
  const old = ["-m", "pip", "install", "--no-deps", "hivemind-plugin-manager==0.5.0"];
  await exec(python, old);
  const [found, ...others] = await site.findings("hub", "--hub-python", python);
  expect(others).toEqual([]);
  expect(found?.detail).toMatch(/the store has schema 2, which this hub .*0\.5\.0.* does not know/);
  await site.type(found?.fix ?? "");
  expect(await site.findings("hub", "--hub-python", python)).toEqual([]);
}, 180_000);

test("a store of SQLCipher 3 and a hub with SQLCipher 4: the fix converts the store", async () => {
  const site = await Site.make({ init: ["--cipher-compatibility", "3"] });
  const python = join(dirname(await hubScript("development")), "python");
  await writeServerJson(site);
  const { machine } = site;
  const hub = machine.path("bin", "hivemind-core");
  await writeFile(hub, "#!/bin/sh\nexec sleep infinity\n", { mode: 0o755 });
  const name = `${uniqueName()}.service`;
  onTestFinished(() => removeUnits(name));
  const xdg = ["DATA", "CONFIG", "STATE"].map(
    (kind) => `Environment="XDG_${kind}_HOME=${machine.environment[`XDG_${kind}_HOME`]}"\n`,
  );
  const start = `${process.execPath} ${root}dist/cli/main.js run -- ${hub} listen`;
  await writeUnits({ [name]: `[Service]\n${xdg.join("")}ExecStart=${start}\n` });
  const [found] = await site.findings("hub", "--hub-python", python);
  expect(found?.detail).toMatch(/the store has format 3/);
  await site.type(found?.fix ?? "");
  expect(await site.findings("hub", "--hub-python", python)).toEqual([]);
});

test("a hub with a JSON database: the fixes move its clients and delete what is left", async () => {
  const site = await Site.make();
  const { machine } = site;
  const json = "hivemind-json-db-plugin";
  const clients = join(dirname(machine.store), "clients.json");
  {
    await using database = await DatabaseFactory.create(json, { subfolder: dirname(clients) });
    await database.addItems([newClient({ client_id: 1, api_key: "a" })]);
  }
  await mkdir(dirname(serverJsonOf(site)), { recursive: true });
  const settings = { network_protocol: {}, database: { module: json, [json]: {} } };
  await writeFile(serverJsonOf(site), JSON.stringify(settings));
  site.environment.PATH += `:${dirname(await hubScript("development"))}`;
  const [used] = await site.findings("plaintext");
  expect(used?.detail).toMatch(/the hub keeps its clients in plain text/);
  const [other] = await site.findings("server.json");
  expect(commandIn(other?.fix ?? "")).toBe(used?.fix);
  await site.type(used?.fix ?? "");
  expect(await site.findings("server.json")).toEqual([]);
  const [left] = await site.findings("plaintext");
  expect(left?.fix).toContain(`shred -u '${clients}'`);
  await site.type(left?.fix ?? "");
  expect(await site.findings("plaintext")).toEqual([]);
  await using store = await site.open();
  expect(await store.counts()).toEqual({ active: 1, revoked: 0 });
});

test("a hub in a restart loop: backup and rotate name the ways that stop nothing", async () => {
  const site = await Site.make();
  const name = `${uniqueName()}.service`;
  onTestFinished(() => removeUnits(name));
  await writeUnits({ [name]: "[Service]\nExecStart=/bin/false\nRestart=always\nRestartSec=1\n" });
  await systemctl("start", name);
  const unit = ["--service", "systemd-user", "--unit", name];
  const { code, stderr } = await site.run("backup", ...unit);
  expect(code).toBe(15);
  expect(stderr).toContain(`${name} is in a restart loop\n`);
  expect(stderr).toMatch(/no backup was made[\s\S]*--online, or --service none/);
  expect(
    (await site.run("backup", "--service", "systemd-user", "--unit", name, "--online")).code,
  ).toBe(0);
  const rotated = await site.run("rotate", ...unit, "--hub", "none");
  expect([rotated.code, rotated.stderr]).toEqual([
    15,
    expect.stringMatching(
      /the replaced store was put back[\s\S]*If nothing has the store open, add --service none/,
    ),
  ]);
  expect((await site.run("rotate", "--service", "none", "--hub", "none")).code).toBe(0);
  expect(await site.findings("interrupted")).toEqual([]);
});

test("the drop-in of a unit with a dot in its name is in the directory that systemd reads", async () => {
  const site = await Site.make();
  const { name } = await hubUnit(site, { suffix: "-1.5" });
  const unit = name.slice(0, -".service".length);
  const { code, stdout } = await site.run("run", "--print-unit", "dropin", "--unit", unit);
  expect([code, stdout.split("\n")[0]]).toEqual([0, expect.stringContaining(`/${name}.d/`)]);
});

test("a unit for a hub that another unit starts is printed with a warning", async () => {
  const site = await Site.make();
  const print = () => site.run("run", "--print-unit", "user", "--", "/opt/hivemind-core", "listen");
  expect((await print()).stderr).not.toContain("already");
  const { name } = await hubUnit(site);
  const { code, stdout, stderr } = await print();
  expect([code, stdout]).toEqual([0, expect.stringContaining("ExecStart=")]);
  expect(stderr).toMatch(new RegExp(`${name} starts the hub already.*--print-unit dropin`));
});

test("a locked keyring on a machine with a unit that unlocks it: the fix restarts the unit", async () => {
  const machine = await Machine.make();
  const command = `'${process.execPath}' '${root}dist/cli/main.js'`;
  const inSession = (script: string, ...options: string[]) =>
    exec(`${root}scripts/private-session`, [
      ...options,
      ...[machine.path("home"), "/bin/sh", "-ec", script],
    ]);
  await inSession(`${command} init --recovery-key-file $HOME/key.txt`);
  const { stdout: withoutUnit } = await inSession(`${command} doctor || true`, "--keyring=locked");
  expect(withoutUnit).toMatch(
    / keyring .*\n +fix: .*:\n +read -rsp .*unset P\n +Or use no keyring/,
  );
  const units = machine.path("home", ".config", "systemd", "user");
  await writeFile(
    join(units, "hivemind-sqlcipher-keyring.service"),
    `[Service]
Type=forking
ExecStart=/bin/sh -c 'printf private-session | gnome-keyring-daemon --replace --unlock --components=secrets'
ExecStartPost=/bin/sh -c 'until busctl --user status org.freedesktop.secrets >/dev/null 2>&1; do sleep 0.1; done'
`,
  );
  const { stdout: refused } = await inSession(
    `${command} list-clients --no-key-cache 2>&1 || true`,
    "--keyring=locked",
  );
  expect(refused).toMatch(
    /is locked .*\n.*: systemctl --user restart hivemind-sqlcipher-keyring.service\n/,
  );
  const finding = `${command} doctor --json | grep -o '"name":"keyring","ok":[a-z]*,[^}]*' || true`;
  const { stdout } = await inSession(
    `${finding}
     systemctl --user restart hivemind-sqlcipher-keyring.service
     ${finding}`,
    "--keyring=locked",
  );
  const [before, after] = stdout.trim().split("\n");
  expect(before).toMatch(
    /"ok":false.*"fix":"systemctl --user restart hivemind-sqlcipher-keyring.service"/,
  );
  expect(after).toContain('"ok":true');
});

test("no chmod is advised where a file system has no permissions", async () => {
  const { machine } = await Site.make();
  await chmod(machine.path("backups"), 0o777);
  const locations = {
    ...{ storePath: machine.store, settingsPath: machine.path("none") },
    ...{ backupFolder: machine.path("backups"), bundleFolder: undefined },
  };
  const ext4 = 0xef53;
  expect(await checkPermissions(locations, async () => ext4)).toMatchObject({ ok: false });
  const [exfat, ntfs, ntfs3, fuse] = [0x2011bab0, 0x5346544e, 0x7366746e, 0x65735546];
  for (const type of [exfat, ntfs, ntfs3, fuse]) {
    expect(await checkPermissions(locations, async () => type ?? 0)).toMatchObject({
      ok: true,
      fix: null,
      detail: expect.stringContaining("chmod cannot change"),
    });
  }
});

test("--quiet prints the findings alone, and nothing without one", async () => {
  const site = await Site.make();
  const { code, stdout } = await site.run("doctor", "--quiet");
  expect(code).toBe(1);
  expect(stdout).toMatch(/^(ERROR|WARNING) /);
  expect(stdout).not.toMatch(/^ok |problems found|findings?\.$/m);
});

test("fixes name the store that is not the default one", async () => {
  const site = await Site.make();
  const db = site.machine.path("other", "clients.db");
  const { stdout } = await site.run("doctor", "--json", "--db", db);
  const { checks } = JSON.parse(stdout) as { checks: Check[] };
  const commands = checks.flatMap(({ fix }) =>
    fix?.startsWith("hivemind-sqlcipher") ? [fix] : [],
  );
  expect(commands.length).toBeGreaterThan(0);
  for (const fix of commands) expect(fix).toContain(`hivemind-sqlcipher --db '${db}'`);
});

test("a typo in the settings is a finding of doctor and a problem in status", async () => {
  const site = await Site.make();
  const settings = site.machine.path("config", "hivemind-sqlcipher", "config.json");
  const text = await readFile(settings, "utf8");
  await writeFile(settings, text.replace('"bundle_to"', '"bundel_to"'));
  const [found] = await site.findings("settings");
  expect(found?.detail).toContain("unknown key backup.bundel_to");
  const { code, document } = await site.machine.json("status");
  expect([code, document.problems]).toEqual([0, [expect.stringContaining("bundel_to")]]);
});

test("a system unit: nothing follows a drop-in or a unit that could not be printed", async () => {
  const { machine } = await Site.make();
  const ran = machine.path("ran");
  const stub = async (name: string, text: string) =>
    writeFile(machine.path("bin", name), `#!/bin/sh\n${text}\n`, { mode: 0o755 });
  await stub("hivemind-sqlcipher", "echo 'no drop-in' >&2; exit 1");
  // Runs the command, which changes only files of this machine.
  await stub("sudo", `echo "$*" >>'${ran}'; [ "$1" != systemctl ] || exit 0; exec "$@"`);
  const path = machine.path("units", "unit");
  const install = redirectToFile("hivemind-sqlcipher run --print-unit dropin", path, "sudo ");
  const line = [`sudo mkdir -p ${dirname(path)}`, install, "sudo systemctl restart hub"].join(
    " && ",
  );
  const env = { ...machine.environment, PATH: `${machine.path("bin")}:/usr/bin:/bin` };
  await expect(exec("/bin/sh", ["-c", line], { env })).rejects.toMatchObject({ code: 1 });
  expect(await readFile(ran, "utf8")).toBe(`mkdir -p ${dirname(path)}\n`);
  await expect(readFile(path)).rejects.toThrow("ENOENT");

  await stub("hivemind-sqlcipher", "printf '# %s\\n[Service]\\n' 100%");
  await exec("/bin/sh", ["-c", line], { env });
  expect(await readFile(path, "utf8")).toBe("# 100%\n[Service]\n");
  expect(await readFile(ran, "utf8")).toContain("systemctl restart hub");
});
