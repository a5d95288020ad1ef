/** A hub with commands of its own, and others that have its store open in the middle of the work. */
import { execFileSync } from "node:child_process";
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { expect, onTestFinished, test } from "vitest";
import { root } from "../built.js";
import { World } from "./world.js";

test("a program that opens the store while a swap is at it is not taken for the hub with commands of its own: it is started", async () => {
  const world = await World.of("sqlcipher4-schema2.db");
  const pid = join(world.folder, "pid");
  const starts = join(world.folder, "starts");
  const other = join(world.folder, "other");
  const service = {
    service: "command",
    unit: "none",
    storePath: world.path,
    startCommand: `setsid /bin/sh -c 'exec 3<${world.path}; echo $$ >${pid}; echo $$ >>${starts}; exec sleep infinity' >/dev/null 2>&1 & until test -s ${pid}; do sleep 0.01; done`,
    stopCommand: `kill $(cat ${pid}); rm ${pid}`,
  };
  execFileSync("/bin/sh", ["-c", service.startCommand]);
  onTestFinished(() => void execFileSync("/bin/sh", ["-c", `kill $(cat ${pid} ${other}) || true`]));
  const opened = `/bin/sh -c 'exec 3<${world.path}; echo $$ >${other}; exec sleep infinity' >/dev/null 2>&1 & until test -s ${other}; do sleep 0.01; done`;
  const ran = await world.run(
    "rotate",
    { service },
    {
      NODE_OPTIONS: `--import=${root}test/faults/at-step.mjs`,
      HIVEMIND_TEST_AT_STEP: JSON.stringify({ "rotate.filled": opened }),
    },
  );
  expect(ran).toMatchObject({
    code: 15,
    error: { kind: "service", message: expect.stringContaining("in the middle of the work") },
  });
  expect((await readFile(starts, "utf8")).trim().split("\n")).toHaveLength(2);
});
