/** Installs and removes the drop-in that makes the hub's unit start through `run`. */
import { rmdir } from "node:fs/promises";
import { dirname } from "node:path";
import { StoreError } from "../errors.js";
import { makeDirectory, removeFile, replaceFile, syncDirectory } from "../fs/atomic.js";
import { listDirectory } from "../fs/read.js";
import { renderDropIn } from "../hub/units.js";
import { formatFailure, type Manager, systemctl, systemctlLine } from "../service/systemctl.js";

const header = `# Written by hivemind-sqlcipher setup; setup --undo removes it.
`;

/**
 * Writes the drop-in, and lets the manager read it. The hub that runs is not touched.
 *
 * The unit starts the hub in a mount namespace of its own in both scopes: a system unit of an
 * installer has the session bus of its user in its environment.
 *
 * @throws {@link StoreError} io - if it cannot be written
 * @throws {@link StoreError} service - if the manager does not read it
 */
export async function installDropIn(
  manager: Manager,
  path: string,
  { run, hub }: { run: readonly string[]; hub: readonly string[] },
): Promise<void> {
  await makeDirectory(dirname(path));
  await replaceFile(path, header + renderDropIn({ kind: "user", run, hub }));
  await reload(manager);
}

/** Removes the drop-in and its directory, if it is empty then. */
export async function removeDropIn(manager: Manager, path: string): Promise<void> {
  const directory = dirname(path);
  await removeFile(path);
  if ((await listDirectory(directory))?.length === 0) await rmdir(directory);
  else await syncDirectory(directory).catch(() => undefined);
  await reload(manager);
}

async function reload(manager: Manager): Promise<void> {
  const outcome = await systemctl(manager, ["daemon-reload"]);
  if (outcome.code === 0) return;
  throw new StoreError("service", `systemd did not reload its units${formatFailure(outcome)}`, {
    hint: `Run ${systemctlLine(manager, "daemon-reload")} to see why.`,
  });
}
