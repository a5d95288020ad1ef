import { type Command, Option } from "commander";
import { StoreError } from "../../errors.js";
import type { HubOptions } from "../../hub/run.js";
import { parseSource } from "../../keys/source.js";
import { restoreUmask } from "../../process/privacy.js";
import { addHelp } from "../command.js";
import { addGlobalOptions, type Context, contextOf } from "../context.js";
import {
  assertNoEngine,
  isForContainer,
  prepareForContainer,
  prepareUnchanged,
} from "../hub-container.js";
import { recoverFirst } from "../open.js";
import { printUnit, type UnitOptions } from "../printed-units.js";

interface RunOptions extends UnitOptions {
  prepare?: string;
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
    reporter: context.reporter,
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

/** Returns the store's passphrase; without one for a store not encrypted yet. */
async function readStoreSecretIfEncrypted(context: Context) {
  const { identify } = await import("../../store/cipher.js");
  const { storePath, output } = context;
  await recoverFirst(context);
  if ((await identify(storePath)).format !== "plaintext") return await readStoreSecret(context);
  output.notice(`${storePath} is not encrypted yet, so the copy has no password`);
  return { storePath };
}

async function readStoreSecret(context: Context) {
  const { unlockSecret } = await import("../../keys/unlock.js");
  const { storePath } = context;
  await recoverFirst(context);
  const { passphrase, key } = await unlockSecret(storePath, context.source);
  return { storePath, passphrase, cipherCompatibility: key.cipherCompatibility };
}

/**
 * Returns the Redis server's password, or undefined if the hub does not use Redis.
 *
 * The password has a source of its own: the store's passphrase must never be sent to a server.
 */
async function readRedisSecret({ redisPasswordSource }: RunOptions, path?: string) {
  const { readRedisSettings, redisModule } = await import("../../hub/server-json.js");
  const settings = await readRedisSettings(path);
  if (settings === undefined) return undefined;
  const { readDatabasePassword } = await import("../../databases/registry.js");
  const source = parseSource(redisPasswordSource ?? "keyring");
  return { redisPassword: await readDatabasePassword(redisModule, settings, source) };
}
