/** `run --print-unit`: units and drop-ins that start the hub through `run`. */
import { expandPath } from "../config/paths.js";
import { StoreError } from "../errors.js";
import { engineSecretError, formatSource, isEngineSecret, parseSource } from "../keys/source.js";
import type { OwnCommand } from "../service/hub-units.js";
import { type Context, ownCommand } from "./context.js";
import { type ContainerOptions, renderComposeUnit, renderQuadletUnit } from "./hub-container.js";
import { findOwnProgram } from "./own-program.js";

export interface UnitOptions extends ContainerOptions {
  privateConfig?: boolean;
  hubPython?: string;
  redisPasswordSource?: string;
  printUnit?: "user" | "system" | "keyring" | "dropin" | "quadlet" | "compose";
  unit?: string;
  user?: string;
}

/** Prints the unit or drop-in of `--print-unit`. */
export async function printUnit(
  context: Context,
  args: string[],
  options: UnitOptions,
): Promise<void> {
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
  const { findHubUnits } = await import("../hub/find-hubs.js");
  const { serverJsonPath } = await import("../hub/server-json.js");
  const [unit] = await findHubUnits(serverJsonPath());
  if (unit === undefined) return;
  output.notice(
    `${unit.name} starts the hub already, and another unit would start a second hub on its store; change ${unit.name} with --print-unit dropin, or replace its file with the printed unit`,
  );
}

async function renderUserUnit(
  context: Context,
  args: string[],
  options: UnitOptions,
): Promise<string> {
  const { renderUnit } = await import("../hub/units.js");
  const run = await buildUserRun(context, options);
  return renderUnit({ kind: "user", run, hub: await resolveHubCommand(context, args) });
}

/** Returns the command line of `run` for a user unit, in which `$` begins a variable. */
async function buildUserRun(context: Context, options: UnitOptions): Promise<string[]> {
  const { escapeVariables } = await import("../service/unit-file.js");
  return ownCommand(context, "run", ...(await buildRunOptions(options))).map(escapeVariables);
}

/** Returns the options of `run` itself. */
async function buildRunOptions(options: UnitOptions): Promise<string[]> {
  const { privateConfig, redisPasswordSource } = options;
  return [
    ...(await buildHubPythonOption(options)),
    ...(privateConfig ? ["--private-config"] : []),
    ...(redisPasswordSource === undefined
      ? []
      : ["--redis-password-source", formatSource(parseSource(redisPasswordSource))]),
  ];
}

async function renderSystemUnit(
  context: Context,
  args: string[],
  options: UnitOptions,
): Promise<string> {
  const { renderUnit } = await import("../hub/units.js");
  return renderUnit(
    await buildSystemParts(context, await resolveHubCommand(context, args), options),
  );
}

/**
 * Returns a drop-in for the hub's unit. Without `args`, the hub's command is read from the unit. If
 * the unit starts the hub through `run`, its options stay, except those that are given here.
 */
async function renderHubDropIn(
  context: Context,
  args: string[],
  options: UnitOptions,
): Promise<string> {
  const { dropInPath, readHubCommand, readHubRun, resolveHubUnit, resolveNamedUnit } = await import(
    "../hub/existing-unit.js"
  );
  const { renderDropIn, renderPreparationDropIn } = await import("../hub/units.js");
  const unit =
    options.unit === undefined
      ? await resolveHubUnit()
      : await resolveNamedUnit(options.unit, context.storePath);
  const hub = args.length > 0 ? await resolveHubCommand(context, args) : await readHubCommand(unit);
  const title = `# ${await dropInPath(unit)}\n`;
  const present = options.credentialFile === undefined ? await readHubRun(unit) : undefined;
  if (present === undefined) {
    const parts =
      unit.manager === "systemd"
        ? await buildSystemParts(context, hub, options)
        : { kind: "user" as const, run: await buildUserRun(context, options), hub };
    return title + renderDropIn(parts);
  }
  const run = await renewRun(present.run, context, options);
  const { preparation, dropIn } = present;
  const { quoteExpandedCommand } = await import("../service/unit-file.js");
  const prepare = quoteExpandedCommand(...run, "--", ...hub);
  if (preparation) {
    return title + renderPreparationDropIn(await renewPreparation(preparation, prepare));
  }
  if (dropIn) return title + renewDropIn(dropIn, prepare);
  return title + renderDropIn({ kind: "user", run, hub });
}

