/**
 * Installs and removes the override of a compose file, with the unit that writes the copy of
 * `server.json`, which the override mounts.
 */
import { rmdir } from "node:fs/promises";
import { dirname, join } from "node:path";
import type { ComposeService, HubContainer } from "../config/hub-account.js";
import { configHome } from "../config/paths.js";
import { StoreError } from "../errors.js";
import { makeDirectory, removeFile, replaceFile, syncDirectory } from "../fs/atomic.js";
import { readContainerHub } from "../hub/container-hub.js";
import {
  type ContainerUnit,
  renderComposeOverride,
  renderCopyUnit,
} from "../hub/container-units.js";
import { copyPath } from "../hub/password-delivery.js";
import { emitStep } from "../operation/step.js";
import { createAgain } from "../service/compose.js";
import { copyUnit, renewCopy } from "../service/copy-unit.js";
import { inspectContainer } from "../service/engine.js";
import {
  formatFailure,
  isManager,
  type Manager,
  ownManager,
  type ServiceName,
  systemctl,
  systemctlLine,
  systemUnits,
} from "../service/systemctl.js";

export const header = `# Written by hivemind-sqlcipher setup; setup --undo removes it.
`;

export function copyUnitFile(): string {
  const ofUser = join(configHome(), "systemd", "user");
  return join(ownManager() === "systemd" ? systemUnits : ofUser, copyUnit);
}

/**
 * Installs the unit and the override, and creates the container again, which then mounts the copy.
 * Only a running container is started again.
 *
 * @throws {@link StoreError} io - if a file cannot be written
 * @throws {@link StoreError} service - if systemd or compose fails
 * @throws {@link StoreError} refused - if compose does not read the override
 */
export async function installOverride(
  unit: ContainerUnit,
  { name, inside }: Pick<HubContainer, "name" | "inside">,
  composed: ComposeService,
): Promise<void> {
  await makeDirectory(dirname(copyUnitFile()));
  await replaceFile(copyUnitFile(), header + renderCopyUnit(unit), 0o644);
  await reloadUnits(ownManager());
  await callManager(ownManager(), "enable", copyUnit);
  await renewCopy();
  emitStep("setup.copy-unit");
  const text = renderComposeOverride(composed.service, copyPath(), inside);
  await replaceFile(composed.override, header + text, 0o644);
  emitStep("setup.override");
  await createAgain(composed, name);
  await assertCopyMounted(name, composed);
}

/**
 * Checks that compose has read the override. Otherwise removes it again.
 *
 * @throws {@link StoreError} refused - if the container does not mount the copy
 */
async function assertCopyMounted(name: string, composed: ComposeService): Promise<void> {
  const container = await inspectContainer(composed.engine, name);
  if (container !== undefined && (await readContainerHub(container)).copy !== undefined) return;
  await removeOverride(name, composed);
  throw new StoreError("refused", `compose did not add ${composed.override} to ${name}`, {
    hint: `Add the lines to your compose file: hivemind-sqlcipher run --print-unit compose --container ${name}`,
  });
}

/**
 * Creates the container again without the copy, and removes the copy with its unit.
 *
 * @throws {@link StoreError} as {@link installOverride}
 */
export async function removeOverride(name: string, composed: ComposeService): Promise<void> {
  await removeFile(composed.override);
  await syncDirectory(dirname(composed.override));
  emitStep("undo.override");
  await createAgain(composed, name);
  await callManager(ownManager(), "disable", "--now", copyUnit).catch(() => undefined);
  await removeFile(copyUnitFile());
  await syncDirectory(dirname(copyUnitFile()));
  await reloadUnits(ownManager());
  await removeFile(copyPath());
  await rmdir(dirname(copyPath())).catch(() => undefined);
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
