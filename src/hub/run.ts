/**
 * `run`: starts the hub with its passphrase, which is never in plain text on a disk.
 *
 * A hub reads its passphrase, and the password of a Redis server, from `server.json` only. So it
 * gets a copy of this file in memory that contains the secret: at the path of the file, or in a
 * directory of its own.
 */
import { basename, dirname } from "node:path";
import { isJsonObject } from "../client/json.js";
import { type Environment, realPath } from "../config/paths.js";
import { StoreError } from "../errors.js";
import { replaceFile } from "../fs/atomic.js";
import type { CipherCompatibility } from "../store/cipher.js";
import {
  cipherFormat,
  completesServerJson,
  findHubPython,
  findProgram,
  type HubPackages,
} from "./interpreter.js";
import { assertPrivateMemory } from "./memory.js";
import { startInNamespace } from "./namespace.js";
import { askHubOnce } from "./packages-cache.js";
import { runWithPrivateConfig } from "./private-config.js";
import {
  databaseIn,
  namedStore,
  readServerJson,
  redisModule,
  type ServerJson,
  serverJsonPath,
  sqliteModule,
} from "./server-json.js";
import { withPassword } from "./server-json-edit.js";

/** The first SQLite plugin that uses its `password`. */
const upgradePlugin = "pip install --pre --upgrade 'hivemind-sqlite-database[cipher]>=0.3.0a3'";

export interface HubCommand {
  /** The hub's command and its arguments, as typed. */
  readonly command: readonly string[];
  /** Default: where the hub looks for the file in this environment. */
  readonly serverJson?: string | undefined;
  /** The hub's Python, if the command does not tell. */
  readonly hubPython?: string | undefined;
  /** The hub's environment, passed on unchanged. */
  readonly environment?: Environment | undefined;
  /** Receives what could not be checked. */
  readonly onNotice?: ((text: string) => void) | undefined;
}

/** A hub on the encrypted store. */
export interface StoreHub extends HubCommand {
  /** The store that the passphrase opens. */
  readonly storePath: string;
  readonly passphrase: string;
  /** The format of the store, if known: the hub's `sqlcipher3` must have the same. */
  readonly cipherCompatibility?: CipherCompatibility | undefined;
}

/** A hub on the Redis server of its `server.json`. */
export interface RedisHub extends HubCommand {
  readonly redisPassword: string;
}

export type HubOptions = StoreHub | RedisHub;

/**
 * Runs the hub until it ends.
 *
 * @param options - `privateConfig` gives the hub a configuration directory of its own, for systems
 *   without mount namespaces
 * @returns the hub's exit code, 128 + n if signal n ended it
 * @throws {@link StoreError} refused - the hub would not open this store, or not with this
 *   passphrase
 * @throws {@link StoreError} notFound - the command does not exist
 */
export async function runHub(options: HubOptions & { privateConfig?: boolean }): Promise<number> {
  const {
    command,
    environment = process.env,
    privateConfig = process.platform !== "linux",
  } = options;
  const serverJson = await checkHub(options);
  const contents = withSecret(serverJson, options);
  if (privateConfig) return runWithPrivateConfig({ command, contents, environment });
  const { file } = serverJson;
  const { exitCode } = await startInNamespace({ command, file, contents, environment });
  return exitCode;
}

/**
 * Writes the `server.json` that a system unit binds over the real one (`BindReadOnlyPaths=`), after
 * the checks of `runHub`. The caller removes the file; for the generated unit systemd does, with
 * the unit's runtime directory.
 *
 * @throws {@link StoreError} as `runHub`; refused - the directory is not in memory or not private
 */
export async function prepareServerJson(options: HubOptions, target: string): Promise<void> {
  await assertPrivateMemory(dirname(target));
  await replaceFile(target, withSecret(await checkHub(options), options));
}

function withSecret(serverJson: ServerJson, options: HubOptions): string {
  return "redisPassword" in options
    ? withPassword(serverJson, options.redisPassword, redisModule)
    : withPassword(serverJson, options.passphrase);
}

