import { type Command, Option } from "commander";
import { expandPath } from "../../config/paths.js";
import { isKind, StoreError } from "../../errors.js";
import type { HubOptions } from "../../hub/run.js";
import { engineSecretError, formatSource, isEngineSecret, parseSource } from "../../keys/source.js";
import { restoreUmask } from "../../process/privacy.js";
import { addHelp } from "../command.js";
import { addGlobalOptions, type Context, contextOf, ownCommand } from "../context.js";
import {
  assertNoEngine,
  type ContainerOptions,
  isForContainer,
  prepareForContainer,
  prepareUnchanged,
  renderComposeUnit,
  renderQuadletUnit,
} from "../hub-container.js";
import { recoverFirst } from "../open.js";

interface RunOptions extends ContainerOptions {
  privateConfig?: boolean;
  hubPython?: string;
  redisPasswordSource?: string;
  printUnit?: "user" | "system" | "keyring" | "dropin" | "quadlet" | "compose";
  unit?: string;
  prepare?: string;
  user?: string;
}

export function addCommand(program: Command): void {
  const command = program
    .command("run [command...]")
    .description("Start the hub and pass it the passphrase in memory")
    .usage("[options] -- COMMAND [ARGUMENT...]")
    .option("--private-config", "Use a configuration directory in memory, not a mount")
    .option("--hub-python <path>", "Use this Python of the hub (default: from the command)")
    .option(
      "--redis-password-source <source>",
      "Read a Redis hub's password here (default: keyring)",
    )
    .addOption(
      new Option("--print-unit <kind>", "Print a systemd unit or a drop-in instead").choices([
        "user",
        "system",
        "keyring",
        "dropin",
        "quadlet",
        "compose",
      ]),
    )
    .option("--unit <name>", "Print the drop-in for this unit (default: the hub's)")
    .option("--credential-file <path>", "Name the sealed credential in the printed unit")
    .option("--user <name>", "Name the hub's account in the printed unit")
    .option("--prepare <path>", "Write only the server.json that a unit or container mounts")
    .option("--container <name>", "Use the paths and the Python of this container's hub")
    .option("--server-json <path>", "Read this server.json, before the container exists")
    .option("--owner <uid:gid>", "Write the copy for this user (default: the store's owner)");
  addGlobalOptions(command);
  addHelp(command, {
    details: [
      "The hub reads the store's passphrase, or the password of its Redis server, from a server.json that exists only in memory. Without mount namespaces, use --private-config. The exit code is the hub's.",
      "A unit of kind user or system starts the hub; a unit of kind keyring unlocks the keyring at boot. A drop-in adds the passphrase to the unit that already starts the hub; the first line is the drop-in's path. For a hub in a container, quadlet prints the lines of a Podman quadlet, and compose a unit and the lines of a compose file: both write a copy of server.json into memory, which the container mounts. The credential of system and keyring units is sealed with systemd-creds. A source is keyring, file:PATH, command:CMD, credential[:NAME] or sealed[:PATH].",
    ],
    examples: [
      "hivemind-sqlcipher run -- hivemind-core listen",
      "hivemind-sqlcipher run --print-unit dropin",
      "hivemind-sqlcipher run --print-unit compose --container hivemind_listener",
      "hivemind-sqlcipher run --print-unit user > ~/.config/systemd/user/hivemind-core.service",
    ],
  });
  command.action(async (args: string[], options: RunOptions) => {
    const context = await contextOf(command);
    await (options.printUnit === undefined
      ? runHubCommand(context, args, options)
      : printUnit(context, args, options));
  });
}

async function runHubCommand(context: Context, args: string[], options: RunOptions): Promise<void> {
  const isContainer = isForContainer(options);
  if ((isContainer || options.owner !== undefined) && options.prepare === undefined) {
    throw new StoreError(
      "usage",
      "--container, --server-json and --owner belong to --prepare or --print-unit",
      {
        hint: "Name the file to write: --prepare PATH.",
      },
    );
  }
  if (options.prepare !== undefined && isContainer) {
    if (await isSettingUp(context)) {
      return prepareUnchanged(options, options.prepare);
    }
    return prepareForContainer(
      context,
      options,
      options.prepare,
      async (serverJson) =>
        (await readRedisSecret(options, serverJson)) ?? (await readStoreSecretIfEncrypted(context)),
    );
  }
  if (args.length === 0) {
    throw new StoreError("usage", "no command to run", {
      hint: "Name the hub's command: hivemind-sqlcipher run -- hivemind-core listen.",
    });
  }
  if (options.prepare === undefined) assertNoEngine(args);
  const { startsUnchanged } = await import("../../setup/record.js");
  if (
    options.prepare === undefined &&
    (await startsUnchanged(context.settingsPath, context.storePath))
  ) {
    const { runUntilExit } = await import("../../hub/child.js");
    context.output.notice("setup is in progress: the hub starts on the database in server.json");
    restoreUmask();
    process.exitCode = await runUntilExit(args);
    return;
  }
  const { prepareServerJson, runHub } = await import("../../hub/run.js");
  const request: HubOptions = {
    command: args,
    ...((await readRedisSecret(options)) ?? (await readStoreSecret(context))),
    hubPython: options.hubPython,
    onNotice: (text: string) => context.output.notice(text),
  };
  if (options.prepare !== undefined) return prepareServerJson(request, options.prepare);
  restoreUmask();
  process.exitCode = await runHub({
    ...request,
    ...(options.privateConfig && { privateConfig: true }),
  });
}

