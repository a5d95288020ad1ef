/**
 * A hub that writes as fast as it can, ten people at the command line, backups one after the other
 * and a rotation every 30 seconds. What the hub was told is committed is all there, in the store
 * and in each backup up to its stop; nobody is told that the store is busy; and what runs for long
 * grows neither in memory nor in descriptors.
 *
 * Each test takes seven seconds here, with a rotation in the middle, and five minutes by
 * scripts/prove: ten minutes with rotations, of two hubs. LOAD_SECONDS is another time.
 */
import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { existsSync, readFileSync } from "node:fs";
import { mkdir, readdir, rm } from "node:fs/promises";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { setTimeout as delay } from "node:timers/promises";
import { expect, onTestFinished, test } from "vitest";
import { newClient } from "../../src/client/client.js";
import { deleteEntry, getEntry, listEntries } from "../../src/keys/keyring.js";
import { unlock } from "../../src/keys/unlock.js";
import { openEncrypted } from "../../src/store/cipher.js";
import { ClientStore } from "../../src/store/client-store.js";
import type { Connection } from "../../src/store/connection.js";
import { root } from "../built.js";
import { type Answer, Machine } from "../cli/machine.js";
import { interpreter } from "../interop/python.js";
import { proving, report } from "../prove-report.js";
import { removeUnits, systemctl, uniqueName, until, writeUnits } from "../service/units.js";

const seconds = Number(process.env.LOAD_SECONDS ?? (proving ? 300 : 7));
const rotationSeconds = Math.min(30, seconds / 2);

const clients = 300;
/** Every so many writes of the hub's one is a new client. */
const newEvery = 50;

type Note = {
  readonly found?: number;
  readonly committed?: number;
  /** Of a start, when it can write; of a stop, when it has committed its last write. */
  readonly at?: number;
  readonly longest_ms?: number;
  readonly error?: string;
  readonly rss?: number;
  readonly descriptors?: number;
};

class Load {
  readonly machine: Machine;
  readonly unit = uniqueName();
  /** What a user was told that he should not have been. */
  readonly complaints: string[] = [];
  commands = 0;

  private constructor(machine: Machine) {
    this.machine = machine;
  }

  /** A store of `init`, with clients in it, and a unit that is the hub. */
  static async make(hub: (load: Load) => string): Promise<Load> {
    const machine = await Machine.make();
    const load = new Load(machine);
    await machine.init();
    for (const name of ["backups", "bundles"]) await mkdir(machine.path(name), { mode: 0o700 });
    onTestFinished(async () => {
      for (const { slot } of await listEntries(machine.store))
        await deleteEntry(machine.store, slot);
    });
    await using store = await ClientStore.from(
      await unlock(machine.store, { kind: "keyring" }, { mode: "readwrite" }),
    );
    await store.addItems(
      Array.from({ length: clients }, (_, index) =>
        newClient({ client_id: index + 1, api_key: `key of ${index + 1}`, name: "satellite" }),
      ),
    );
    const names = ["XDG_RUNTIME_DIR", "DBUS_SESSION_BUS_ADDRESS", "HOME", "PATH"];
    const environment = names.map((name) => `Environment=${name}=${process.env[name]}\n`).join("");
    await writeUnits({
      [`${load.unit}.service`]: `[Service]\nType=notify\nNotifyAccess=all\n${environment}ExecStart=${hub(load)}\n`,
    });
    onTestFinished(() => removeUnits(`${load.unit}.service`));
    await systemctl("start", load.unit);
    await until(() => load.progress() > 100);
    return load;
  }

  get arguments(): string {
    const { store } = this.machine;
    return [store, clients, this.machine.path("progress"), this.machine.path("runs")].join(" ");
  }

  get to(): string[] {
    return ["--to", this.machine.path("backups"), "--bundle-to", this.machine.path("bundles")];
  }

  /** The number of the last write that the hub knows to be committed. */
  progress(): number {
    const path = this.machine.path("progress");
    const bytes = existsSync(path) ? readFileSync(path) : Buffer.alloc(0);
    return bytes.length === 8 ? bytes.readDoubleBE() : 0;
  }

  notes(): Note[] {
    const lines = readFileSync(this.machine.path("runs"), "utf8").split("\n");
    return lines.slice(0, -1).map((line) => JSON.parse(line) as Note);
  }

  /** A command that must not fail, whatever else is at work. */
  async command(args: string[]): Promise<Answer> {
    this.commands += 1;
    const answer = await this.machine.run([...args, "--json"]);
    if (answer.code !== 0)
      this.complaints.push(`${args[0]} exits ${answer.code}: ${answer.stdout}`);
    return answer;
  }

  async backup(): Promise<string | undefined> {
    const answer = await this.command(["backup", "--unit", this.unit, ...this.to]);
    if (answer.code !== 0) return undefined;
    return (JSON.parse(answer.stdout) as { backup: { path: string } }).backup.path;
  }

