import { execFile } from "node:child_process";
import { chmod, copyFile } from "node:fs/promises";
import { join } from "node:path";
import { promisify } from "node:util";
import { expect, test } from "vitest";
import { type RunOptions, run } from "../../src/process/run.js";
import { root } from "../built.js";
import { asNobody, isRoot, spawnOutcome } from "../files/others.js";
import { temporaryFolder } from "../store/temporary.js";

test.runIf(isRoot)(
  "a setuid program that may not be killed ends neither the process nor the wait",
  async () => {
    const folder = await temporaryFolder();
    const setuid = join(folder, "setpriv");
    await copyFile(spawnOutcome("which", ["setpriv"]).stdout.trim(), setuid);
    await chmod(setuid, 0o4755);
    await chmod(folder, 0o755);
    const program = `
      import { run } from "${root}dist/process/run.js";
      const args = ["--reuid=0", "sh", "-c", "echo $$; exec sleep 60"];
      const start = (options) => run("${setuid}", args, options);
      const limited = await start({ timeoutMs: 2_000 });
      const aborted = await start({ timeoutMs: 60_000, signal: AbortSignal.timeout(2_000) });
      console.log(JSON.stringify([limited, aborted]));`;
    const [nobody = "", ...args] = [...asNobody, process.execPath, "--input-type=module", "-e"];
    const begun = performance.now();
    const { stdout } = await promisify(execFile)(nobody, [...args, program], { cwd: "/" });
    expect(performance.now() - begun).toBeLessThan(30_000);
    const outcomes = JSON.parse(stdout) as { stdout: string }[];
    const pids = outcomes.map((outcome) => Number(outcome.stdout));
    // 0 would be this process's group.
    expect(pids).not.toContain(0);
    for (const pid of pids) process.kill(pid, "SIGKILL");
    expect(outcomes).toMatchObject([
      { code: null, failure: "timeout" },
      { code: null, failure: "signal" },
    ]);
  },
);

test("the variables for parsable output are the caller's choice", async () => {
  const account = { environment: { TZ: "America/Montreal" } };
  const zone = async (options: Partial<RunOptions>) =>
    (await run("sh", ["-c", "echo $LC_ALL $TZ"], { timeoutMs: 10_000, account, ...options }))
      .stdout;
  expect(await zone({})).toBe("C UTC\n");
  expect(await zone({ outputVariables: {} })).toBe("America/Montreal\n");
});

test("a program that the system does not start is an outcome, too", async () => {
  const tooLong = "x".repeat(1 << 20);
  expect(await run("true", [tooLong], { timeoutMs: 1_000 })).toMatchObject({
    code: null,
    failure: "signal",
    stderr: expect.stringContaining("E2BIG"),
  });
});