/** Checks everything that would make the hub fail, use another store, or write plain text. */
async function checkHub(options: HubOptions): Promise<ServerJson> {
  const { command, hubPython, environment = process.env, onNotice = () => undefined } = options;
  const program = await findProgram(command[0] ?? "", environment);
  if (program === undefined) {
    throw new StoreError("notFound", `there is no command ${command[0] ?? ""}`, {
      hint: "name it by its path, as in: run -- /opt/hivemind/bin/hivemind-core listen",
    });
  }
  if (
    command.some((word) => basename(word) === "hivemind-core") &&
    command.includes("print-config")
  ) {
    throw new StoreError("refused", "print-config would show the passphrase", {
      hint: "it needs none: start it without run",
    });
  }
  const serverJson = await findServerJson(options.serverJson ?? serverJsonPath(environment));
  if ("redisPassword" in options) checkRedis(serverJson);
  else await checkStore(serverJson, options.storePath, environment);

  const python = await findHubPython({ hubPython, words: command, environment });
  if (python === undefined) {
    if ("storePath" in options) {
      onNotice(
        `which Python runs ${program} is unknown, and so whether its SQLite plugin takes a password`,
      );
    }
    return serverJson;
  }
  if ("storePath" in options) {
    const packages = await askHubOnce(python, environment);
    checkPackages(packages, python[0], options.cipherCompatibility);
  }
  if (
    !isJsonObject(serverJson.settings.network_protocol) &&
    (await completesServerJson(python, environment))
  ) {
    throw new StoreError(
      "refused",
      `${serverJson.path} has no "network_protocol": the hub would fill it in, and must not write here`,
      { hint: "let it do so once, without run: hivemind-core print-config" },
    );
  }
  return serverJson;
}

async function findServerJson(path: string): Promise<ServerJson> {
  try {
    return await readServerJson(path);
  } catch (error) {
    if (!(error instanceof StoreError) || error.kind !== "notFound") throw error;
    throw new StoreError(
      "refused",
      `${error.message}: the hub would make one, and use another store`,
      { hint: error.hint, cause: error },
    );
  }
}

async function checkStore(
  serverJson: ServerJson,
  storePath: string,
  environment: Environment,
): Promise<void> {
  const { path } = serverJson;
  const { module, storePath: named } = await namedStore(serverJson, environment);
  if (module !== sqliteModule) {
    throw new StoreError(
      "refused",
      `${path} names ${module === undefined ? "no database module" : module}: the hub would use another store`,
      { hint: `"database": {"module": "${sqliteModule}", …} makes it use this one` },
    );
  }
  if (named !== (await realPath(storePath))) {
    throw new StoreError(
      "refused",
      `${path} names the store ${named ?? "in memory"}, and the passphrase is for ${storePath}`,
      { hint: "name the hub's own store (--db), or correct name and subfolder in server.json" },
    );
  }
}

function checkRedis(serverJson: ServerJson): void {
  const { module } = databaseIn(serverJson);
  if (module === redisModule) return;
  throw new StoreError(
    "refused",
    `${serverJson.path} names ${module ?? "no database module"}, and the password is for a Redis server`,
    { hint: `"database": {"module": "${redisModule}", …} makes the hub use it` },
  );
}

/** @throws {@link StoreError} refused - the hub could not open an encrypted store of this format */
export function checkPackages(
  packages: HubPackages,
  python: string,
  cipherCompatibility: CipherCompatibility | undefined,
): void {
  const { sqlitePlugin, problem } = packages;
  if (problem !== null) {
    throw new StoreError(
      "refused",
      `the hub in ${python} cannot open an encrypted store: ${problem}`,
      {
        hint: `mend its packages, as by: ${upgradePlugin}`,
      },
    );
  }
  if (!packages.takesPassword) {
    throw new StoreError(
      "refused",
      `hivemind-sqlite-database ${sqlitePlugin ?? ""} in ${python} ignores the password it is given`,
      {
        hint: `it would write its clients in plain text; with the hub's own pip: ${upgradePlugin}`,
      },
    );
  }
  const hubFormat = cipherFormat(packages);
  if (cipherCompatibility !== undefined && hubFormat !== cipherCompatibility) {
    throw new StoreError(
      "refused",
      `the store is of SQLCipher format ${cipherCompatibility}, and the hub's sqlcipher3 in ${python} reads format ${hubFormat}`,
      {
        hint:
          hubFormat > cipherCompatibility
            ? `convert the store: hivemind-sqlcipher encrypt --cipher-compatibility ${hubFormat}`
            : `it takes a newer sqlcipher3; with the hub's own pip: ${upgradePlugin}`,
      },
    );
  }
}
