import { mkdir, writeFile } from "node:fs/promises";
import { expect, test } from "vitest";
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
