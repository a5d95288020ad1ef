/**
 * The fault matrix: every operation is killed at every step that it announces and at every system
 * call that changes a file or uses the keyring, or that call fails. The files must then be correct,
 * the next command must recover, and if that is killed too, the command after it must.
 *
 * strace injects the faults from outside (--inject), so the code contains nothing for them. A
 * recorded run shows the calls. File operations run in a single thread (UV_THREADPOOL_SIZE=1), so
 * that the count of a call names the same call again, approximately: every call must be hit, in any
 * order.
 */
import { mkdir, readdir, readFile, rm, writeFile } from "node:fs/promises";
import { basename, dirname, join } from "node:path";
import { readBundle, writeBundle } from "../../src/bundle/bundle.js";
import { newClient } from "../../src/client/client.js";
import { deleteEntry } from "../../src/keys/keyring.js";
import { unlock } from "../../src/keys/unlock.js";
import { ClientStore } from "../../src/store/client-store.js";
import { root } from "../built.js";
import { fixturePassphrases } from "../store/temporary.js";
import { type Found, find, keyring, type Ran, resultOf, World } from "../swap/world.js";

export const operations = ["encrypt", "decrypt", "adopt", "rotate", "restore", "backup"] as const;

export type Operation = (typeof operations)[number];

/** The fault: at a step, or at the n-th call of a thread. */
export type Fault = { readonly step: string } | CallFault;

export interface CallFault {
  readonly call: string;
  readonly nth: number;
  readonly error?: string;
}

export interface Case {
  readonly operation: Operation;
  /** Whether a unit has the store open. */
  readonly unit: boolean;
  readonly fault: Fault;
  /** The fault of the next command. */
  readonly second?: Fault | undefined;
}

/** The calls that change a file or its name, and the call that sends to the bus. */
const fileCalls = [
  ...["write", "pwrite64", "fsync", "fdatasync", "ftruncate"],
  ...["rename", "link", "unlink", "chmod", "fchmod", "chown", "fchown", "mkdir", "openat"],
];
const busCall = "sendmsg";

/** The errors of a failing disk or kernel. */
const errorsOf: Record<string, readonly string[]> = {
  write: ["ENOSPC", "EIO"],
  pwrite64: ["ENOSPC", "EIO"],
  fsync: ["EIO", "ENOSPC"],
  fdatasync: ["EIO"],
  ftruncate: ["EIO"],
  rename: ["EACCES", "EROFS", "ENOSPC"],
  link: ["EACCES", "EROFS", "ENOSPC"],
  unlink: ["EACCES", "EROFS"],
  chmod: ["EACCES", "EROFS"],
  fchmod: ["EROFS"],
  chown: ["EACCES"],
  fchown: ["EACCES"],
  mkdir: ["EACCES", "ENOSPC"],
  openat: ["EACCES", "EROFS", "ENOSPC", "EIO"],
};

/** The start of an operation, its end, and its possible faults. */
export interface Scene {
  readonly operation: Operation;
  readonly world: World;
  readonly slots: Record<string, string>;
  readonly before: string[];
  readonly after: string[];
  /** The number of replaced stores left afterwards. */
  readonly replaced: number;
  readonly faults: Fault[];
  /** The possible faults of the command after a killed operation. */
  readonly nextFaults: Fault[];
}

/** Creates the scene for the cases of an operation. */
export async function prepare(operation: Operation): Promise<Scene> {
  const world = await scenery[operation]();
  const { rows } = await find(world.path, passphraseBefore(operation));
  const start = { operation, world, slots: await world.slots(), before: rows };
  const whole = await record(start);
  const undone = await record(start, { step: `${operation}.${stepBeforeCommit[operation]}` });
  const finished = await record(start, { step: `${operation}.${stepAfterCommit[operation]}` });
  return {
    ...start,
    after: whole.rows,
    replaced: whole.replaced,
    faults: whole.faults,
    nextFaults: [...undone.faults, ...finished.faults],
  };
}

const stepBeforeCommit: Record<Operation, string> = {
  encrypt: "synced",
  decrypt: "synced",
  rotate: "synced",
  restore: "synced",
  adopt: "current-kept",
  backup: "verified",
};

const stepAfterCommit: Record<Operation, string> = {
  encrypt: "renamed",
  decrypt: "renamed",
  rotate: "renamed",
  restore: "renamed",
  adopt: "taking",
  backup: "claimed",
};

/** Returns the passphrase of a store that is not in the keyring yet. */
function passphraseBefore(operation: Operation): string | undefined {
  return operation === "adopt" ? fixturePassphrases["sqlcipher4-schema2.db"] : undefined;
}

