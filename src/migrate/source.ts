/** The source of a migration: whether it changed, which programs still use it, and its removal. */
import { createHash } from "node:crypto";
import { dirname } from "node:path";
import { formatJson } from "../client/json.js";
import { jsonFiles, jsonPluginName } from "../databases/json.js";
import type { Endpoint } from "../databases/plugin.js";
import { DatabaseFactory, resolveLocation, withoutSource } from "../databases/registry.js";
import { sqlcipherPluginName, sqlitePluginName } from "../databases/sqlite.js";
import { StoreError } from "../errors.js";
import { removeFile, syncDirectory } from "../fs/atomic.js";
import { lstatIfExists, sha256File } from "../fs/read.js";
import { findLastingHolders, type Holder } from "../process/holders.js";
import { systemctlLine } from "../service/systemctl.js";
import { SystemdUnit } from "../service/systemd.js";
import { shellQuote } from "../text/escape.js";

/** @throws {@link StoreError} usage - if the source is not a JSON store */
export function assertRemovable({ name }: Endpoint): void {
  if (name === jsonPluginName) return;
  throw new StoreError("usage", `--remove-source only removes the files of ${jsonPluginName}`, {
    hint: "Leave out --remove-source, and remove the old database manually.",
  });
}

/**
 * Returns a checksum of the source for `assertUnchanged`; undefined if its JSON file is missing.
 *
 * For a JSON store, which may be removed later, the checksum is of the file. For other databases,
 * it is the sum of the records' checksums, so their order does not matter. It ignores `last_seen`.
 */
export async function checksumSource({ name, config }: Endpoint): Promise<string | undefined> {
  if (name === jsonPluginName) {
    const store = await resolveLocation(name, config);
    return (await lstatIfExists(store)) && (await sha256File(store));
  }
  await using source = await DatabaseFactory.create(name, config, { mode: "readonly" });
  let sum = 0n;
  for await (const client of source) {
    const text = formatJson({ ...client, last_seen: null });
    sum += BigInt(`0x${createHash("sha256").update(text).digest("hex")}`);
  }
  return sum.toString(16);
}

/**
 * Checks that no program has changed the source since its checksum was computed.
 *
 * @throws {@link StoreError} refused - if the source has changed
 */
export async function assertUnchanged(from: Endpoint, sum: string | undefined): Promise<void> {
  if ((await checksumSource(from)) === sum) return;
  const location = await resolveLocation(from.name, from.config);
  throw new StoreError("refused", `${location} has changed since the start of the migration`, {
    hint: "Stop the hub that writes to it, then run the command again with --merge.",
  });
}

/**
 * Finds the programs that keep using the source after the switch: the hub's unit if it is active,
 * and for a SQLite file every other process with the file open.
 *
 * @param unit - the name of the hub's unit
 * @returns a sentence for each program, with the command to restart it
 */
export async function findRemainingUsers(
  { name, config }: Endpoint,
  unit: string,
): Promise<string[]> {
  const sentences: string[] = [];
  const active: SystemdUnit[] = [];
  for (const kind of ["systemd-user", "systemd"] as const) {
    try {
      const found = await SystemdUnit.find(kind, unit);
      if (found.isUsable && (await found.state()).active) active.push(found);
    } catch (error) {
      if (!(error instanceof StoreError)) throw error;
    }
  }
  for (const { kind, name: found } of active) {
    const restart = systemctlLine(kind, `restart ${shellQuote(found)}`);
    sentences.push(`${found} is active, and uses its old store until it is restarted: ${restart}`);
  }
  if (name !== sqlcipherPluginName && name !== sqlitePluginName) return sentences;
  const path = await resolveLocation(name, config);
  const isOther = async ({ pid }: Holder) => {
    for (const service of active) if (await service.owns(pid)) return false;
    return true;
  };
  for (const { pid, command } of (await findLastingHolders(path, isOther)).holders) {
    sentences.push(
      `process ${pid} (${command}) has ${path} open, and uses it until it is restarted: kill ${pid}, then start it again`,
    );
  }
  return sentences;
}

/**
 * Removes the files of an unchanged JSON store and returns their paths.
 *
 * @throws {@link StoreError} refused - if the source has changed
 * @throws {@link StoreError} io - if a file cannot be removed
 */
export async function removeSource(from: Endpoint, sum: string | undefined): Promise<string[]> {
  const { store, version } = await jsonFiles(withoutSource(from.config));
  await assertUnchanged(from, sum);
  const removed: string[] = [];
  for (const path of [store, version]) {
    if (!(await lstatIfExists(path))) continue;
    await removeFile(path);
    removed.push(path);
  }
  await syncDirectory(dirname(store));
  return removed;
}
