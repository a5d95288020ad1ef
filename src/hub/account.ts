/**
 * Finds the account in which a program of a hub runs: its user and its environment. Root runs no
 * program that another user can change.
 */
import { readdir, readlink } from "node:fs/promises";
import { dirname, join, resolve } from "node:path";
import { type HubAccount, hubAccount } from "../config/hub-account.js";
import { linkLimit } from "../config/paths.js";
import { StoreError } from "../errors.js";
import { lstatIfExists } from "../fs/read.js";
import { isRoot } from "../fs/user.js";
import type { Account } from "../process/run.js";
import { findUser, type User } from "../process/users.js";
import { type HubUnit, isRootName, readEnvironment } from "../service/hub-units.js";
import { show, type UnitName } from "../service/systemctl.js";

/** Returns the account of the hub that root works for, or else this process's own environment. */
export function currentAccount(): Account {
  return hubAccount() ?? { environment: process.env };
}

/**
 * Returns the account in which a system unit runs.
 *
 * @throws {@link StoreError} refused - if its user does not exist
 * @throws {@link StoreError} service - if the manager does not respond
 */
export async function findSystemUnitAccount(name: string): Promise<HubAccount> {
  const [{ User: user } = {}] = await show("systemd", ["User"], [name]);
  const ids = isRootName(user) ? { uid: 0, gid: 0 } : await findIds(user ?? "", name);
  return { ...ids, environment: await readEnvironment({ manager: "systemd", name }) };
}

/**
 * Returns the account in which a unit runs. Contains a user only for a system unit, and only if
 * this process is root.
 */
export async function findUnitAccount(unit: UnitName): Promise<Account> {
  if (unit.manager === "systemd" && isRoot()) return findSystemUnitAccount(unit.name);
  return { environment: await readEnvironment(unit) };
}

/**
 * Returns the account of a unit whose properties are known. Unlike `findUnitAccount`, accepts a
 * template, which systemd cannot be asked about.
 *
 * @throws {@link StoreError} refused - if its user does not exist
 */
export async function findHubUnitAccount({ name, user, environment }: HubUnit): Promise<Account> {
  const isOtherUser = user !== undefined && isRoot();
  return isOtherUser ? { ...(await findIds(user, name)), environment } : { environment };
}

/**
 * @param user - the name or the number of the user
 * @param subject - the unit or path that belongs to the user, for the error
 */
async function findIds(user: string, subject: string): Promise<Pick<User, "uid" | "gid">> {
  const found = await findUser(user);
  if (found !== undefined) return { uid: found.uid, gid: found.gid };
  throw new StoreError("refused", `${subject} belongs to a user that does not exist: ${user}`, {
    hint: `Check the user with: getent passwd ${user}`,
  });
}

/** The variables that Python needs to find its packages. Another user gets no others of root. */
const passedOn = /^(?:PATH|HOME|LANG|LC_\w+|LD_LIBRARY_PATH|VIRTUAL_ENV|PYTHON\w*|XDG_\w+)$/;

/**
 * Returns the account in which an interpreter must run. If root would run an interpreter that
 * another user can change, or packages of another user, returns the account of the other user.
 *
 * @throws {@link StoreError} refused - if the other user does not exist
 */
export async function resolvePythonAccount(python: string, hub: Account): Promise<Account> {
  if (!isRoot() || (hub.uid ?? 0) !== 0) return hub;
  const { HOME, PYTHONHOME, PYTHONUSERBASE, PYTHONPATH, VIRTUAL_ENV } = hub.environment;
  const paths = [
    python,
    ...(await packageDirectories(python)),
    HOME,
    PYTHONHOME,
    PYTHONUSERBASE,
    VIRTUAL_ENV,
    ...(PYTHONPATH ?? "").split(":"),
  ];
  for (const path of paths) {
    const owner = path ? await findOtherOwner(path) : undefined;
    if (path === undefined || owner === undefined) continue;
    const variables = Object.entries(hub.environment).filter(([name]) => passedOn.test(name));
    return {
      ...(await findIds(`${owner}`, path)),
      environment: Object.fromEntries(variables),
    };
  }
  return hub;
}

async function packageDirectories(python: string): Promise<string[]> {
  const lib = join(dirname(dirname(python)), "lib");
  const names = await readdir(lib).catch(() => []);
  return names
    .filter((name) => name.startsWith("python"))
    .flatMap((name) => ["site-packages", "dist-packages"].map((each) => join(lib, name, each)));
}

/**
 * Returns the first owner other than root of a path, its directories and the links in it; undefined
 * if root owns all of them, or if the path does not exist.
 */
async function findOtherOwner(path: string, links = linkLimit): Promise<number | undefined> {
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