  async rotate(): Promise<boolean> {
    const service = ["--unit", this.unit, "--hub", "none"];
    const answer = await this.command(["rotate", ...service, ...this.to.slice(2)]);
    return answer.code === 0;
  }

  /** Stops the hub, and says up to which write the store must hold everything. */
  async stopped(): Promise<number> {
    await systemctl("stop", this.unit);
    return this.notes().findLast(({ committed }) => committed !== undefined)?.committed ?? 0;
  }
}

/** People at the command line, nine who look and one who changes something, until `isOver`. */
async function people(load: Load, isOver: () => boolean): Promise<{ edits: number }> {
  const looking = [
    ["list-clients"],
    ["show-client", "7"],
    ["find-client", "--by", "name", "satellite"],
    ["sql", "SELECT count(*) FROM clients"],
    ["status"],
    ["list-clients", "--show-secrets"],
    ["find-client", "--by", "api_key", "key of 9"],
    ["show-client", "1"],
    ["show-client", "12"],
  ];
  /**
   * Ten programs that start without a pause would leave two cores for nothing else: each rests four
   * times as long.
   */
  const one = async (args: string[]) => {
    const began = performance.now();
    const answer = await load.command(args);
    await delay(isOver() ? 0 : 4 * (performance.now() - began));
    return answer;
  };
  const readers = looking.map(async (args) => {
    while (!isOver()) await one(args);
  });
  let edits = 0;
  while (!isOver()) {
    const answer = await one(["rename-client", String(clients), "--name", `${edits + 1}`]);
    if (answer.code === 0) edits += 1;
  }
  await Promise.all(readers);
  return { edits };
}

/**
 * Up to which of the hub's writes a database holds everything, and nothing else.
 *
 * @returns the last one; what is wrong, in words, if one before it is missing.
 */
async function lastWrite(connection: Connection): Promise<number | string> {
  const rows = await connection.all<{ client_id: number; last_seen: number }>(
    "SELECT client_id, last_seen FROM clients",
  );
  const seen = new Map(rows.map(({ client_id, last_seen }) => [client_id, last_seen]));
  const last = Math.max(...seen.values());
  for (let id = clients + 1; id <= clients + Math.floor(last / newEvery); id++) {
    if (seen.get(id) !== (id - clients) * newEvery)
      return `of ${last} writes, client ${id} is missing`;
  }
  if (rows.length !== clients + Math.floor(last / newEvery))
    return `there are ${rows.length} clients`;
  const told = new Set<number>();
  for (let write = last; write > Math.max(0, last - 3 * clients); write--) {
    if (write % newEvery === 0) continue;
    const id = (write % (clients - 1)) + 1;
    if (!told.has(id) && seen.get(id) !== write) return `of ${last} writes, ${write} is missing`;
    told.add(id);
  }
  return last;
}

async function lastWriteOf(load: Load, path: string): Promise<number | string> {
  const passphrase = (await getEntry(load.machine.store, "current")) ?? "";
  const { connection } = await openEncrypted(path, passphrase, {
    mode: "readonly",
    immutable: true,
  });
  await using backup = connection;
  return await lastWrite(backup);
}

/** The longest time between the last write before a stop and the start after it. */
function longestAbsence(notes: readonly Note[]): number {
  const times = notes.flatMap(({ at }) => (at === undefined ? [] : [at]));
  const absences = times.map((at, index) => (index % 2 === 1 ? (times[index + 1] ?? at) - at : 0));
  return Math.max(...absences);
}

/**
 * Whether numbers that were taken one after the other rise, beyond what comes and goes: the last
 * third against the first.
 */
function rises(values: readonly number[], by: number): boolean {
  const third = Math.floor(values.length / 3);
  if (third === 0) return false;
  const middle = (some: readonly number[]) =>
    some.toSorted((a, b) => a - b)[Math.floor(some.length / 2)] ?? 0;
  return middle(values.slice(-third)) > middle(values.slice(third, 2 * third)) + by;
}

const hubs: Record<string, (load: Load) => string> = {
  "in JavaScript": (load) => `${process.execPath} ${root}test/load/hub.mjs ${load.arguments}`,
  "by HiveMind's own plugin": (load) =>
    `${interpreter("development")} ${root}test/load/hub.py ${load.arguments}`,
};