/** Returns whether a setup is in progress, and the container must start on the former database. */
async function isSettingUp({ settingsPath, storePath }: Context): Promise<boolean> {
  const { readSetupRecord, startsUnchanged, workForRecord } = await import("../../setup/record.js");
  const record = await readSetupRecord(settingsPath, storePath).catch(() => undefined);
  if (record === undefined) return false;
  workForRecord(record);
  return startsUnchanged(settingsPath, storePath);
}

/** Returns the store's passphrase; without one for a store that is not encrypted yet. */
async function readStoreSecretIfEncrypted(context: Context) {
  const { identify } = await import("../../store/cipher.js");
  const { storePath, output } = context;
  await recoverFirst(context);
  if ((await identify(storePath)).format !== "plaintext") return await readStoreSecret(context);
  output.notice(`${storePath} is not encrypted yet, so the copy has no password`);
  return { storePath };
}

async function readStoreSecret(context: Context) {
  const { unlock } = await import("../../keys/unlock.js");
  const { storePath } = context;
  await recoverFirst(context);
  const opened = await unlock(storePath, context.source, { mode: "readwrite" });
  const { connection, passphrase, key } = opened;
  await connection.close();
  return { storePath, passphrase, cipherCompatibility: key.cipherCompatibility };
}

/**
 * Returns the Redis server's password, or undefined if the hub does not use Redis.
 *
 * The password has a source of its own: the store's passphrase must never be sent to a server.
 */
async function readRedisSecret({ redisPasswordSource }: RunOptions, path?: string) {
  const settings = await readRedisSettings(path);
  if (settings === undefined) return undefined;
  const { readDatabasePassword } = await import("../../databases/registry.js");
  const { redisModule } = await import("../../hub/server-json.js");
  const source = parseSource(redisPasswordSource ?? "keyring");
  return { redisPassword: await readDatabasePassword(redisModule, settings, source) };
}

/** Returns the Redis settings in server.json, or undefined if the hub uses another database. */
async function readRedisSettings(path?: string) {
  const { databaseIn, readServerJson, redisModule, serverJsonPath } = await import(
    "../../hub/server-json.js"
  );
  try {
    const { module, settings } = databaseIn(await readServerJson(path ?? serverJsonPath()));
    return module === redisModule ? settings : undefined;
  } catch (error) {
    if (isKind(error, "notFound")) return undefined;
    throw error;
  }
}

async function printUnit(context: Context, args: string[], options: RunOptions): Promise<void> {
  if (isEngineSecret(context.source) && options.credentialFile === undefined) {
    throw engineSecretError();
  }
  const print = {
    user: renderUserUnit,
    system: renderSystemUnit,
    keyring: renderUnlockUnit,
    dropin: renderHubDropIn,
    quadlet: renderQuadletUnit,
    compose: renderComposeUnit,
  };
  const kind = options.printUnit ?? "user";
  const unit = await print[kind](context, args, options);
  if (kind === "user" || kind === "system") await warnOfSecondUnit(context);
  if (context.output.json) context.output.result({ unit }, () => []);
  else context.output.line(unit.trimEnd());
}

/** Prints a notice if a unit starts the hub already: two hubs on one store lose data. */
async function warnOfSecondUnit({ output }: Context): Promise<void> {
  const { findHubUnits } = await import("../../hub/find-hubs.js");
  const { serverJsonPath } = await import("../../hub/server-json.js");
  const units = (await findHubUnits(serverJsonPath())).filter(({ isTemplate }) => !isTemplate);
  const [unit] = units;
  if (unit === undefined) return;
  output.notice(
    `${unit.name} starts the hub already, and another unit would start a second hub on its store; change ${unit.name} with --print-unit dropin, or replace its file with the printed unit`,
  );
}

