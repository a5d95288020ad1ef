/**
 * Copying to a remote and pruning it, killed at each request to its server: before the request
 * arrives or after it was answered, together with rclone or without it. Then the same again.
 */
import type { ChildProcess } from "node:child_process";
import { once } from "node:events";
import { existsSync, readFileSync } from "node:fs";
import { readdir } from "node:fs/promises";
import { join } from "node:path";
import { afterAll, beforeAll, expect, test } from "vitest";
import { numbers } from "../faults/matrix.js";
import { proving, report } from "../prove-report.js";
import { backupsIn, type Local, Original, unfinishedIn, unsoundIn } from "./backups.js";
import { bucket, Servers } from "./servers.js";

interface Kill {
  /** The number of the request, from 1. */
  readonly at: number;
  readonly when: "request" | "answer";
  readonly withRclone: boolean;
}

/** A directory of backups and the directory of a server, reached through a proxy. */
interface Scene {
  readonly local: Local;
  readonly target: string;
  readonly path: string;
}

interface Operation {
  /** The days of the backups on the server before the operation and after it. */
  readonly before: readonly number[];
  readonly after: readonly number[];
  /** Runs the operation until its process ends. */
  run(scene: Scene, onSpawn: (child: ChildProcess) => void): Promise<unknown>;
}

const operations: Readonly<Record<string, Operation>> = {
  copy: {
    before: [1],
    after: [1, 2],
    run: async ({ local, target }, onSpawn) => {
      const child = local.startCopy({ to: [target] });
      onSpawn(child);
      await once(child, "close");
    },
  },
  prune: {
    before: [1, 2, 3],
    after: [3],
    run: ({ target }, onSpawn) =>
      original.machine.run(["prune", target, "--keep-last", "1"], { onSpawn }),
  },
};

const remotes = ["webdav", "s3"] as const;
const counts = { request: 0, answer: 0 };

let original: Original;
let servers: Servers;
let folders = 0;
let strike: (when: Kill["when"]) => void = () => undefined;

const count = (when: Kill["when"]) => {
  counts[when] += 1;
  strike(when);
};

beforeAll(async () => {
  [servers, original] = await Promise.all([Servers.start(), Original.make()]);
  for (const remote of remotes) {
    await servers.addWatched(remote, `watched-${remote}`, {
      refuses: () => void count("request"),
      answered: () => count("answer"),
    });
  }
});

afterAll(async () => {
  await original.remove();
  await servers.stop();
});

async function makeScene(remote: string, { before, after }: Operation): Promise<Scene> {
  folders += 1;
  const name = `${bucket}/${folders}`;
  const local = await original.backups(...before);
  await local.copy({ to: [`rclone:${remote}:${name}`] });
  for (const day of after) if (!before.includes(day)) await local.add(day);
  return { local, target: `rclone:watched-${remote}:${name}`, path: join(servers.files, name) };
}

function killEach(pids: readonly string[]): void {
  for (const pid of pids) {
    try {
      process.kill(Number(pid), "SIGKILL");
    } catch (error) {
      // One that was ending anyway may be gone.
      if ((error as NodeJS.ErrnoException).code !== "ESRCH") throw error;
    }
  }
}

/** Runs an operation, and kills its process. Returns its requests, and whether the kill struck. */
async function runKilled(
  operation: Operation,
  scene: Scene,
  kill?: Kill,
): Promise<{ requests: number; hasStruck: boolean }> {
  Object.assign(counts, { request: 0, answer: 0 });
  const programs: string[] = [];
  let hasStruck = false;
  await operation.run(scene, (child) => {
    strike = (when) => {
      if (when !== kill?.when || counts[when] !== kill.at) return;
      const children = readFileSync(`/proc/${child.pid}/task/${child.pid}/children`, "utf8");
      programs.push(...children.split(" ").filter(Boolean));
      hasStruck = child.kill("SIGKILL");
      if (kill.withRclone) killEach(programs);
    };
  });
  strike = () => undefined;
  const areRunning = () => programs.some((pid) => existsSync(`/proc/${pid}`));
  await expect.poll(areRunning, { timeout: 20_000 }).toBe(false);
  return { requests: counts.request, hasStruck };
}

/**
 * Returns what is wrong after a kill and after the operation was run again; undefined if the run
 * ended before the kill.
 */
async function faultsAfter(
  operation: Operation,
  scene: Scene,
  kill: Kill,
): Promise<string[] | undefined> {
  const { local, path } = scene;
  const faults: string[] = [];
  const nameOf = (day: number) => local.copyName(day);
  if (!(await runKilled(operation, scene, kill)).hasStruck) return undefined;
  faults.push(...(await unsoundIn(path)).map((name) => `${name} is damaged after the kill`));
  const kept = operation.before.filter((day) => operation.after.includes(day)).map(nameOf);
  const found = await backupsIn(path);
  faults.push(...kept.filter((name) => !found.includes(name)).map((name) => `${name} is gone`));

  await runKilled(operation, scene);
  faults.push(...(await unsoundIn(path)).map((name) => `${name} is damaged at the end`));
  const complete = JSON.stringify(operation.after.map(nameOf));
  const end = JSON.stringify(await backupsIn(path));
  if (end !== complete) faults.push(`${end} instead of ${complete}`);
  faults.push(...(await unfinishedIn(path)).map((name) => `${name} is left`));
  const manifests = (await readdir(path)).filter((name) => name.endsWith(".manifest.json"));
  if (manifests.length !== operation.after.length) faults.push(`manifests: ${manifests}`);
  return faults;
}

function killsUpTo(requests: number): Kill[] {
  return Array.from({ length: requests }, (_, index) => index + 1).flatMap((at) =>
    (["request", "answer"] as const).flatMap((when) =>
      [true, false].map((withRclone) => ({ at, when, withRclone })),
    ),
  );
}

const scenes = remotes.flatMap((remote) =>
  Object.keys(operations).map((operation) => ({ remote, operation })),
);

test.each(scenes)(
  "$operation on $remote, killed at a request, is completed by the next run",
  async ({ remote, operation: name }) => {
    const operation = operations[name] as Operation;
    const { requests } = await runKilled(operation, await makeScene(remote, operation));
    const kills = killsUpTo(requests);
    const random = numbers(Number(process.env.MATRIX_SEED ?? 1));
    const sample = kills.slice(0, -1)[Math.floor(random() * (kills.length - 1))];
    const tried: { kill: Kill; faults: string[] }[] = [];
    for (const kill of proving ? kills : [sample as Kill]) {
      const faults = await faultsAfter(operation, await makeScene(remote, operation), kill);
      if (faults) tried.push({ kill, faults });
    }
    const failed = tried.filter(({ faults }) => faults.length > 0);
    report(`${name} on ${remote} killed at a request`, tried.length, failed.length);
    expect(failed).toEqual([]);
    expect(tried.length).toBeGreaterThan(0);
  },
  proving ? 3_600_000 : 120_000,
);
