/** Finds files that are mount points. */
import { readFile, realpath } from "node:fs/promises";
import { StoreError } from "../errors.js";

/**
 * Checks that another file can be renamed to this path. A bind-mounted file, as in a container,
 * cannot be replaced: the rename fails, and so does a hard link to the file.
 *
 * @throws {@link StoreError} refused - if the path is a mount point
 */
export async function assertNotMountPoint(path: string): Promise<void> {
  if (!(await mountPoints()).has(await realpath(path).catch(() => path))) return;
  throw new StoreError("refused", `${path} is a mount point, and cannot be replaced`, {
    hint: "Mount the directory of the file, not only the file, or run this where the file is not mounted. Nothing was changed.",
  });
}

/** Returns the mount points of this process, or none on a system without /proc. */
async function mountPoints(): Promise<Set<string>> {
  const text = await readFile("/proc/self/mountinfo", "utf8").catch(() => "");
  const paths = text.split("\n").map((line) => line.split(" ")[4] ?? "");
  // Blanks, tabs, line breaks and backslashes are written in octal.
  return new Set(
    paths.map((path) =>
      path.replace(/\\(\d{3})/g, (_, octal) => String.fromCharCode(Number.parseInt(octal, 8))),
    ),
  );
}