async function renderUserUnit(
  context: Context,
  args: string[],
  options: RunOptions,
): Promise<string> {
  const { renderUnit } = await import("../../hub/units.js");
  const run = await buildUserRun(context, options);
  return renderUnit({ kind: "user", run, hub: await resolveHubCommand(context, args) });
}

/** Returns the command line of `run` for a user unit. */
async function buildUserRun(context: Context, options: RunOptions): Promise<string[]> {
  const { privateConfig, redisPasswordSource } = options;
  return ownCommand(
    context,
    "run",
    ...(await buildHubPythonOption(options)),
    ...(privateConfig ? ["--private-config"] : []),
    ...(redisPasswordSource === undefined
      ? []
      : ["--redis-password-source", formatSource(parseSource(redisPasswordSource))]),
  );
}

async function renderSystemUnit(
  context: Context,
  args: string[],
  options: RunOptions,
): Promise<string> {
  const { renderUnit } = await import("../../hub/units.js");
  return renderUnit(
    await buildSystemParts(context, await resolveHubCommand(context, args), options),
  );
}

/**
 * Returns a drop-in for the hub's unit. Without `args`, the hub's command is read from the unit.
 */
async function renderHubDropIn(
  context: Context,
  args: string[],
  options: RunOptions,
): Promise<string> {
  const { dropInPath, findHubUnit, readHubCommand } = await import("../../hub/existing-unit.js");
  const { renderDropIn } = await import("../../hub/units.js");
  const unit = await findHubUnit(options.unit);
  const hub = args.length > 0 ? await resolveHubCommand(context, args) : await readHubCommand(unit);
  const text = renderDropIn(
    unit.manager === "systemd"
      ? await buildSystemParts(context, hub, options)
      : { kind: "user", run: await buildUserRun(context, options), hub },
  );
  return `# ${await dropInPath(unit)}\n${text}`;
}

async function buildSystemParts(context: Context, hub: string[], options: RunOptions) {
  const { readServerJson, serverJsonPath } = await import("../../hub/server-json.js");
  const hubPython = await buildHubPythonOption(options);
  const credential = resolveCredential(options, "hivemind-sqlcipher");
  const { file } = await readServerJson(serverJsonPath());
  // The unit may run as another user without this settings file.
  const own = { ...context, settingsInFile: undefined };
  const run =
    (await readRedisSettings()) === undefined
      ? ownCommand({ ...own, source: parseSource("credential") }, "run", ...hubPython)
      : ownCommand(own, "run", ...hubPython, "--redis-password-source", "credential");
  const user = options.user === undefined ? {} : { user: options.user };
  return { kind: "system" as const, run, hub, serverJson: file, credential, ...user };
}

/**
 * Returns the unit that unlocks the keyring at boot: with --user a system unit, else a user unit.
 */
async function renderUnlockUnit(_: Context, _args: string[], options: RunOptions): Promise<string> {
  const { renderKeyringUnit } = await import("../../hub/units.js");
  const credential = resolveCredential(options, "hivemind-keyring");
  const { user } = options;
  const owner = user === undefined ? undefined : { user, uid: await findUserId(user) };
  return renderKeyringUnit({ credential, owner });
}

/** Returns the hub's command for a unit, with the absolute path of its program. */
async function resolveHubCommand(context: Context, args: string[]): Promise<string[]> {
  const { findProgram } = await import("../../hub/interpreter.js");
  const { escapeVariables } = await import("../../service/unit-file.js");
  const [name = "", ...rest] = args.length > 0 ? args : ["hivemind-core", "listen"];
  const found = await findProgram(name);
  if (found === undefined) {
    context.output.notice(`${name} is not on PATH; correct its path in the unit`);
  }
  return [found ?? `/usr/local/bin/${name}`, ...rest].map(escapeVariables);
}

async function buildHubPythonOption({ hubPython }: RunOptions): Promise<string[]> {
  if (hubPython === undefined) return [];
  const { resolveHubPython } = await import("../../hub/interpreter.js");
  return ["--hub-python", await resolveHubPython(hubPython)];
}

function resolveCredential({ credentialFile }: RunOptions, name: string): string {
  if (credentialFile !== undefined) return expandPath(credentialFile);
  throw new StoreError("usage", "this unit needs a sealed credential", {
    hint: `Seal the secret with systemd-creds encrypt --name=${name} - FILE, and add --credential-file FILE.`,
  });
}

async function findUserId(user: string): Promise<number> {
  const { run } = await import("../../process/run.js");
  const { code, stdout } = await run("id", ["-u", "--", user], { timeoutMs: 10_000 });
  if (code !== 0) throw new StoreError("usage", `no such user: ${user}`);
  return Number(stdout);
}
