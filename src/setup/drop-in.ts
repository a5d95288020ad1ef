/** Installs and removes the drop-in or override with which the hub starts through `run`. */
import { rmdir } from "node:fs/promises";
import { dirname } from "node:path";
import { hubContainer, type ManagedContainer } from "../config/hub-account.js";
import { realPath } from "../config/paths.js";
import { StoreError } from "../errors.js";
import { makeDirectory, removeFile, replaceFile, syncDirectory } from "../fs/atomic.js";
import { listDirectory } from "../fs/read.js";
import { type ContainerUnit, renderQuadletDropIn } from "../hub/container-units.js";
import { serverJsonPath } from "../hub/server-json.js";
import { renderDropIn, type SystemUnit, type UserUnit } from "../hub/units.js";
import { isRootlessDocker } from "../service/engine.js";
import { isUnit, ownManager, type ServiceName } from "../service/systemctl.js";
import { escapeVariables } from "../service/unit-file.js";
import { hasRunCommand } from "./container.js";
import type { HubSurvey } from "./hub-survey.js";
import { header, installOverride, reloadUnits, removeOverride } from "./override.js";
import type { SetupRequest } from "./request.js";

/** While a setup or its undo is in progress, the hub may use its former database. */
type Phase = "in-progress" | "complete";

/**
 * Writes the drop-in, and lets the manager read it, without a restart of the hub. A container of
 * compose gets an override instead, and is created again.
 *
 * A system unit with a sealed passphrase gets the passphrase from systemd. Any other unit starts
 * the hub through `run`. This includes a system unit with the address of its user's session bus in
 * its environment.
 *
 * @throws {@link StoreError} io - if a file cannot be written
 * @throws {@link StoreError} service - if systemd or compose fails
 * @throws {@link StoreError} refused - if Podman's generator does not add the drop-in to the unit
 */
export async function installDropIn(
  request: Pick<SetupRequest, "storePath" | "source" | "ownCommand" | "preparation">,
  hub: Pick<HubSurvey, "manager" | "dropIn" | "command">,
  phase: Phase,
): Promise<void> {
  const container = hubContainer();
  if (container?.compose) {
    const unit = await toContainerUnit(request, container);
    return installOverride(request.storePath, unit, container, container.compose);
  }
  const text =
    container === undefined
      ? renderDropIn(await toUnit(request, hub, phase))
      : renderQuadletDropIn(await toContainerUnit(request, container));
  await makeDirectory(dirname(hub.dropIn));
  await replaceFile(hub.dropIn, header + text);
  await reloadUnits(hub.manager);
  if (container !== undefined) await assertGenerated(container, hub.dropIn);
}

/** Has no phase: during a setup, `run --prepare` writes a copy without a passphrase. */
async function toContainerUnit(
  { ownCommand }: Pick<SetupRequest, "ownCommand">,
  { name, unit, serverJson, pathInside }: ManagedContainer,
): Promise<ContainerUnit> {
  const isDocker = unit.manager === "docker";
  return {
    kind: (isUnit(unit) ? unit.manager : ownManager()) === "systemd" ? "system" : "user",
    run: ownCommand("run"),
    serverJson,
    pathInside,
    owner: undefined,
    credential: undefined,
    dockerContainer: isDocker ? name : undefined,
    isDockerRootless: isDocker && (await isRootlessDocker()),
  };
}

/**
 * Checks that the generator has read the drop-in. Otherwise removes it again.
 *
 * @throws {@link StoreError} refused - if it has not
 */
async function assertGenerated({ name, unit }: ManagedContainer, dropIn: string): Promise<void> {
  if (isUnit(unit) && (await hasRunCommand(unit))) return;
  await removeDropInFile(unit.manager, dropIn);
  throw new StoreError("refused", `Podman's generator did not add ${dropIn} to ${unit.name}`, {
    hint: `Add the lines to the quadlet itself: hivemind-sqlcipher run --print-unit quadlet --container ${name}`,
  });
}

async function toUnit(
  { source, ownCommand, preparation }: Pick<SetupRequest, "source" | "ownCommand" | "preparation">,
  { manager, command: hub }: Pick<HubSurvey, "manager" | "command">,
  phase: Phase,
): Promise<UserUnit | SystemUnit> {
  if (source.kind !== "sealed" || manager !== "systemd") {
    return { kind: "user", run: ownCommand("run").map(escapeVariables), hub };
  }
  const serverJson = await realPath(serverJsonPath());
  const mayFail = phase === "in-progress";
  const run = preparation.map(escapeVariables);
  return { kind: "system", run, hub, serverJson, credential: source.path, mayFail };
}

/**
 * Removes the drop-in, and its directory if it is empty. For a container of compose, removes the
 * override, and creates the container again.
 */
export async function removeDropIn(
  { storePath }: Pick<SetupRequest, "storePath">,
  { manager, dropIn }: Pick<HubSurvey, "manager" | "dropIn">,
): Promise<void> {
  const container = hubContainer();
  if (container?.compose) return removeOverride(storePath, container.name, container.compose);
  await removeDropInFile(manager, dropIn);
}

async function removeDropInFile(manager: ServiceName["manager"], path: string): Promise<void> {
  const directory = dirname(path);
  await removeFile(path);
  // The record of setup is removed next: with the drop-in but without it, the hub would not start.
  const left = await listDirectory(directory);
  if (left?.length === 0) await rmdir(directory);
  if (left) await syncDirectory(left.length === 0 ? dirname(directory) : directory);
  await reloadUnits(manager);
}
