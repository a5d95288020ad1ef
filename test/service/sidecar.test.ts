/** The command in a container without a service manager, where a hub outside of it is not seen. */
import { writeFile } from "node:fs/promises";
import { expect, test } from "vitest";
import { Machine } from "../cli/machine.js";

/** Namespaces of a container's kind, with Podman's mark. */
const inContainer = [
  ...["unshare", "--mount", "--pid", "--fork", "--mount-proc", "/bin/sh", "-c"],
  'mount -t tmpfs tmpfs /run && : >/run/.containerenv && exec "$@"',
  "sh",
];

async function machineWithStore(): Promise<Machine> {
  const machine = await Machine.make();
  await writeFile(machine.path("passphrase"), "correct horse battery", { mode: 0o600 });
  const source = ["--passphrase-source", `file:${machine.path("passphrase")}`];
  await machine.init(...source, "--bundle-to", machine.path("bundles"), "--to", machine.path("to"));
  return machine;
}

test.each(["auto", "none"])("a backup with --service %s is online, and says so", async (kind) => {
  const machine = await machineWithStore();
  const args = ["backup", "--service", kind, "--json"];
  const { code, stdout, stderr } = await machine.run(args, { before: inContainer });
  expect([code, stderr]).toEqual([0, expect.stringContaining("neither detect nor stop")]);
  expect(JSON.parse(stdout).backup.method).toBe("online");
});