/** The world before each operation. */
const scenery: Record<Operation, () => Promise<World>> = {
  encrypt: () => World.make("plain-schema1.db"),
  decrypt: () => withBundle(),
  rotate: async () => inWalMode(await withBundle()),
  backup: () => withBundle(),
  adopt: async () => {
    const world = await World.make("sqlcipher4-schema2.db");
    await deleteEntry(world.path, "current");
    const folder = join(world.folder, "config", "hivemind-core");
    await mkdir(folder, { recursive: true });
    const password = fixturePassphrases["sqlcipher4-schema2.db"];
    const database = {
      module: "hivemind-sqlite-db-plugin",
      "hivemind-sqlite-db-plugin": { password },
    };
    await writeFile(join(folder, "server.json"), JSON.stringify({ database }, undefined, 2));
    return world;
  },
  // The backup has an earlier passphrase. Since then a client was revoked and another added.
  restore: async () => {
    const world = await withBundle();
    resultOf(await world.run("backup", { ...world.withoutService, to: world.to }));
    resultOf(await world.run("rotate", { ...world.withoutService, keepPrevious: true }));
    const opened = await unlock(world.path, keyring, { mode: "readwrite" });
    const store = await ClientStore.from(opened);
    await store.deleteItem(2);
    await store.addItem(newClient({ client_id: 8, api_key: "came later" }));
    await store.close();
    return world;
  },
};

/** Creates an encrypted store and its bundle. */
async function withBundle(): Promise<World> {
  const world = await World.make("sqlcipher4-schema2.db");
  const { connection, key, passphrase } = await unlock(world.path, keyring, { mode: "readwrite" });
  await connection.close();
  await writeBundle({
    directory: world.bundleTo,
    storePath: world.path,
    passphrase,
    key,
    recipients: [world.recoveryKey.recipient],
  });
  return world;
}

/** Brings a store to the mode in which hubs keep it, and in which a rotation re-encrypts it. */
async function inWalMode(world: World): Promise<World> {
  const { connection } = await unlock(world.path, keyring, { mode: "readwrite" });
  await connection.all("PRAGMA journal_mode = WAL");
  await connection.close();
  return world;
}

async function optionsOf(operation: Operation, world: World): Promise<object> {
  if (operation === "adopt") return { removePassword: true };
  if (operation === "backup") return { to: world.to };
  if (operation !== "restore") return {};
  const backup = (await readdir(world.to)).find((name) => name.endsWith(".db")) ?? "";
  return { backup: { file: join(world.to, backup) } };
}

/**
 * Runs an operation to its end, or kills it at a step and runs the next command. Records the
 * possible faults.
 */
async function record(
  start: Pick<Scene, "operation" | "world" | "slots">,
  killedAt?: Fault,
): Promise<{ rows: string[]; replaced: number; faults: Fault[] }> {
  const world = await start.world.copy(start.slots);
  const log = callLog(world);
  const trace = ["strace", "-f", "-y", "--seccomp-bpf", "-o", log, "-e", `trace=${tracedCalls}`];
  const steps = join(world.folder, "steps");
  const env = {
    ...quiet,
    NODE_OPTIONS: `--import=${root}test/faults/kill-at-step.mjs`,
    HIVEMIND_TEST_STEPS: steps,
  };
  try {
    if (killedAt) {
      await run(world, start.operation, false, killedAt);
      await world.drive(readOf(world), env, trace);
    } else {
      const options = await optionsOf(start.operation, world);
      const request = world.options({ ...world.withoutService, ...options });
      resultOf(await world.drive([start.operation, JSON.stringify(request)], env, trace));
    }
    const calls = callsIn(await readFile(log, "utf8"), [world.folder]);
    const reachedSteps = (await readFile(steps, "utf8").catch(() => ""))
      .split("\n")
      .filter(Boolean);
    return {
      rows: (await find(world.path, passphraseBefore(start.operation))).rows,
      replaced: await replacedStores(world),
      faults: [...reachedSteps.map((step) => ({ step })), ...calls],
    };
  } finally {
    await world.remove();
    await rm(log, { force: true });
  }
}

/**
 * Returns the recorded calls that change a file in the directories or send to the bus, with their
 * count in the thread.
 */
