import { execFileSync } from "node:child_process";
import { mkdir, readFile, rm, writeFile } from "node:fs/promises";
import { expect, onTestFinished, test, vi } from "vitest";
import { root } from "../built.js";
import { Machine } from "./machine.js";

test("a hub that is started by run has the umask that run was started with", async () => {
  const machine = await Machine.make();
  await machine.init();
  await mkdir(machine.path("config", "hivemind-core"), { recursive: true });
  const module = "hivemind-sqlite-db-plugin";
  await writeFile(
    machine.path("config", "hivemind-core", "server.json"),
    JSON.stringify({ database: { module, [module]: {} }, network_protocol: {} }),
  );
  const before = ["/bin/sh", "-c", 'umask 027; exec "$@"', "sh"];
  const { stdout } = await machine.run(["run", "--", "/bin/sh", "-c", "umask"], { before });
  expect(stdout).toBe("0027\n");
});

test("and so has one with commands of its own, whether a backup starts it again or its watcher", async () => {
  const machine = await Machine.make();
  await machine.init("--bundle-to", machine.path("bundles"), "--to", machine.path("backups"));
  const [pid, mask] = [machine.path("pid"), machine.path("mask")];
  const start = `umask >'${mask}'; setsid /bin/sh -c 'exec 3<"${machine.store}"; echo $$ >${pid}; exec sleep infinity' >/dev/null 2>&1 & until test -s ${pid}; do sleep 0.01; done`;
  execFileSync("/bin/sh", ["-c", start]);
  onTestFinished(() => void execFileSync("/bin/sh", ["-c", `kill $(cat ${pid}) || true`]));
  const own = [
    ...["--service", "command", "--start-command", start],
    ...["--stop-command", `kill $(cat ${pid}); rm ${pid}`],
  ];
  const before = ["/bin/sh", "-c", 'umask 027; exec "$@"', "sh"];

  await rm(mask);
  expect((await machine.run(["backup", ...own], { before })).code).toBe(0);
  expect(await readFile(mask, "utf8")).toBe("0027\n");

  await rm(mask);
  const killed = await machine.run(["backup", ...own], {
    before,
    env: {
      NODE_OPTIONS: `--import=${root}test/faults/at-step.mjs`,
      HIVEMIND_TEST_AT_STEP: JSON.stringify({ "backup.stopped": "kill" }),
    },
  });
  expect(killed.code).toBe(null);
  await vi.waitFor(async () => expect(await readFile(mask, "utf8")).toBe("0027\n"), {
    timeout: 20_000,
  });
});
