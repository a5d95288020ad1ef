import type { Command } from "commander";
import { expandPath } from "../../config/paths.js";
import { StoreError } from "../../errors.js";
import type { HubOptions } from "../../hub/run.js";
import { formatSource, parseSource } from "../../keys/source.js";
import { restoreUmask } from "../../process/privacy.js";
import { addGlobalOptions, type Context, contextOf, ownCommand } from "../context.js";
import { recoverFirst } from "../open.js";

interface RunOptions {
  privateConfig?: boolean;
  hubPython?: string;
  redisPasswordSource?: string;
  printUnit?: string;
  prepare?: string;
  credentialFile?: string;
  user?: string;
}

export function addCommand(program: Command): void {
  const run = addGlobalOptions(
    program
      .command("run [command...]")
      .description(
        "start the hub with its passphrase, or its Redis password, which is in no file on disk; exits as the hub does",
      )
      .usage("[options] -- COMMAND [ARGUMENT...]")
      .option("--private-config", "without mount namespaces: a configuration folder in memory")
      .option("--hub-python <path>", "the hub's Python, where it cannot be told from the command")
      .option(
        "--redis-password-source <source>",
        "for a hub on Redis: keyring (the default), file:PATH, command:CMD, credential[:NAME]",
      )
      .option("--print-unit <kind>", "print a ready systemd unit instead: user, system or keyring")
      .option(
        "--credential-file <path>",
        "for system and keyring units: the secret as systemd-creds sealed it",
      )
      .option("--user <name>", "for system and keyring units: the account that the hub runs as")
      .option("--prepare <path>", "only write the server.json that a system unit binds, there")
      .addHelpText(
        "after",
        "\nExamples:\n  hivemind-sqlcipher run -- hivemind-core listen\n  hivemind-sqlcipher run --print-unit user > ~/.config/systemd/user/hivemind-core.service",
      ),
  );
  run.action(async (command: string[], options: RunOptions) =>
    runHubCommand(await contextOf(run), command, options),
  );
}

async function runHubCommand(
  context: Context,
  words: string[],
  options: RunOptions,
): Promise<void> {
  const hub = words.length > 0 ? words : ["hivemind-core", "listen"];
  if (options.printUnit !== undefined) return printUnit(context, hub, options.printUnit, options);
  if (words.length === 0) {
    throw new StoreError("usage", "what should be run?", {
      hint: "hivemind-sqlcipher run -- hivemind-core listen",
    });
  }
  const { prepareServerJson, runHub } = await import("../../hub/run.js");
  const request: HubOptions = {
    command: hub,
    ...((await redisSecret(options)) ?? (await storeSecret(context))),
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

async function storeSecret(context: Context) {
  const { unlock } = await import("../../keys/unlock.js");
  const { storePath, source } = context;
  await recoverFirst(context);
  const { connection, passphrase, key } = await unlock(storePath, source, { mode: "readwrite" });
  await connection.close();
  return { storePath, passphrase, cipherCompatibility: key.cipherCompatibility };
}

/**
 * The password of the Redis server, if that is what the hub's `server.json` names. It has a source of its own: what
 * opens the store is never sent to a server.
 */
async function redisSecret({ redisPasswordSource }: RunOptions) {
  const settings = await redisSettings();
  if (settings === undefined) return undefined;
  const { databasePassword } = await import("../../databases/registry.js");
  const { redisModule } = await import("../../hub/server-json.js");
  const source = parseSource(redisPasswordSource ?? "keyring");
  return { redisPassword: await databasePassword(redisModule, settings, source) };
}

/** What `server.json` says of the hub's Redis server; undefined for a hub on another database. */
async function redisSettings() {
  const { databaseIn, readServerJson, redisModule, serverJsonPath } = await import(
    "../../hub/server-json.js"
  );
  try {
    const { module, settings } = databaseIn(await readServerJson(serverJsonPath()));
    return module === redisModule ? settings : undefined;
  } catch (error) {
    if (error instanceof StoreError && error.kind === "notFound") return undefined;
    throw error;
  }
}

async function printUnit(
  context: Context,
  hub: string[],
  kind: string,
  options: RunOptions,
): Promise<void> {
  if (kind === "keyring") return printKeyringUnit(context, options);
  const { findProgram } = await import("../../hub/interpreter.js");
  const { renderUnit } = await import("../../hub/units.js");
  const { readServerJson, serverJsonPath } = await import("../../hub/server-json.js");
  const [name = "", ...args] = hub;
  const found = await findProgram(name);
  if (found === undefined)
    context.output.notice(`${name} is not on PATH; correct its path in the unit`);
  const words = [found ?? `/usr/local/bin/${name}`, ...args];
  const { hubPython: python, privateConfig, redisPasswordSource } = options;
  const hubPython =
    python === undefined ? [] : ["--hub-python", (await findProgram(python)) ?? python];
  if (kind === "user") {
    const ownOptions = [
      ...hubPython,
      ...(privateConfig ? ["--private-config"] : []),
      ...(redisPasswordSource === undefined
        ? []
        : ["--redis-password-source", formatSource(parseSource(redisPasswordSource))]),
    ];
    const run = ownCommand(context, "run", ...ownOptions);
    return context.output.line(renderUnit({ kind, run, hub: words }).trimEnd());
  }
  if (kind !== "system") {
    throw new StoreError("usage", `there is no unit "${kind}"`, {
      hint: "--print-unit is user, system or keyring.",
    });
  }
  const credential = sealedCredential(options, "hivemind-sqlcipher");
  const { file } = await readServerJson(serverJsonPath());
  // It runs as another user perhaps, to whom this one's settings are none: what it needs of them is named.
  const own = { ...context, settingsInFile: undefined };
  const run =
    (await redisSettings()) === undefined
      ? ownCommand({ ...own, source: parseSource("credential") }, "run", ...hubPython)
      : ownCommand(own, "run", ...hubPython, "--redis-password-source", "credential");
  context.output.line(
    renderUnit({
      kind,
      run,
      hub: words,
      serverJson: file,
      credential,
      ...(options.user !== undefined && { user: options.user }),
    }).trimEnd(),
  );
}

/** The unit that unlocks the keyring at boot where nobody logs in: the system's manager with --user, else the user's. */
async function printKeyringUnit(context: Context, options: RunOptions): Promise<void> {
  const { renderKeyringUnit } = await import("../../hub/units.js");
  const credential = sealedCredential(options, "hivemind-keyring");
  const unit =
    options.user === undefined
      ? renderKeyringUnit({ kind: "user", credential })
      : renderKeyringUnit({
          kind: "system",
          credential,
          owner: { user: options.user, uid: await userId(options.user) },
        });
  context.output.line(unit.trimEnd());
}

function sealedCredential({ credentialFile }: RunOptions, name: string): string {
  if (credentialFile !== undefined) return expandPath(credentialFile);
  throw new StoreError("usage", "this unit gets its secret from a sealed credential", {
    hint: `Seal it: systemd-creds encrypt --name=${name} - FILE; then name it: --credential-file FILE.`,
  });
}

async function userId(user: string): Promise<number> {
  const { run } = await import("../../process/run.js");
  const { code, stdout } = await run("id", ["-u", "--", user], { timeoutMs: 10_000 });
  if (code !== 0) throw new StoreError("usage", `there is no user ${user}`);
  return Number(stdout);
}
