/** Where memory, and with it a passphrase, could end up on a disk: swap and core dumps. See proc(5). */
import { readdir, readFile, readlink, realpath, stat } from "node:fs/promises";
import { basename, join } from "node:path";
import { hasCode } from "../errors.js";
import { type Check, finding, good } from "./check.js";

/** @param root stands for `/`, for the tests. */
export async function checkSwap(root = "/"): Promise<Check[]> {
  if (process.platform !== "linux") return [good("swap", "macOS encrypts its swap")];
  const plain: string[] = [];
  for (const area of await swapAreas(root)) {
    if (!(await isEncrypted(area, root))) plain.push(area);
  }
  if (plain.length === 0) return [good("swap", "there is none, or it is encrypted or in memory")];
  return [
    finding(
      "swap",
      "warning",
      `memory may be written to ${plain.join(", ")}, which is not known to be encrypted`,
      "encrypt it (a random key a boot: crypttab(5), option swap), use zram, or switch it off: swapoff -a",
    ),
  ];
}

async function swapAreas(root: string): Promise<string[]> {
  const text = await readFile(join(root, "proc/swaps"), "utf8").catch(nothingIfAbsent);
  return text
    .split("\n")
    .slice(1)
    .map((line) => line.split(/\s/)[0] ?? "")
    .filter(Boolean)
    .map((name) =>
      name.replace(/\\(\d{3})/g, (_, octal) => String.fromCharCode(parseInt(octal, 8))),
    );
}

/** Whether a swap partition, or the disk below a swap file, is dm-crypt's; zram is memory. */
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

/** A device is as safe as what it lies on: a volume in an encrypted one is encrypted. */
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
 * @param pid the hub's process, if it runs and is known.
 * @param root stands for `/`, for the tests.
 */
export async function checkCoreDumps(pid: number | undefined, root = "/"): Promise<Check[]> {
  if (process.platform !== "linux") return [];
  const ofHub = pid === undefined ? undefined : await coreLimit(String(pid), root);
  const limit = ofHub ?? (await coreLimit("self", root));
  const who = ofHub === undefined ? "programs started from here" : "the hub";
  if (limit === undefined || limit === "0") {
    return [good("core-dumps", `${who} leave${ofHub === undefined ? "" : "s"} none`)];
  }
  const pattern = (
    await readFile(join(root, "proc/sys/kernel/core_pattern"), "utf8").catch(nothingIfAbsent)
  ).trim();
  const where = pattern.startsWith("|")
    ? `handed to ${pattern.slice(1).split(" ")[0]}`
    : `written as "${pattern || "core"}"`;
  return [
    finding(
      "core-dumps",
      "warning",
      `when ${who} crash${ofHub === undefined ? "" : "es"}, the memory, passphrase included, is ${where}`,
      "LimitCORE=0 in the hub's unit (run --print-unit has it), or ulimit -c 0 in the shell that starts it",
    ),
  ];
}

/** The soft limit, in bytes or as "unlimited"; undefined if the process may not be looked into. */
async function coreLimit(process: string, root: string): Promise<string | undefined> {
  const limits = await readFile(join(root, "proc", process, "limits"), "utf8").catch(() => "");
  return /^Max core file size\s+(\S+)/m.exec(limits)?.[1];
}

function nothingIfAbsent(error: unknown): string {
  if (hasCode(error, "ENOENT")) return "";
  throw error;
}
