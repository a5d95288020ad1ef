/**
 * `run`: starts the hub with its passphrase, never in plain text on a disk.
 *
 * A hub reads its passphrase, or the password of a Redis server, only from `server.json`. So the
 * hub gets a copy of this file in memory with the secret, either mounted over the real file or in a
 * private configuration directory.
 */
import { basename, dirname } from "node:path";
import { isJsonObject } from "../client/json.js";
import { dataHome, type Environment, realPath } from "../config/paths.js";
import { isKind, StoreError } from "../errors.js";
import { replaceFile } from "../fs/atomic.js";
import type { Reporter } from "../reporter.js";
import type { CipherCompatibility } from "../store/cipher.js";
import { assertOwnCopy, findContainerPython, type InspectedHub } from "./container-hub.js";
import { describePython, findHubPython, findProgram, type HubPython } from "./interpreter.js";
import { startInNamespace } from "./namespace.js";
import { assertPackages, probeContainerPackages, uncheckedContainer } from "./packages.js";
import { probePackagesCached } from "./packages-cache.js";
import { runWithPrivateConfig } from "./private-config.js";
import { completesServerJson, type HubPackages } from "./probe.js";
import { blacklistProblem } from "./schema.js";
import {
  databaseIn,
  type NamedStore,
  namedStore,
  namedStoreInContainer,
  parseNamedStore,
  readServerJson,
  redisModule,
  type ServerJson,
  serverJsonPath,
  sqliteModule,
} from "./server-json.js";
import { giveTo, makeCopyDirectory } from "./server-json-copy.js";
import { withPassword } from "./server-json-edit.js";

export interface HubStoreSecret {
  readonly storePath: string;
  readonly passphrase: string;
  /** The store's format, if known: the hub's `sqlcipher3` must read it. */
  readonly cipherCompatibility?: CipherCompatibility | undefined;
}

/** The secret of the Redis server in `server.json`. */
export interface RedisSecret {
  readonly redisPassword: string;
}

export type HubSecret = HubStoreSecret | RedisSecret;

interface CheckOptions {
  /** Receives a notice about an impossible check, or about ignored blacklists. */
  readonly reporter: Pick<Reporter, "notice">;
}

export type HubOptions = HubSecret &
  CheckOptions & {
    /** The hub's command and its arguments, as typed. */
    readonly command: readonly string[];
    /** The hub's Python, if the command does not show it. */
    readonly hubPython?: string | undefined;
  };

/** Options of `run --prepare` for a container. */
export type PrepareOptions = CheckOptions & {
  /** Only a path for a store that `encrypt` will encrypt, and that has no password until then. */
  readonly secret: HubSecret | Pick<HubStoreSecret, "storePath">;
  /** The path of the hub's `server.json`. Default: of the container. */
  readonly serverJson?: string | undefined;
  /** The container of the hub, if it exists. */
  readonly container?: InspectedHub | undefined;
  readonly owner?: { readonly uid: number; readonly gid: number } | undefined;
};

/**
 * Runs the hub until it ends.
 *
 * @param options - with `privateConfig`, the hub gets a private configuration directory, for
 *   systems without mount namespaces
 * @returns the hub's exit code, or 128 + n if signal n ended it
 * @throws {@link StoreError} refused - if the hub would not open this store, or cannot receive the
 *   passphrase
 * @throws {@link StoreError} notFound - if the command does not exist
 * @throws {@link StoreError} failed - if the hub's Python fails
 * @throws {@link StoreError} inUse - if another hub of this user has a private configuration
 */
export async function runHub(options: HubOptions & { privateConfig?: boolean }): Promise<number> {
  const { command, privateConfig } = options;
  const serverJson = await assertHubStarts(options);
  const contents = withSecret(serverJson, options);
  if (privateConfig) return runWithPrivateConfig(command, contents);
  const { exitCode } = await startInNamespace(command, serverJson.file, contents);
  return exitCode;
}

/**
 * Writes the `server.json` that a system unit binds over the real file (`BindReadOnlyPaths=`),
 * after the checks of `runHub`. The caller removes the file. With the generated unit, systemd
 * removes it together with the unit's runtime directory.
 *
 * @throws {@link StoreError} refused - if the directory is not in memory or not private
 */
export async function prepareServerJson(options: HubOptions, target: string): Promise<void> {
  await makeCopyDirectory(dirname(target));
  await replaceFile(target, withSecret(await assertHubStarts(options), options));
}

/** Writes a copy of `server.json` as `prepareServerJson` does, for the hub of a container. */
export async function prepareCopy(options: PrepareOptions, target: string): Promise<void> {
  const { container, owner, secret } = options;
  if (container) await assertOwnCopy(container, target);
  await makeCopyDirectory(dirname(target));
  const serverJson = await assertContainerHubStarts(options);
  await replaceFile(target, withSecret(serverJson, secret));
  if (owner) await giveTo(target, owner);
}

function withSecret(serverJson: ServerJson, secret: PrepareOptions["secret"]): string {
  if ("redisPassword" in secret) return withPassword(serverJson, secret.redisPassword, redisModule);
  return "passphrase" in secret ? withPassword(serverJson, secret.passphrase) : serverJson.text;
}

/**
 * Checks whatever would make the hub fail, use another store, or write plain text. Returns the
 * hub's `server.json`.
 */
