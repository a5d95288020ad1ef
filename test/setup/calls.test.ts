/**
 * Setup and its undo, killed at system calls that change a file or send to the bus: a sample. All
 * of them are tried by `scripts/prove setup`.
 *
 * After each kill the unit starts on a database with every client, and the same command ends the
 * work. A cycle kills setup and undo once each.
 */
import { readdir, readFile, rm } from "node:fs/promises";
import { join } from "node:path";
import { expect, test } from "vitest";
import { deleteEntry, listEntries } from "../../src/keys/keyring.js";
import {
  type CallFault,
  callsIn,
  injected,
  numbers,
  quiet,
  tracedCalls,
} from "../faults/matrix.js";
import { proving, report } from "../prove-report.js";
import { type InstalledHub, installHub, jsonModule, restarted } from "./hub.js";

const json = `${jsonModule} 5`;
const store = "hivemind-sqlite-db-plugin with password 5";
const share = Number(process.env.MATRIX_SHARE ?? 1);
const seed = Number(process.env.MATRIX_SEED ?? 1);
/** The kills in scripts/test. */
const sample = { setup: 2, undo: 2 };

const undo = ["setup", "--undo", "--yes"];
const setupOf = ({ options }: InstalledHub) => ["setup", ...options];

interface Faults {
  readonly setup: CallFault[];
  readonly undo: CallFault[];
}

const logOf = ({ machine }: InstalledHub) => `${machine.folder}.calls`;

/** Runs a command to its end, and returns the calls at which it can be killed. */
async function recordCalls(hub: InstalledHub, args: string[]): Promise<CallFault[]> {
  const { machine } = hub;
  const before = [
    ...["strace", "-f", "-y", "--seccomp-bpf", "-o", logOf(hub), "-e", `trace=${tracedCalls}`],
  ];
  const { code, stderr } = await machine.run(args, { before, env: quiet });
  expect(code, stderr).toBe(0);
  const units = join(process.env.HOME ?? "", ".config/systemd");
  const calls = callsIn(await readFile(logOf(hub), "utf8"), [machine.folder, units]);
  return calls.filter(({ error }) => error === undefined);
}

function choose(faults: CallFault[], count: number, random: () => number): CallFault[] {
  const shuffled = faults
    .map((fault) => ({ fault, at: random() }))
    .sort((one, other) => one.at - other.at)
    .map(({ fault }) => fault);
  return shuffled.slice(0, proving ? Math.ceil(faults.length * share) : count);
}

/** Kills a command, starts the unit, and runs the command again. */
async function tryKill(
  hub: InstalledHub,
  args: string[],
  fault: CallFault | undefined,
  after: string,
): Promise<{ isHit: boolean; wrong: string[] }> {
  const wrong: string[] = [];
  let isHit = false;
  if (fault !== undefined) {
    const before = ["timeout", "--signal=KILL", "120", ...injected(fault, logOf(hub))];
    await hub.machine.run(args, { before, env: quiet });
    isHit = (await readFile(logOf(hub), "utf8")).includes("+++ killed by SIGKILL +++");
    const status = await restarted(hub);
    if (status !== json && status !== store) wrong.push(`after the kill, the hub has ${status}`);
  }
  const { code, stderr } = await hub.machine.run(args);
  if (code !== 0) wrong.push(`the next command exits with ${code}: ${stderr}`);
  const status = await restarted(hub);
  if (status !== after) wrong.push(`the hub has ${status} in the end`);
  const what = `${args.includes("--undo") ? "undo" : "setup"} at ${JSON.stringify(fault)}`;
  return { isHit, wrong: wrong.map((sentence) => `${what}: ${sentence}`) };
}

/** Returns files of plain text and unfinished files that are left over. */
async function findLeftovers({ machine }: InstalledHub, expected: string[]): Promise<string[]> {
  const names = (await readdir(machine.path("data", "hivemind-core"))).filter(
    (name) => !/\.undone\.|-(?:wal|shm)$|\.lock$/.test(name),
  );
  const left = names.filter((name) => !expected.includes(name));
  return left.map((name) => `${name} is left over`);
}

/** Removes what an undone setup keeps, for a setup as if it were the first. */
async function forget({ machine, recoveryKey }: InstalledHub): Promise<void> {
  const data = machine.path("data", "hivemind-core");
  const kept = (await readdir(data)).filter((name) => name.includes(".undone."));
  for (const path of [
    ...kept.map((name) => join(data, name)),
    ...["backups", "bundles", "state"].map((name) => machine.path(name)),
    machine.path("config", "hivemind-sqlcipher"),
    recoveryKey,
  ]) {
    await rm(path, { recursive: true, force: true });
  }
  for (const { slot } of await listEntries(machine.store)) await deleteEntry(machine.store, slot);
}

/** @returns the hub for the next cycle */
async function cycle(
  hub: InstalledHub,
  { setup, undo: undone }: { setup: CallFault | undefined; undo: CallFault | undefined },
  results: { hits: number; failed: number; wrong: string[] },
): Promise<InstalledHub> {
  const note = ({ isHit, wrong }: { isHit: boolean; wrong: string[] }) => {
    if (isHit) results.hits += 1;
    if (wrong.length > 0) results.failed += 1;
    results.wrong.push(...wrong);
    return wrong.length > 0;
  };
  const first = await tryKill(hub, setupOf(hub), setup, store);
  first.wrong.push(...(await findLeftovers(hub, ["clients.db", "clients.schema_version"])));
  if (note(first)) return installHub();
  const second = await tryKill(hub, undo, undone, json);
  second.wrong.push(...(await findLeftovers(hub, ["clients.json", "clients.schema_version"])));
  if (note(second)) return installHub();
  await forget(hub);
  return hub;
}

test(
  "killed at a call, the unit starts, and the same command goes on",
  async () => {
    const first = await installHub();
    const recorded = {
      setup: await recordCalls(first, setupOf(first)),
      undo: await recordCalls(first, undo),
    };
    await forget(first);
    const random = numbers(seed);
    const faults: Faults = {
      setup: choose(recorded.setup, sample.setup, random),
      undo: choose(recorded.undo, sample.undo, random),
    };
    const chosen = faults.setup.length + faults.undo.length;
    const results = { hits: 0, failed: 0, wrong: [] as string[] };
    const worker = async (start: InstalledHub) => {
      let hub = start;
      while (faults.setup.length + faults.undo.length > 0) {
        hub = await cycle(hub, { setup: faults.setup.pop(), undo: faults.undo.pop() }, results);
      }
    };
    await Promise.all([worker(first), ...(proving ? [worker(await installHub())] : [])]);
    console.log(
      `${recorded.setup.length} calls of setup, ${recorded.undo.length} of undo; ${chosen} tried, ${results.hits} hit`,
    );
    report("setup and undo, killed at a call", results.hits, results.failed);
    expect(results.wrong).toEqual([]);
    expect(results.hits).toBeGreaterThan(0);
  },
  600_000 + (proving ? share * 6 * 3_600_000 : 0),
);
