/** Finds mount points and the devices mounted on them. */
import { readFile, realpath } from "node:fs/promises";
import { StoreError, systemError } from "../errors.js";
import { statIfExists } from "./read.js";

/**
 * Checks that a file is no mount point. A bind-mounted file, as in a container, cannot be replaced:
 * the rename fails, and so does a hard link to the file.
 *
 * @throws {@link StoreError} refused - if the path is a mount point
 */
export async function assertNotMountPoint(path: string): Promise<void> {
  if (!(await readMountPoints()).has(await realpath(path).catch(() => path))) return;
  throw new StoreError("refused", `${path} is a mount point, and cannot be replaced`, {
    hint: "Mount the directory of the file, not only the file, or run this where the file is not mounted. Nothing was changed.",
  });
}

interface Mount {
  readonly point: string;
  /** The device, such as `/dev/sdb1`, or another text, such as `tmpfs`. */
  readonly source: string;
}

/**
 * Returns the mount points that a process sees.
 *
 * @param pid - default: this process
 */
export async function readMountPoints(pid?: number): Promise<Set<string>> {
  return new Set((await readMounts(pid)).map(({ point }) => point));
}

/** Returns the mounts of a process in their order, or none on a system without /proc. */
async function readMounts(pid?: number): Promise<Mount[]> {
  const text = await readFile(`/proc/${pid ?? "self"}/mountinfo`, "utf8").catch(() => "");
  return text.split("\n").map((line) => {
    // The type and the source follow optional fields and a dash.
    const [mount = "", device = ""] = line.split(" - ");
    return { point: decodeField(mount.split(" ")[4]), source: decodeField(device.split(" ")[1]) };
  });
}

/** Decodes the octal escapes of blanks, tabs, line breaks and backslashes in a table of `/proc`. */
export function decodeField(field = ""): string {
  return field.replace(/\\(\d{3})/g, (_, octal) => String.fromCharCode(Number.parseInt(octal, 8)));
}

/** The directory with udev's links, named after the labels of file systems, to their devices. */
const labelDirectory = "/dev/disk/by-label";

/**
 * Checks that a directory is on the file system with this label.
 *
 * @throws {@link StoreError} refused - if it is on another file system, or no device has the label
 * @throws {@link StoreError} io - if the directory or a device cannot be inspected
 */
export async function assertDeviceLabel(directory: string, label: string): Promise<void> {
  const labelled = await statIfExists(`${labelDirectory}/${encodeLabel(label)}`);
  if (labelled === undefined) {
    throw new StoreError("refused", `no connected device has the label "${label}"`, {
      hint: "Connect the device. List the labels with: lsblk -o NAME,LABEL,MOUNTPOINTS",
    });
  }
  const { point, source } = await findMount(directory);
  const mounted = source.startsWith("/") ? await statIfExists(source) : undefined;
  if (mounted?.isBlockDevice() && mounted.rdev === labelled.rdev) return;
  throw new StoreError(
    "refused",
    `${directory} is not on the device with the label "${label}", but on ${source}, mounted at ${point}`,
    { hint: "Mount the device, and name a directory on it." },
  );
}

/** Returns the mount of a path: the last mount at the longest mount point above the path. */
async function findMount(path: string): Promise<Mount> {
  let real: string;
  try {
    real = await realpath(path);
  } catch (error) {
    throw systemError(error, `cannot inspect ${path}`);
  }
  let found: Mount = { point: "/", source: "an unknown device" };
  for (const mount of await readMounts()) {
    const isAbove = mount.point === "/" || `${real}/`.startsWith(`${mount.point}/`);
    if (mount.point !== "" && isAbove && mount.point.length >= found.point.length) found = mount;
  }
  return found;
}

/** Encodes a label as udev does in the names of its links. */
function encodeLabel(label: string): string {
  return label.replace(
    // biome-ignore lint/suspicious/noControlCharactersInRegex: the range is all of ASCII
    /[\x00-\x7f]/g,
    (character) =>
      /[A-Za-z0-9#+\-.:=@_]/.test(character)
        ? character
        : `\\x${character.charCodeAt(0).toString(16).padStart(2, "0")}`,
  );
}
