/** `run --prepare` and `run --print-unit` for a hub in a container. */
import { basename, dirname, join } from "node:path";
import { expandPath } from "../config/paths.js";
import { StoreError } from "../errors.js";
import { isRoot } from "../fs/user.js";
import type { InspectedHub } from "../hub/container-hub.js";
import type { ContainerUnit } from "../hub/container-units.js";
import type { PrepareOptions } from "../hub/run.js";
import { parseSource } from "../keys/source.js";
import { type Context, ownCommand } from "./context.js";

export interface ContainerOptions {
  container?: string;
  serverJson?: string;
  owner?: string;
  credentialFile?: string;
}

/** Returns whether the options name the hub of a container. */
export function isForContainer({ container, serverJson }: ContainerOptions): boolean {
  return container !== undefined || serverJson !== undefined;
}

/**
 * Writes the copy of `server.json` that the container mounts, with the secret in it.
 *
 * @param target - the path of the copy
 * @param readSecret - returns the secret of the hub with this `server.json`
 */
export async function prepareForContainer(
  { storePath, reporter }: Context,
  options: ContainerOptions,
  target: string,
  readSecret: (serverJson: string | undefined) => Promise<PrepareOptions["secret"]>,
): Promise<void> {
  const { prepareCopy } = await import("../hub/run.js");
  const { statIfExists } = await import("../fs/read.js");
  const named = options.owner === undefined ? undefined : parseOwner(options.owner);
  const { container, serverJson } = await resolveContainer(options);
  const secret = await readSecret(serverJson);
  // The hub writes its store and reads the copy as the same user.
  const owner = named ?? (isRoot() ? await statIfExists(storePath) : undefined);
  await prepareCopy(
    {
      serverJson,
      container,
      secret,
      ...(owner && { owner: { uid: owner.uid, gid: owner.gid } }),
      reporter,
    },
    expandPath(target),
  );
}

/** Writes the copy without a secret, for a setup before it encrypts the store. */
export async function prepareUnchanged(options: ContainerOptions, target: string): Promise<void> {
  const { writeUnchangedCopy } = await import("../hub/server-json-copy.js");
  const { serverJsonPath } = await import("../hub/server-json.js");
  const { serverJson = serverJsonPath() } = await resolveContainer(options);
  await writeUnchangedCopy(serverJson, expandPath(target));
}

/** Returns what an operator adds to the container's configuration to pass the secret to the hub. */
type RenderUnit = (context: Context, args: string[], options: ContainerOptions) => Promise<string>;

/** Returns the lines for a Podman quadlet. */
export const renderQuadletUnit: RenderUnit = async (context, _args, options) => {
  const { renderQuadlet } = await import("../hub/container-units.js");
  return renderQuadlet(await buildUnitParts(context, options));
};

/** Returns a systemd unit that writes the copy, and the lines for a compose file. */
export const renderComposeUnit: RenderUnit = async (context, _args, options) => {
  const { renderCompose } = await import("../hub/container-units.js");
  const { copyUnitOf } = await import("../service/copy-unit.js");
  const unit = copyUnitOf(context.storePath);
  const directory = (await findCopyDirectory(options)) ?? unit.directory;
  return renderCompose(await buildUnitParts(context, options), { ...unit, directory });
};

/** Returns the directory of the copy that the container mounts already, if a unit can write it. */
async function findCopyDirectory(options: ContainerOptions): Promise<string | undefined> {
  const { runtimeDirectory } = await import("../service/systemctl.js");
  const { copy = "" } = (await resolveContainer(options)).container ?? {};
  const isOfUnit = copy === join(runtimeDirectory(), basename(dirname(copy)), "server.json");
  return isOfUnit ? basename(dirname(copy)) : undefined;
}

async function buildUnitParts(context: Context, options: ContainerOptions): Promise<ContainerUnit> {
  const { serverJsonPath } = await import("../hub/server-json.js");
  const { isRootlessDocker } = await import("../service/engine.js");
  const { readSetupRecord } = await import("../setup/record.js");
  const { container, serverJson = serverJsonPath() } = await resolveContainer(options);
  const { settingsPath, storePath } = context;
  const record = await readSetupRecord(settingsPath, storePath).catch(() => undefined);
  const credential =
    options.credentialFile === undefined ? undefined : expandPath(options.credentialFile);
  const source = credential === undefined ? context.source : parseSource("credential");
  if (isRoot() && source.kind === "keyring") {
    context.output.notice(
      "root's keyring is locked at boot: seal the passphrase with systemd-creds encrypt --name=hivemind-sqlcipher - FILE, and add --credential-file FILE",
    );
  }
  if (options.owner !== undefined) parseOwner(options.owner);
  const { engine, name, secrets = [] } = container?.container ?? {};
  const isDocker = engine === "docker";
  if (secrets.length > 0 && container?.copy === undefined) {
    context.output.notice(
      `the container ${name} has secrets of ${engine} (${secrets.join(", ")}), which are on the disk unencrypted: if one has the password, leave it out when you add these lines, then run ${engine} secret rm and hivemind-sqlcipher rotate`,
    );
  }
  return {
    kind: isRoot() ? "system" : "user",
    run: ownCommand({ ...context, source }, "run"),
    // Podman removes the container of a quadlet when it stops.
    pathInside:
      container?.pathInside ??
      record?.container?.inside ??
      "/home/hivemind/.config/hivemind-core/server.json",
    serverJson,
    credential,
    owner: options.owner,
    dockerContainer: isDocker ? name : undefined,
    isDockerRootless: isDocker && (await isRootlessDocker()),
  };
}

/**
 * Throws if `run` would start a container engine, because a container has mounts of its own.
 *
 * @throws {@link StoreError} refused - for a container engine
 */
export function assertNoEngine([program = ""]: readonly string[]): void {
  if (!/^(?:podman|docker|nerdctl)(?:-compose)?$/.test(basename(program))) return;
  throw new StoreError(
    "refused",
    `a container that ${program} starts would not get the passphrase from run`,
    {
      hint: "Let the container mount a copy of server.json: hivemind-sqlcipher run --print-unit compose (or quadlet) prints the lines for it.",
    },
  );
}

/** Finds the container that the options name, and the hub's own `server.json` on this machine. */
async function resolveContainer({ container: name, serverJson }: ContainerOptions): Promise<{
  container?: InspectedHub;
  serverJson?: string | undefined;
}> {
  const given = serverJson === undefined ? undefined : expandPath(serverJson);
  if (name === undefined) return { serverJson: given };
  const { readContainerHub } = await import("../hub/container-hub.js");
  const { findNamedContainer } = await import("../service/find-container.js");
  const hint = "Name the hub's own file instead: --server-json PATH.";
  const found = await findNamedContainer(name, hint);
  if (found === undefined) {
    throw new StoreError("notFound", `no engine has a container ${name}`, { hint });
  }
  const container = await readContainerHub(found);
  return { container, serverJson: given ?? container.serverJson };
}

function parseOwner(text: string): NonNullable<PrepareOptions["owner"]> {
  const [, uid, gid] = /^(\d+):(\d+)$/.exec(text) ?? [];
  if (uid !== undefined && gid !== undefined) return { uid: Number(uid), gid: Number(gid) };
  throw new StoreError("usage", `${text} is not a user and a group`, {
    hint: "Give both as numbers: --owner 1000:1000",
  });
}
