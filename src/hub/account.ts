/** The account of a hub's programs: root runs no program that another user can change. */
import { readdir, readlink } from "node:fs/promises";
import { tmpdir } from "node:os";
import { dirname, join, resolve } from "node:path";
import { type HubAccount, hubAccount } from "../config/hub-account.js";
import type { Environment } from "../config/paths.js";
import { StoreError } from "../errors.js";
import { lstatIfExists } from "../fs/read.js";
import { run } from "../process/run.js";
import { type HubUnit, isRootName, readEnvironment } from "../service/hub-units.js";
import { queryLimitMs, show, type UnitName } from "../service/systemctl.js";

/** The environment of a hub's program, and its user if that is not the user of this process. */
export interface HubProcess {
  readonly environment: Environment;
  readonly uid?: number | undefined;
  readonly gid?: number | undefined;
}

/** Returns the account of the hub on which this process works. */
export function currentHub(): HubProcess {
  return hubAccount() ?? { environment: process.env };
}

/**
 * Returns the account of the hub of a unit of the system.
 *
 * @throws {@link StoreError} refused - if there is no such user
 * @throws {@link StoreError} service - if the manager does not respond
 */
export async function accountOfUnit(name: string): Promise<HubAccount> {
  const [{ User: user } = {}] = await show("systemd", ["User"], [name]);
  const ids = isRootName(user) ? { uid: 0, gid: 0 } : await findUser(user ?? "", name);
  return { ...ids, environment: await readEnvironment({ manager: "systemd", name }) };
}

/** Returns how a unit starts a hub; for root, with the user of a unit of the system. */
export async function processOfUnit(unit: UnitName): Promise<HubProcess> {
  if (unit.manager === "systemd" && process.geteuid?.() === 0) return accountOfUnit(unit.name);
  return { environment: await readEnvironment(unit) };
}

/** Returns the same for a unit that was found, which can be a template. */
export async function processOfHub({ name, user, environment }: HubUnit): Promise<HubProcess> {
  const isOthers = user !== undefined && process.geteuid?.() === 0;
  return isOthers ? { ...(await findUser(user, name)), environment } : { environment };
}

async function findUser(user: string, of: string): Promise<{ uid: number; gid: number }> {
  const { stdout } = await run("getent", ["passwd", user], { timeoutMs: queryLimitMs });
  const [uid, gid] = stdout.split(":").slice(2, 4).map(Number);
  if (uid !== undefined && gid !== undefined) return { uid, gid };
  throw new StoreError("refused", `${of} belongs to a user that does not exist: ${user}`, {
    hint: `Check the user with: getent passwd ${user}`,
  });
}

/** Python's variables and those that decide on its packages. Root's others are not passed on. */
const passedOn = /^(?:PATH|HOME|LANG|LC_\w+|LD_LIBRARY_PATH|VIRTUAL_ENV|PYTHON\w*|XDG_\w+)$/;

/**
 * Returns the account in which an interpreter must run. If root would run it as root, but another
 * user can change it or its packages, that is the account of this user.
 *
 * @throws {@link StoreError} refused - if that user does not exist
 */
export async function hubProcess(python: string, hub: HubProcess): Promise<HubProcess> {
  if (process.geteuid?.() !== 0 || (hub.uid ?? 0) !== 0) return hub;
  const { HOME, PYTHONHOME, PYTHONUSERBASE, PYTHONPATH, VIRTUAL_ENV } = hub.environment;
  const variables = [
    HOME,
    PYTHONHOME,
    PYTHONUSERBASE,
    VIRTUAL_ENV,
    ...(PYTHONPATH ?? "").split(":"),
  ];
  const paths = [python, ...(await packageDirectories(python)), ...variables];
  for (const path of paths) {
    const owner = path ? await findOtherOwner(path) : undefined;
    if (path === undefined || owner === undefined) continue;
    const environment = Object.entries(hub.environment).filter(([name]) => passedOn.test(name));
    return {
      ...(await findUser(`${owner}`, path)),
      environment: Object.fromEntries(environment),
    };
  }
  return hub;
}

/** Returns the directories of the packages of a virtual environment. */
async function packageDirectories(python: string): Promise<string[]> {
  const lib = join(dirname(dirname(python)), "lib");
  const names = await readdir(lib).catch(() => []);
  return names
    .filter((name) => name.startsWith("python"))
    .flatMap((name) => ["site-packages", "dist-packages"].map((each) => join(lib, name, each)));
}

/** As many links as Linux follows in a path. */
const longestChain = 40;

/**
 * Returns the owner of a path, or of a directory or link on the way to it, that is not root;
 * undefined if all are root's.
 */
async function findOtherOwner(path: string, links = longestChain): Promise<number | undefined> {
  const names = resolve(path).split("/").slice(1);
  let current = "/";
  for (const [index, name] of names.entries()) {
    const directory = current;
    current = join(directory, name);
    const stats = await lstatIfExists(current);
    if (stats === undefined) return undefined;
    if (stats.uid !== 0n) return Number(stats.uid);
    if (!stats.isSymbolicLink() || links === 0) continue;
    const target = resolve(directory, await readlink(current), ...names.slice(index + 1));
    return findOtherOwner(target, links - 1);
  }
  return undefined;
}

/** How long creating or removing a directory may take. */
const directoryLimitMs = 60_000;

/** Creates a temporary directory as the user of a hub. */
export async function makeTemporaryDirectory(hub: HubProcess): Promise<string> {
  const parent = hub.uid === undefined ? tmpdir() : "/tmp";
  return (await runAs(hub, "mktemp", "-d", join(parent, "hivemind-sqlcipher-XXXXXXXX"))).trim();
}

/** Creates a private directory as the user of a hub. */
export async function makeDirectoryAs(hub: HubProcess, path: string): Promise<void> {
  await runAs(hub, "mkdir", "-m", "700", "--", path);
}

/**
 * Removes a directory, with its contents, as the user of a hub. As root, it could remove the files
 * of another user: the hub's user can replace a subdirectory by a link while it is removed.
 */
export async function removeDirectoryAs(hub: HubProcess, path: string): Promise<void> {
  await runAs(hub, "rm", "-rf", "--", path);
}

/** Returns whether the user of a hub can write to a path. */
export async function canWriteAs({ uid, gid }: HubProcess, path: string): Promise<boolean> {
  const account = { uid, gid, environment: {} };
  const { code } = await run("test", ["-w", path], { timeoutMs: directoryLimitMs, account });
  return code === 0;
}

async function runAs({ uid, gid }: HubProcess, program: string, ...args: string[]) {
  const account = { uid, gid, environment: {} };
  const outcome = await run(program, args, { timeoutMs: directoryLimitMs, account });
  if (outcome.code === 0) return outcome.stdout;
  const why = outcome.stderr || outcome.failure || `exit code ${outcome.code}`;
  throw new StoreError("io", `${program} failed on ${args.at(-1)}: ${why}`);
}