test.each(Object.keys(hubs))(
  "a hub %s that is stopped again and again loses no write, and nobody is told that the store is busy",
  { timeout: (seconds + 240) * 1000 },
  async (kind) => {
    const load = await Load.make(hubs[kind] ?? (() => ""));
    const over = Date.now() + seconds * 1000;
    let nextRotation = Date.now() + rotationSeconds * 1000;
    let isOver = false;
    const atWork = people(load, () => isOver);
    const wrong: string[] = [];
    let backups = 0;
    let rotations = 0;
    while (Date.now() < over || rotations === 0 || backups < 2) {
      if (Date.now() > nextRotation) {
        nextRotation += rotationSeconds * 1000;
        if (!(await load.rotate())) break;
        rotations += 1;
      }
      const before = load.progress();
      const path = await load.backup();
      if (path === undefined) break;
      backups += 1;
      const last = await lastWriteOf(load, path);
      const stops = load.notes().map(({ committed }) => committed);
      if (typeof last === "string") wrong.push(`${path}: ${last}`);
      else if (last < before || !stops.includes(last))
        wrong.push(`${path} ends with write ${last}`);
      await rm(load.machine.path("backups"), { recursive: true });
      await mkdir(load.machine.path("backups"), { mode: 0o700 });
    }
    isOver = true;
    const { edits } = await atWork;
    const committed = await load.stopped();

    const { connection } = await unlock(
      load.machine.store,
      { kind: "keyring" },
      { mode: "readwrite" },
    );
    await using store = connection;
    expect(await lastWrite(store)).toBe(committed);
    const [edited] = await store.all("SELECT name FROM clients WHERE client_id = ?", [clients]);
    const notes = load.notes();
    const founds = notes.flatMap(({ found }) => (found === undefined ? [] : [found]));
    const stops = notes.flatMap(({ committed }) => (committed === undefined ? [] : [committed]));
    if (founds.slice(1).some((found, index) => found !== stops[index]))
      wrong.push("a start found other writes than the stop left");
    const errors = notes.flatMap(({ error }) => (error === undefined ? [] : [`the hub: ${error}`]));
    const longest = Math.max(...notes.map(({ longest_ms }) => longest_ms ?? 0));

    report(`load: writes of a hub ${kind}, each found again`, committed, wrong.length);
    report(`load: rotations of its store`, rotations, rotations === 0 ? 1 : 0);
    report(`load: backups of it, each up to its stop`, backups, wrong.length);
    report(
      `load: commands beside it, none told that it is busy`,
      load.commands,
      load.complaints.length,
    );
    report(
      `load: its longest write in ms (over 1000 counts as failed)`,
      longest,
      longest > 1000 ? 1 : 0,
    );
    report(`load: its longest absence in ms`, longestAbsence(notes), 0);
    expect({ complaints: load.complaints, wrong, errors }).toEqual({
      complaints: [],
      wrong: [],
      errors: [],
    });
    expect(rotations).toBeGreaterThan(0);
    expect(edited).toEqual({ name: String(edits) });
  },
);

test("a hub that runs on, and a program that backs it up again and again, grow neither in memory nor in descriptors", {
  timeout: (seconds + 240) * 1000,
}, async () => {
  const load = await Load.make(hubs["in JavaScript"] ?? (() => ""));
  const settings = JSON.parse(
    readFileSync(load.machine.path("config", "hivemind-sqlcipher", "config.json"), "utf8"),
  );
  const child: ChildProcess = spawn(
    process.execPath,
    [
      `${root}test/load/backups.mjs`,
      ...[
        load.machine.store,
        load.machine.path("backups"),
        load.machine.path("bundles"),
        settings.recipients[0],
      ],
    ],
    { stdio: ["ignore", "pipe", "inherit"] },
  );
  const over = Date.now() + seconds * 1000;
  const atWork = people(load, () => Date.now() > over);
  const made: { rss: number; descriptors: number }[] = [];
  const wrong: string[] = [];
  if (!child.stdout) throw new Error("no pipe");
  for await (const line of createInterface(child.stdout)) {
    const { path, rss, descriptors } = JSON.parse(line) as {
      path: string;
      rss: number;
      descriptors: number;
    };
    made.push({ rss, descriptors });
    const last = await lastWriteOf(load, path);
    if (typeof last === "string") wrong.push(`${path}: ${last}`);
    for (const name of await readdir(load.machine.path("backups"))) {
      if (path.includes(name.replace(/\.(db|manifest\.json)$/, "")))
        await rm(join(load.machine.path("backups"), name));
    }
    // A second signal would end the process at once.
    if (Date.now() > over && !child.killed) child.kill("SIGTERM");
  }
  const [code] = child.exitCode === null ? await once(child, "exit") : [child.exitCode];
  await atWork;
  const committed = await load.stopped();
  const notes = load.notes().filter(({ rss }) => rss !== undefined);
  const grown: string[] = [];
  const megabyte = 1 << 20;
  for (const [what, values] of [
    ["the hub", notes],
    ["the program", made],
  ] as const) {
    if (
      rises(
        values.map(({ rss = 0 }) => rss),
        24 * megabyte,
      )
    )
      grown.push(`memory of ${what}`);
    if (
      rises(
        values.map(({ descriptors = 0 }) => descriptors),
        2,
      )
    )
      grown.push(`descriptors of ${what}`);
  }
  report("load: online backups in one process, each of one moment", made.length, wrong.length);
  report("load: memory and descriptors, looked at", notes.length + made.length, grown.length);
  report(
    "load: commands beside them, none told that it is busy",
    load.commands,
    load.complaints.length,
  );
  expect({ code, complaints: load.complaints, wrong, grown }).toEqual({
    code: 0,
    complaints: [],
    wrong: [],
    grown: [],
  });
  expect(made.length).toBeGreaterThan(1);
  expect(committed).toBeGreaterThan(0);
});
