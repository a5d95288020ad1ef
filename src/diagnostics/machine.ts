/** Checks whether swap or core dumps can write a passphrase from memory to a disk. See proc(5). */
import { readdir, readFile, readlink, realpath, stat } from "node:fs/promises";
import { basename, join } from "node:path";
import { hasCode } from "../errors.js";
import { decodeField } from "../fs/mount.js";
import { type Check, checksNamed } from "./check.js";

/** @param root - replaces `/` in tests */
export async function checkSwap(root = "/"): Promise<Check> {
  const { good, warning } = checksNamed("swap");
  const plain: string[] = [];
  for (const area of await readSwapAreas(root)) {
    if (!(await isEncrypted(area, root))) plain.push(area);
  }
  if (plain.length === 0) return good("none, encrypted, or in memory");
  return warning(
    `memory can be written to ${plain.join(", ")}, which is not known to be encrypted`,
    "Encrypt it (crypttab(5), option swap), use zram, or turn it off with swapoff -a.",
  );
}

async function readSwapAreas(root: string): Promise<string[]> {
  const text = await readFile(join(root, "proc/swaps"), "utf8").catch(emptyIfAbsent);
  return text
    .split("\n")
    .slice(1)
    .map((line) => line.split(/\s/)[0] ?? "")
    .filter(Boolean)
    .map((name) => decodeField(name));
}

/** Returns whether a swap area is zram, or is on a disk encrypted by dm-crypt. */
async function isEncrypted(area: string, root: string): Promise<boolean> {
  if (area.startsWith("/dev/")) {
    const device = await realpath(area).catch(() => area);
    return isEncryptedDevice(basename(device), root);
  }
  try {
    const { dev } = await stat(join(root, area));
    const number = `${(dev >> 8) & 0xfff}:${(dev & 0xff) | ((dev >> 12) & 0xfff00)}`;
    return await isEncryptedDevice(
      basename(await readlink(join(root, "sys/dev/block", number))),
      root,
    );
  } catch {
    return false;
  }
}

/** Returns whether a volume is encrypted, which requires that every device below it is. */
async function isEncryptedDevice(name: string, root: string): Promise<boolean> {
  if (name.startsWith("zram")) return true;
  const device = join(root, "sys/class/block", name);
  const kind = await readFile(join(device, "dm/uuid"), "utf8").catch(() => "");
  if (kind.startsWith("CRYPT-")) return true;
  const below = await readdir(join(device, "slaves")).catch(() => []);
  if (below.length === 0) return false;
  for (const part of below) if (!(await isEncryptedDevice(part, root))) return false;
  return true;
}

/**
 * Checks whether a crash of the hub writes its memory to a file. If the hub's limit is unknown,
 * checks the limit of this process, which is that of programs started from the same shell.
 *
 * @param hub - `pid` is the hub's process, undefined if it does not run or is unknown; `fix` is the
 *   command that sets the limit in the hub's unit
 * @param root - replaces `/` in tests
 */
export async function checkCoreDumps(
  hub: { pid: number | undefined; fix?: string | undefined },
  root = "/",
): Promise<Check> {
  const { pid, fix } = hub;
  const { good, warning } = checksNamed("core-dumps");
  const ofHub = pid === undefined ? undefined : await readCoreLimit(String(pid), root);
  const limit = ofHub ?? (await readCoreLimit("self", root));
  const programs = ofHub === undefined ? "programs started from here" : "the hub";
  if (limit === undefined || limit === "0") {
    return good(`${programs} leave${ofHub === undefined ? "" : "s"} no core dumps`);
  }
  const pattern = (
    await readFile(join(root, "proc/sys/kernel/core_pattern"), "utf8").catch(emptyIfAbsent)
  ).trim();
  const where = pattern.startsWith("|")
    ? `passed to ${pattern.slice(1).split(" ")[0]}`
    : `written as "${pattern || "core"}"`;
  return warning(
    `when ${programs} crash${ofHub === undefined ? ", their" : "es, its"} memory, including the passphrase, is ${where}`,
    ofHub === undefined || fix === undefined
      ? "Set LimitCORE=0 in the hub's unit, or in the shell that starts the hub: ulimit -c 0"
      : fix,
  );
}

/**
 * Returns the soft limit of core dumps, in bytes or "unlimited"; undefined if the process cannot be
 * inspected.
 */
async function readCoreLimit(process: string, root: string): Promise<string | undefined> {
  const limits = await readFile(join(root, "proc", process, "limits"), "utf8").catch(() => "");
  return /^Max core file size\s+(\S+)/m.exec(limits)?.[1];
}

function emptyIfAbsent(error: unknown): string {
  if (hasCode(error, "ENOENT")) return "";
  throw error;
}
