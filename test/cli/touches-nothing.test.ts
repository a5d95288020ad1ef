/** What a command does outside of itself, seen by the kernel. */
import { readFile } from "node:fs/promises";
import { dirname } from "node:path";
import { expect, test } from "vitest";
import { root } from "../built.js";
import { Machine } from "./machine.js";

const calls =
  "trace=open,openat,creat,connect,socket,execve,unlink,unlinkat,rename,renameat,renameat2,mkdir,mkdirat,link,linkat,symlink,symlinkat,chmod,fchmodat,chown,fchownat,truncate";

/**
 * What `args` opens, makes, changes, runs and connects to, but for what Node.js itself does when it
 * starts.
 */
async function touched(machine: Machine, args: string[]): Promise<string[]> {
  const log = machine.path("trace");
  const { code } = await machine.run(args, {
    before: ["strace", "-f", "-qq", "-s", "4096", "-o", log, "-e", calls],
    // The cache of vitest.config.ts would write on behalf of Node.js.
    env: { NODE_DISABLE_COMPILE_CACHE: "1" },
  });
  expect(code).toBe(0);
  const lines = (await readFile(log, "utf8")).split("\n").filter((line) => line !== "");
  expect(lines.length).toBeGreaterThan(5);
  const [started = "", ...rest] = lines;
  expect(started).toContain("execve(");
  return rest.filter((line) => !/ENOENT|\+\+\+|---|resumed>/.test(line) && !isNodes(line));
}

/** Reading its own program, libraries and devices, and the system's settings. */
function isNodes(line: string): boolean {
  const path = /^\d+ +open(?:at)?\((?:AT_FDCWD, )?"([^"]+)", O_RDONLY/.exec(line)?.[1];
  if (path !== undefined) {
    return [
      root,
      dirname(process.execPath),
      "/lib",
      "/usr/lib",
      "/etc/",
      "/proc/",
      "/sys/",
      "/dev/",
    ].some((place) => path.startsWith(place));
  }
  // What it says itself: of a core dump, no memory.
  return line.includes('"/proc/self/coredump_filter"') || line.includes('"/dev/null"');
}

test.each([["--version"], ["--help"], ["backup", "--help"], ["bundle", "export", "--help"]])(
  "%s %s reads nothing but the program, makes nothing, and speaks to nobody",
  async (...args) => {
    const machine = await Machine.make();
    expect(await touched(machine, args)).toEqual([]);
    const trace = await readFile(machine.path("trace"), "utf8");
    expect(trace).not.toMatch(/\.node"/);
    expect(trace).not.toContain(`${root}node_modules/`);
  },
);

test("a command that opens a store is seen to: the trace shows files, libraries and the bus", async () => {
  const machine = await Machine.make();
  await machine.init();
  const lines = (await touched(machine, ["list-clients"])).join("\n");
  expect(lines).toContain("clients.db");
  expect(lines).toContain("config.json");
  expect(lines).toMatch(/connect\(.*AF_UNIX/);
  const trace = await readFile(machine.path("trace"), "utf8");
  expect(trace).toContain("node_sqlite3.node");
  expect(trace).toContain("keytar.node");
});
