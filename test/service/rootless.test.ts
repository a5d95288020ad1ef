/** A hub in a container of rootless Podman, as an ordinary user has it. */
import { execFile } from "node:child_process";
import { rmSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import { afterAll, beforeAll, expect, test } from "vitest";
import { root } from "../built.js";
import { temporaryFolder } from "./units.js";

const script = fileURLToPath(new URL("rootless-session.mjs", import.meta.url));

interface Ran {
  code: number;
  stdout: string;
  stderr: string;
}

interface Seen {
  backup: object;
  rotate: { opens: Ran };
  split: { group: string };
  mapped: object;
}

let home: string;
let seen: Seen;

beforeAll(async () => {
  home = temporaryFolder();
  const args = ["--system", home, process.execPath, script, home];
  const { stdout } = await promisify(execFile)(`${root}scripts/private-session`, args);
  seen = JSON.parse(stdout);
}, 200_000);

afterAll(() => rmSync(home, { recursive: true, force: true }));

test("keep-id: the container is found, and a backup stops and starts it", () => {
  expect(seen.backup).toMatchObject({
    ...{ prepared: { code: 0 }, code: 0, isRunning: true, isRestarted: true },
    stderr: expect.stringContaining("clients.db is the container hub (podman)"),
    result: { backup: { method: "stopped" }, service: { unit: "hub", was_active: true } },
  });
});

test("keep-id: a rotation that is killed is finished, and the copy has the new password", () => {
  expect(seen.rotate).toMatchObject({
    ...{ wasRunning: false, isRunning: true, isChanged: true },
    settled: { code: 0, stdout: expect.stringContaining("finished the interrupted rotate") },
    opens: { code: 0 },
  });
});

test("a unit with --cgroups=split, as of a quadlet, is stopped and started for its container", () => {
  expect(seen.split).toMatchObject({
    ...{ start: { code: 0 }, saved: { code: 0 }, rotated: { code: 0 }, isChanged: true },
    service: { unit: "split", was_active: true, stopped_ms: expect.any(Number) },
  });
  expect(seen.split.group).toMatch(/split\.service\/libpod-payload-/);
});

test("without keep-id, the store belongs to a sub-uid: podman unshare runs the command", () => {
  expect(seen.mapped).toMatchObject({
    ...{ denied: { code: 18 }, code: 0, isRunning: true, isRestarted: true },
  });
});