/** Returns the text of this program's drop-in without its title, with another `run --prepare`. */
function renewDropIn(text: string, prepare: string): string {
  return text
    .replace(/^# \/.*\n/, "")
    .replace(/^(ExecStartPre=-?).*$/m, (_, start) => start + prepare);
}

/** Returns the command line of a unit's `run`, with this program and the options given here. */
async function renewRun(
  { launcher, args }: OwnCommand,
  { given }: Context,
  options: UnitOptions,
): Promise<string[]> {
  const { escapeVariables } = await import("../service/unit-file.js");
  const named = [...(await buildRunOptions(options)), ...given].map(escapeVariables);
  const kept = args.toSpliced(args.indexOf("run"), 1);
  const merged = new Map([...groupOptions(kept), ...groupOptions(named)]);
  return [...launcher, ...findOwnProgram().map(escapeVariables), "run", ...[...merged].flat(2)];
}

/** Returns the options among arguments, each with its values. */
function groupOptions(args: readonly string[]): [string, string[]][] {
  const options: [string, string[]][] = [];
  for (const arg of args) {
    const [, name, value] = /^(--[a-z-]+)(?:=(.*))?$/s.exec(arg) ?? [];
    if (name === undefined) options.at(-1)?.[1].push(arg);
    else options.push([name, value === undefined ? [] : [value]]);
  }
  return options;
}

/** Returns the commands before a unit's hub, with this command as `run --prepare`. */
async function renewPreparation(commands: readonly string[], prepare: string): Promise<string[]> {
  const { startsByRun } = await import("../hub/password-delivery.js");
  return commands.map((command) => {
    // The others apply to the command as it is written in the file.
    const [prefixes = ""] = /^[-+!]*/.exec(command) ?? [];
    return startsByRun(command) ? prefixes + prepare : command;
  });
}

async function buildSystemParts(context: Context, hub: string[], options: UnitOptions) {
  const { readRedisSettings, readServerJson, serverJsonPath } = await import(
    "../hub/server-json.js"
  );
  const { escapeVariables } = await import("../service/unit-file.js");
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
  return {
    kind: "system" as const,
    run: run.map(escapeVariables),
    hub,
    serverJson: file,
    credential,
    ...user,
  };
}

/**
 * Returns the unit that unlocks the keyring at boot: with --user a system unit, else a user unit.
 */
async function renderUnlockUnit(
  _: Context,
  _args: string[],
  options: UnitOptions,
): Promise<string> {
  const { renderKeyringUnit } = await import("../hub/units.js");
  const credential = resolveCredential(options, "hivemind-keyring");
  const { user } = options;
  const owner = user === undefined ? undefined : { user, uid: await findUserId(user) };
  return renderKeyringUnit({ credential, owner });
}

/** Returns the hub's command for a unit, with the absolute path of its program. */
async function resolveHubCommand(context: Context, args: string[]): Promise<string[]> {
  const { findProgram } = await import("../hub/interpreter.js");
  const { escapeVariables } = await import("../service/unit-file.js");
  const [name = "", ...rest] = args.length > 0 ? args : ["hivemind-core", "listen"];
  const found = await findProgram(name);
  if (found === undefined) {
    context.output.notice(`${name} is not on PATH; correct its path in the unit`);
  }
  return [found ?? `/usr/local/bin/${name}`, ...rest].map(escapeVariables);
}

async function buildHubPythonOption({ hubPython }: UnitOptions): Promise<string[]> {
  if (hubPython === undefined) return [];
  const { resolveHubPython } = await import("../hub/interpreter.js");
  return ["--hub-python", await resolveHubPython(hubPython)];
}

function resolveCredential({ credentialFile }: UnitOptions, name: string): string {
  if (credentialFile !== undefined) return expandPath(credentialFile);
  throw new StoreError("usage", "this unit needs a sealed credential", {
    hint: `Seal the secret with systemd-creds encrypt --name=${name} - FILE, and add --credential-file FILE.`,
  });
}

async function findUserId(user: string): Promise<number> {
  const { findUser } = await import("../process/users.js");
  const found = await findUser(user);
  if (found === undefined) throw new StoreError("usage", `no such user: ${user}`);
  return found.uid;
}