export function callsIn(log: string, directories: readonly string[]): CallFault[] {
  const counts = new Map<string, number>();
  const found = new Map<string, CallFault>();
  for (const line of log.split("\n")) {
    const [, thread, call = "", rest = ""] = /^(\d+) +(\w+)\((.*)/.exec(line) ?? [];
    if (call === "") continue;
    const nth = (counts.get(`${thread} ${call}`) ?? 0) + 1;
    counts.set(`${thread} ${call}`, nth);
    const isInside = directories.some((directory) => rest.includes(directory));
    const isWrite = isInside && !(call === "openat" && !/O_WRONLY|O_RDWR/.test(rest));
    if (!isWrite && call !== busCall) continue;
    const name = call.replace(/^(rename|link|unlink|mkdir)at2?$/, "$1");
    for (const error of [undefined, ...(errorsOf[name] ?? [])]) {
      const fault = { call, nth, ...(error !== undefined && { error }) };
      found.set(JSON.stringify(fault), fault);
    }
  }
  return [...found.values()];
}

/** A single file operation at a time, so that calls occur in the same order each time. */
export const quiet = { UV_THREADPOOL_SIZE: "1" };

export const tracedCalls = [
  ...fileCalls,
  ...["renameat2", "linkat", "unlinkat", "mkdirat"],
  busCall,
].join();

/** Runs an operation, or the next command, under a fault. */
async function run(
  world: World,
  operation: Operation | "read",
  unit: boolean,
  fault: Fault,
): Promise<Ran> {
  const env: Record<string, string> =
    "step" in fault
      ? {
          NODE_OPTIONS: `--import=${root}test/faults/kill-at-step.mjs`,
          HIVEMIND_TEST_STEP: fault.step,
        }
      : quiet;
  const before = "step" in fault ? [] : injected(fault, callLog(world));
  if (operation === "read") return world.drive(readOf(world), env, before);
  const options = await optionsOf(operation, world);
  const request = world.options({ ...(unit ? {} : world.withoutService), ...options });
  return world.drive([operation, JSON.stringify(request)], env, before);
}

const readOf = (world: World) => ["read", world.path, JSON.stringify(keyring)];

/** A run takes seconds, and about ten times as long if everything is traced on a slow machine. */
const longestRunSeconds = 120;

export function injected({ call, nth, error }: CallFault, log: string): string[] {
  const what = error === undefined ? "signal=SIGKILL" : `error=${error}`;
  // --seccomp-bpf lets all other calls bypass strace, but then no signal is sent.
  const fast = error === undefined ? [] : ["--seccomp-bpf"];
  // An error in a call that wakes a thread, which no disk causes, may keep Node from ending.
  const limited =
    error === undefined ? [] : ["timeout", "--signal=KILL", String(longestRunSeconds)];
  return [
    ...["strace", "-f", "-y", ...fast, "-o", log, "-e", `trace=${call}`],
    ...["-e", `inject=${call}:${what}:when=${nth}`],
    ...limited,
  ];
}

/**
 * Returns whether the fault occurred, and an error hit a file of the world. The count of a call
 * varies between runs, because a thread also writes to wake others and opens the modules it loads.
 * An error there is not a disk's.
 */
async function struck(world: World, fault: Fault): Promise<boolean> {
  if ("step" in fault) return true;
  const log = await readFile(callLog(world), "utf8").catch(() => "");
  if (fault.error === undefined) return log.includes("+++ killed by SIGKILL +++");
  return log.split("\n").some((line) => line.includes("INJECTED") && line.includes(world.folder));
}

const callLog = (world: World) => `${world.folder}.calls`;

/** Returns a generator of numbers between 0 and 1 from a seed (mulberry32). */
export function numbers(seed: number): () => number {
  let state = seed;
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state);
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed;
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
}

/**
 * Returns the cases of a scene: each fault with an undisturbed next command, and each kill with a
 * killed next command.
 *
 * @param share - the share of the cases, from 0 to 1; `random` selects them
 */
export function casesOf(scene: Scene, share: number, random: () => number): Case[] {
  const { operation, faults, nextFaults } = scene;
  const cases: Case[] = [];
  for (const fault of faults) {
    // A unit takes seconds for each case, and differs only in its stop and start.
    const unit = operation !== "adopt" && random() < unitShare;
    cases.push({ operation, unit, fault });
    const second = nextFaults[Math.floor(random() * nextFaults.length)];
    if (!("error" in fault) && second) cases.push({ operation, unit: false, fault, second });
  }
  return cases.filter(() => random() < share);
}

/** The share of cases with a unit. */
const unitShare = 0.15;

/**
 * Runs a case.
 *
 * @returns the violations as sentences; empty if there are none, undefined if the fault did not hit
 *   a file of the world
 */
