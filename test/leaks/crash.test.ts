/** A crash leaves no memory on the disk, and no signal opens the process to others. */
import { readdirSync, readFileSync } from "node:fs";
import { mkdir, readFile } from "node:fs/promises";
import { join } from "node:path";
import { expect, test } from "vitest";
import { root } from "../built.js";
import { report } from "../prove-report.js";
import { hitsIn, needlesOf, text } from "./search.js";
import { LeakWorld, passphrase } from "./world.js";

/**
 * Where the kernel writes core dumps into the crashing process's folder; elsewhere a program gets
 * them, by the same filter.
 */
const dumpsHere = /^core/.test(readFileSync("/proc/sys/kernel/core_pattern", "utf8"));

const crashing = (step: string, signal: string) => ({
  NODE_OPTIONS: `--import=${root}test/faults/kill-at-step.mjs`,
  HIVEMIND_TEST_STEP: step,
  HIVEMIND_TEST_SIGNAL: signal,
});

test.runIf(dumpsHere)(
  "a core dump of a crash in the middle of the work holds no secret",
  async () => {
    const world = await LeakWorld.make();
    const { machine } = world;
    const needles = needlesOf(await world.secrets());
    const dumps = machine.path("cores");
    await mkdir(dumps);
    const inDumps = ["/bin/sh", "-c", `ulimit -c unlimited; cd "${dumps}"; exec "$@"`, "sh"];
    const hits: string[] = [];
    for (const signal of ["SIGABRT", "SIGSEGV"]) {
      // The passphrase is in use at this step; settled by the next command.
      const { code } = await machine.run(["backup", "--service", "none"], {
        before: inDumps,
        env: crashing("backup.warm", signal),
      });
      expect(code).not.toBe(0);
      for (const name of readdirSync(dumps)) {
        hits.push(
          ...hitsIn(await readFile(join(dumps, name)), name, needles).map(({ secret }) => secret),
        );
      }
    }
    expect(readdirSync(dumps).length).toBeGreaterThan(0);
    // Without what the command does about it, it is in there: the search is no idle one.
    const { code } = await machine.run(["backup", "--service", "none"], {
      before: [...inDumps, "/bin/sh", "-c", 'exec "$@"', "sh"],
      env: {
        ...crashing("backup.warm", "SIGABRT"),
        NODE_OPTIONS: `--import=${root}test/leaks/dump-all.mjs --import=${root}test/faults/kill-at-step.mjs`,
      },
    });
    expect(code).not.toBe(0);
    const known = needlesOf([text("the passphrase", passphrase)]);
    const whole = readdirSync(dumps).flatMap((name) =>
      hitsIn(readFileSync(join(dumps, name)), name, known),
    );
    expect(whole).not.toEqual([]);
    report("core dumps of a crash", 2, hits.length);
    expect(hits).toEqual([]);
  },
);

test("what SIGUSR1 does to a program of Node, it does not do to this one and its children: nobody can debug them through a port", async () => {
  const world = await LeakWorld.make();
  const { code, stderr } = await world.machine.run(["backup", "--service", "none"], {
    env: {
      ...crashing("backup.warm", ""),
      HIVEMIND_TEST_COMMAND: "kill -USR1 $PPID $(pgrep -P $PPID -f '[/]copier[.]js')",
    },
  });
  expect(stderr).not.toMatch(/Debugger listening/);
  expect(code).toBe(0);
});
