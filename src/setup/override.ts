/**
 * Installs and removes the override of a compose file, with the unit that writes the copy of
 * `server.json`, which the override mounts.
 */
import { rmdir } from "node:fs/promises";
import { dirname } from "node:path";
import type { ComposeService, ManagedContainer } from "../config/hub-account.js";
import { StoreError } from "../errors.js";
import { makeDirectory, removeFile, replaceFile, syncDirectory } from "../fs/atomic.js";
import { readContainerHub } from "../hub/container-hub.js";
import {
  type ContainerUnit,
  renderComposeOverride,
  renderCopyUnit,
} from "../hub/container-units.js";
import { emitStep } from "../operation/step.js";
import { createAgain } from "../service/compose.js";
import { copyUnitOf, renewCopy } from "../service/copy-unit.js";
import { inspectContainer } from "../service/engine.js";
import {
  formatFailure,
  isManager,
  type Manager,
  type ServiceName,
  systemctl,
  systemctlLine,
} from "../service/systemctl.js";

export const header = `# Written by hivemind-sqlcipher setup; setup --undo removes it.
`;

/**
 * Installs the unit and the override, and creates the container again, which then mounts the copy.
 * Only a running container is started again.
 *
 * @throws {@link StoreError} io - if a file cannot be written
 * @throws {@link StoreError} service - if systemd or compose fails
 * @throws {@link StoreError} refused - if compose does not read the override
 */
export async function installOverride(
  storePath: string,
  unit: ContainerUnit,
  { name, pathInside }: Pick<ManagedContainer, "name" | "pathInside">,
  composed: ComposeService,
): Promise<void> {
  const copyUnit = copyUnitOf(storePath);
  const { manager, file, copy } = copyUnit;
  await makeDirectory(dirname(file));
  await replaceFile(file, header + renderCopyUnit(unit, copyUnit), 0o644);
  await reloadUnits(manager);
  await callManager(manager, "enable", copyUnit.name);
  await renewCopy(storePath);
  emitStep("setup.copy-unit");
  const text = renderComposeOverride(composed.service, copy, pathInside);
  await replaceFile(composed.override, header + text, 0o644);
  emitStep("setup.override");
  await createAgain(composed, name);
  await assertCopyMounted(storePath, name, composed);
}

/**
 * Checks that compose has read the override. Otherwise removes it again.
 *
 * @throws {@link StoreError} refused - if the container does not mount the copy
 */
async function assertCopyMounted(
  storePath: string,
  name: string,
  composed: ComposeService,
): Promise<void> {
  const container = await inspectContainer(composed.engine, name);
  if (container !== undefined && (await readContainerHub(container)).copy !== undefined) return;
  await removeOverride(storePath, name, composed);
  throw new StoreError("refused", `compose did not add ${composed.override} to ${name}`, {
    hint: `Add the lines to your compose file: hivemind-sqlcipher run --print-unit compose --container ${name}`,
  });
}

/**
 * Creates the container again without the copy, and removes the copy with its unit.
 *
 * @throws {@link StoreError} as {@link installOverride}
 */
export async function removeOverride(
  storePath: string,
  name: string,
  composed: ComposeService,
): Promise<void> {
  await removeFile(composed.override);
  await syncDirectory(dirname(composed.override));
  emitStep("undo.override");
  await createAgain(composed, name);
  const unit = copyUnitOf(storePath);
  await callManager(unit.manager, "disable", "--now", unit.name).catch(() => undefined);
  await removeFile(unit.copy);
  await rmdir(dirname(unit.copy)).catch(() => undefined);
  await removeFile(unit.file);
  await syncDirectory(dirname(unit.file));
  await reloadUnits(unit.manager);
}

/**
 * Lets a manager read its unit files again. A container of compose has none.
 *
 * @throws {@link StoreError} service - if the manager fails
 */
export async function reloadUnits(manager: ServiceName["manager"]): Promise<void> {
  if (isManager(manager)) await callManager(manager, "daemon-reload");
}

async function callManager(manager: Manager, ...args: string[]): Promise<void> {
  const outcome = await systemctl(manager, args);
  if (outcome.code === 0) return;
  throw new StoreError("service", `systemctl ${args.join(" ")} failed${formatFailure(outcome)}`, {
    hint: `Run ${systemctlLine(manager, args.join(" "))} to see why.`,
  });
}