export async function runCase(scene: Scene, tried: Case): Promise<string[] | undefined> {
  const world = await scene.world.copy(scene.slots);
  const wrong: string[] = [];
  try {
    if (tried.unit) await world.startUnit();
    const ran = await run(world, tried.operation, tried.unit, tried.fault);
    if (!(await struck(world, tried.fault))) return undefined;
    const ended = ran.code === 0 && ran.result !== undefined;
    const failed = ran.error !== undefined;
    if ("error" in tried.fault && !ended && !failed)
      wrong.push(`it ended without a word: ${said(ran)}`);
    if (failed && ran.error?.kind === undefined) wrong.push(`it met a defect: ${said(ran)}`);
    if (tried.unit && failed && ran.error?.kind !== "service" && !(await world.isActive)) {
      wrong.push(`the unit was left down: ${said(ran)}`);
    }
    wrong.push(...(await lookAtStore(scene, world, ended)).wrong);
    if (tried.second) {
      await run(world, "read", tried.unit, tried.second);
      wrong.push(...(await lookAtStore(scene, world, ended)).wrong);
    }
    wrong.push(...(await wrongAfterNext(scene, world, tried.unit, ended)));
    return wrong;
  } catch (error) {
    return [...wrong, `the case itself failed: ${error instanceof Error ? error.stack : error}`];
  } finally {
    await world.remove();
    await rm(callLog(world), { force: true });
  }
}

function said(ran: Ran<unknown>): string {
  return `${ran.code ?? ran.signal} ${JSON.stringify(ran.error)} ${ran.stderr.slice(-1000)}`;
}

/**
 * Checks that the store opens with the kept passphrases and with its bundle, and has every client.
 */
async function lookAtStore(
  scene: Scene,
  world: World,
  ended: boolean,
): Promise<{ found?: Found; wrong: string[] }> {
  let found: Found;
  try {
    found = await find(world.path, passphraseBefore(scene.operation));
  } catch (error) {
    return { wrong: [`the store does not open: ${error}`] };
  }
  const wrong: string[] = [];
  const rows = found.rows.join("\n");
  const isAfter = rows === scene.after.join("\n");
  if (!isAfter && rows !== scene.before.join("\n"))
    wrong.push(`these are not the clients: ${rows}`);
  if (ended && !isAfter) wrong.push("it said that it was done, and was not");
  if (!found.unlocked) return { found, wrong };
  const { keyId, passphrase } = found.unlocked;
  const bundle = join(world.bundleTo, `clients.${keyId}.bundle.age`);
  try {
    const contents = await readBundle(bundle, { identity: world.recoveryKey.identity });
    if (contents.passphrase !== passphrase) wrong.push("the bundle has another passphrase");
  } catch (error) {
    // A store has no bundle before it is adopted.
    if (scene.operation !== "adopt" || ended) wrong.push(`the bundle does not open: ${error}`);
  }
  return { found, wrong };
}

/** Returns the violations after the next command. */
async function wrongAfterNext(
  scene: Scene,
  world: World,
  unit: boolean,
  ended: boolean,
): Promise<string[]> {
  const wrong: string[] = [];
  const next = await world.drive(readOf(world));
  const unopened = scene.operation === "adopt" && next.error?.kind === "passphraseUnavailable";
  if (next.code !== 0 && !unopened) wrong.push(`the next command failed: ${said(next)}`);
  const slots = await world.slots();
  if (slots.pending !== undefined) wrong.push("a pending passphrase is left");
  if (!unopened) {
    const looked = await lookAtStore(scene, world, ended);
    wrong.push(...looked.wrong);
    const generation = looked.found?.unlocked?.generation ?? "none";
    if (generation === "none" && slots.current !== undefined && scene.operation !== "encrypt") {
      wrong.push("a current passphrase is left for a plaintext store");
    }
    if (generation !== "none" && generation !== "current") {
      wrong.push(`the store opens with the ${generation} passphrase`);
    }
  }
  // If a unit has the store open, its log and index are next to it.
  const own = unit ? [`${basename(world.path)}-wal`, `${basename(world.path)}-shm`] : [];
  const leftovers = (await world.leftovers()).filter((name) => !own.includes(name));
  if (leftovers.length > 0) wrong.push(`left about: ${leftovers.join(", ")}`);
  const replaced = await replacedStores(world);
  if (replaced > scene.replaced) wrong.push(`${replaced} replaced stores lie about`);
  if (unit && !(await world.isActive)) wrong.push("the unit is not active");
  return wrong;
}

async function replacedStores(world: World): Promise<number> {
  return (await readdir(dirname(world.path))).filter((name) =>
    name.startsWith(`${basename(world.path)}.replaced.`),
  ).length;
}
