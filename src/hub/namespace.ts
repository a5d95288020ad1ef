/**
 * Runs the hub in a new mount namespace, in which a copy of `server.json` in memory covers the real
 * file.
 *
 * The namespace, the memory and the hub end together. No other process sees the copy, and nothing
 * has to be cleaned up, however the hub or this process ends.
 */
import { spawn } from "node:child_process";
import { readFileSync, statSync } from "node:fs";
import { Readable, Writable } from "node:stream";
import { text } from "node:stream/consumers";
import { StoreError } from "../errors.js";
import { supervisionScript, waitForExit } from "./child.js";

/**
 * Runs inside the namespace, with the right to mount. Reads the contents of the file from
 * descriptor 3, and writes an error or "ready" to descriptor 4.
 *
 * Mounts memory on a directory, writes the file there, binds the file over the real file, and
 * unmounts the directory: the bind mount keeps the memory alive. Compares the file's size, because
 * a hub that reads a truncated file uses its defaults.
 */
const setUpScript = `
file=$1 size=$2 stage=$3 confine=$4
shift 4
set -e
mount -t tmpfs -o size=16m,mode=0700,nosuid,nodev,noexec hivemind-sqlcipher "$stage"
(umask 077 && cat <&3 >"$stage/server.json")
[ "$(wc -c <"$stage/server.json")" -eq "$size" ]
mount --bind "$stage/server.json" "$file"
mount -o remount,bind,ro,nosuid,nodev,noexec "$file"
umount "$stage"
echo ready >&4
exec 2>&5 3<&- 4>&- 5>&-
${supervisionScript}`;

/**
 * For an ordinary user: a user namespace that contains only this user. The hub starts without the
 * namespace's capabilities.
 */
const asUser = {
  unshare: ["--user", "--map-current-user", "--keep-caps", "--mount"],
  confine: "--bounding-set=-all --inh-caps=-all --ambient-caps=-all",
};

/** For a user with the right to mount: needs no user namespace, and the hub keeps all rights. */
const asRoot = { unshare: ["--mount"], confine: "" };

/** The bit of CAP_SYS_ADMIN, the right to mount, in a process's capabilities. */
const capSysAdmin = 1n << 21n;

/**
 * Starts the hub's `command` with the given contents at `file`. `exitCode` resolves when the hub
 * has ended.
 *
 * @throws {@link StoreError} refused - if the system does not allow such a namespace
 */
export async function startInNamespace(
  command: readonly string[],
  file: string,
  contents: string,
): Promise<{ exitCode: Promise<number> }> {
  const bytes = Buffer.from(contents);
  const { unshare, confine } = canMount() ? asRoot : asUser;
  const args = [file, `${bytes.length}`, findStageDirectory(file), confine, `${process.pid}`];
  const hub = spawn(
    "/bin/sh",
    // Redirect first: errors of unshare must reach descriptor 4 too.
    [
      ...["-c", 'exec 5>&2 2>&4; exec unshare "$@"', "sh", ...unshare, "--"],
      ...["/bin/sh", "-c", setUpScript, "hivemind-sqlcipher", ...args, ...command],
    ],
    { stdio: ["inherit", "inherit", "inherit", "pipe", "pipe"] },
  );
  const exitCode = waitForExit(hub);
  const [input, report] = [hub.stdio[3], hub.stdio[4]];
  if (!(input instanceof Writable) || !(report instanceof Readable))
    throw new Error("descriptors 3 and 4 are no pipes");
  // After an early failure the shell does not read its input. The report has the reason.
  input.on("error", () => undefined).end(bytes);
  const output = await text(report);
  bytes.fill(0);
  if (output.endsWith("ready\n")) return { exitCode };
  await exitCode;
  throw new StoreError(
    "refused",
    `no mount namespace could be created for the hub: ${output.trim() || "unshare ended early"}`,
    {
      hint: "Allow unprivileged user namespaces, use the unit of run --print-unit system, or add --private-config.",
    },
  );
}

function canMount(): boolean {
  const status = readFileSync("/proc/self/status", "latin1");
  const effective = /^CapEff:\s*([0-9a-f]+)/m.exec(status)?.[1] ?? "0";
  return (BigInt(`0x${effective}`) & capSysAdmin) !== 0n;
}

/** Returns an existing directory for a temporary mount. The file must not be below it. */
function findStageDirectory(file: string): string {
  for (const directory of ["/dev/shm", "/tmp", "/mnt"]) {
    const stats = statSync(directory, { throwIfNoEntry: false });
    if (stats?.isDirectory() && !file.startsWith(`${directory}/`)) return directory;
  }
  throw new StoreError(
    "refused",
    `cannot mount memory on /dev/shm, /tmp or /mnt: they do not exist, or contain ${file}`,
  );
}