async function assertHubStarts(options: HubOptions): Promise<ServerJson> {
  const { command, hubPython, reporter } = options;
  const environment = process.env;
  const program = await findProgram(command[0] ?? "", environment);
  if (program === undefined) {
    throw new StoreError("notFound", `no such command: ${command[0] ?? ""}`, {
      hint: "Name the command by its path: run -- /opt/hivemind/bin/hivemind-core listen",
    });
  }
  if (
    command.some((arg) => basename(arg) === "hivemind-core") &&
    command.includes("print-config")
  ) {
    throw refusal(
      "print-config would show the passphrase",
      "Run hivemind-core print-config without run: it needs no passphrase.",
    );
  }
  const serverJson = await readExistingServerJson(serverJsonPath(environment));
  if ("redisPassword" in options) assertRedisModule(serverJson);
  else
    await assertSameStore(serverJson, await namedStore(serverJson, environment), options.storePath);

  const python = await findHubPython({ hubPython, args: command, environment });
  if (python === undefined) {
    if ("storePath" in options) {
      reporter.notice(
        `cannot determine which Python runs ${program}: its SQLite plugin is not checked for encryption`,
      );
    }
    return serverJson;
  }
  if ("storePath" in options) {
    assertStorePackages(await probePackagesCached(python, { environment }), python, options);
  }
  await assertComplete(serverJson, python, environment);
  return serverJson;
}

/**
 * Checks the hub of a container as far as possible: its store (only the file's name if the
 * container does not exist), and its packages if the hub runs. Returns the hub's `server.json`.
 */
async function assertContainerHubStarts(options: PrepareOptions): Promise<ServerJson> {
  const { secret, container: hub, reporter } = options;
  const path = options.serverJson ?? hub?.serverJson;
  if (path === undefined) {
    const name = hub?.container.name;
    throw refusal(
      `the container ${name} has no volume with its server.json`,
      "Mount the directory .config/hivemind-core of the hub, or name the file with --server-json.",
    );
  }
  const serverJson = await readExistingServerJson(path);
  if ("redisPassword" in secret) assertRedisModule(serverJson);
  else {
    const { storePath } = secret;
    const named = hub
      ? await namedStoreInContainer(serverJson, hub)
      : await matchStoreByName(serverJson, storePath);
    await assertSameStore(serverJson, named, storePath);
  }
  const python = hub && findContainerPython(hub.container);
  if (hub === undefined || !("storePath" in secret)) return serverJson;
  const { name } = hub.container;
  if (python === undefined) {
    reporter.notice(uncheckedContainer(name));
    return serverJson;
  }
  const packages = await probeContainerPackages(python, name, reporter);
  if (packages === undefined) return serverJson;
  assertStorePackages(packages, python, { ...secret, reporter });
  await assertComplete(serverJson, python);
  return serverJson;
}

function assertStorePackages(
  packages: HubPackages,
  python: HubPython,
  { cipherCompatibility, reporter }: Pick<HubStoreSecret, "cipherCompatibility"> & CheckOptions,
): void {
  assertPackages(packages, describePython(python), cipherCompatibility);
  const problem = blacklistProblem(packages);
  if (problem) {
    reporter.notice(`the hub enforces no blacklist: ${problem}; see hivemind-sqlcipher doctor`);
  }
}

/**
 * Checks that the hub will not write to its `server.json`.
 *
 * @throws {@link StoreError} refused - if the hub would add `network_protocol`
 */
async function assertComplete(
  serverJson: ServerJson,
  python: HubPython,
  environment?: Environment,
): Promise<void> {
  if (
    !isJsonObject(serverJson.settings.network_protocol) &&
    (await completesServerJson(python, environment && { environment }))
  ) {
    throw refusal(
      `${serverJson.path} has no "network_protocol": the hub would add it, but the file is read-only under run`,
      "Add it by running once, without run: hivemind-core print-config",
    );
  }
}

async function readExistingServerJson(path: string): Promise<ServerJson> {
  try {
    return await readServerJson(path);
  } catch (error) {
    if (!isKind(error, "notFound")) throw error;
    throw new StoreError(
      "refused",
      `${error.message}: the hub would create one and use another store`,
      { hint: error.hint, cause: error },
    );
  }
}

/**
 * Returns the store in the `server.json` of an absent container. A file with the name of the given
 * store counts as this store, because the mounts are unknown.
 */
async function matchStoreByName(serverJson: ServerJson, storePath: string): Promise<NamedStore> {
  const named = parseNamedStore(serverJson, dataHome());
  const { pathInside } = named;
  const isSame = pathInside !== undefined && basename(pathInside) === basename(storePath);
  const path = isSame ? storePath : pathInside;
  return { ...named, storePath: path && (await realPath(path)) };
}

async function assertSameStore(
  { path }: ServerJson,
  { module, pathInside, storePath: named }: NamedStore,
  storePath: string,
): Promise<void> {
  if (module !== sqliteModule) {
    throw refusal(
      `${path} names ${module ?? "no database module"}: the hub would use another store`,
      `Set "database": {"module": "${sqliteModule}", …} in the file.`,
    );
  }
  if (named !== (await realPath(storePath))) {
    const unnamed =
      pathInside === undefined
        ? "a store in memory or without an absolute path"
        : "a store on no volume of the container";
    throw refusal(
      `${path} names ${named === undefined ? unnamed : `the store ${named}`}, but the passphrase is for ${storePath}`,
      "Name the hub's store with --db, or correct name and subfolder in server.json.",
    );
  }
}

function assertRedisModule(serverJson: ServerJson): void {
  const { module } = databaseIn(serverJson);
  if (module === redisModule) return;
  throw refusal(
    `${serverJson.path} names ${module ?? "no database module"}, but the password is for a Redis server`,
    `Set "database": {"module": "${redisModule}", …} in the file.`,
  );
}

function refusal(message: string, hint: string): StoreError {
  return new StoreError("refused", message, { hint });
}
