/**
 * Runs the command blocks of README.md and docs/guide in a machine of their own: a system manager,
 * a user manager, a keyring, a network, and a real hub. A block that this test cannot run says
 * above it what does: `<!-- executed by FILE -->`.
 */
import { execFile } from "node:child_process";
import { existsSync, readdirSync, readFileSync } from "node:fs";
import { chmod, mkdir, readFile, writeFile } from "node:fs/promises";
import { basename, dirname, join } from "node:path";
import { promisify } from "node:util";
import { describe, expect, test } from "vitest";
import { root } from "../built.js";
import { hubScript } from "../hub/support.js";
import { temporaryFolder } from "../store/temporary.js";

const exec = promisify(execFile);

interface Block {
  readonly script: string;
  /** What runs the block, if this test does not. */
  readonly executedBy: string | undefined;
}

function blocksOf(page: string): Block[] {
  const text = readFileSync(join(root, page), "utf8");
  const blocks = text.matchAll(/(?:<!-- executed by (\S+) -->\n)?```sh\n([\s\S]*?)```/g);
  return [...blocks].map(([, executedBy, script = ""]) => ({ script, executedBy }));
}

const pages = [
  "README.md",
  ...readdirSync(join(root, "docs/guide")).map((name) => `docs/guide/${name}`),
];

describe.each(pages)("%s", (page) => {
  const blocks = blocksOf(page);
  const own = blocks.filter(({ executedBy }) => executedBy === undefined);

  test("names what runs its other blocks", () => {
    for (const { executedBy, script } of blocks) {
      if (executedBy === undefined) continue;
      expect(existsSync(join(root, executedBy)), `${executedBy}: ${script}`).toBe(true);
    }
  });

  // Debian 12 does not have the directory, and a reader may follow only one of the blocks.
  test("creates the directory of sealed credentials in each block that writes to it", () => {
    for (const { script } of blocks.filter((block) => block.script.includes("systemd-creds"))) {
      expect(script).toMatch(/mkdir -p -m 700 \/etc\/credstore\.encrypted\n[\s\S]*systemd-creds/);
    }
  });

  if (own.length === 0) return;
  test("its command blocks run as they are written", async () => {
    const { output, failed } = await runBlocks(page, own);
    expect(failed, output).toBeUndefined();
  }, 420_000);
});

/**
 * Runs a page's blocks one after the other. `prepare.sh` defines what the pages take for granted, a
 * function `PAGE_before_N` for what exists before block N of a page.
 */
async function runBlocks(
  page: string,
  blocks: readonly Block[],
): Promise<{ output: string; failed: string | undefined }> {
  // The session keeps only its home of what is below /tmp.
  const home = join(await temporaryFolder(), "home");
  const bin = join(home, "bin");
  await mkdir(bin, { recursive: true });
  await executable(join(bin, "hivemind-sqlcipher"), [process.execPath, `${root}dist/cli/main.js`]);
  await executable(join(bin, "sudo"), []);
  const hub = await hubScript("development");
  const name = basename(page, ".md").replaceAll("-", "_").toLowerCase();
  const steps = blocks.flatMap(({ script }, index) => [
    `echo "== before block ${index + 1}" >&2`,
    `! declare -F ${name}_before_${index + 1} >/dev/null || ${name}_before_${index + 1}`,
    `echo "== block ${index + 1}" >&2`,
    atHome(script),
  ]);
  const script = [
    "set -euo pipefail",
    `export PROJECT=${root} HUB_ENVIRONMENT=${dirname(dirname(hub))}`,
    `export PATH=${bin}:${dirname(hub)}:$PATH`,
    'mkdir -p "$HOME/srv/backup" "$HOME"/media/{usb,disk,stick} "$HOME/work"',
    'cd "$HOME/work"',
    `ln -s ${root}{package.json,dist,node_modules,tools} . && cp -r ${root}examples .`,
    atHome(await readFile(join(root, "test/docs/prepare.sh"), "utf8")),
    ...steps,
  ].join("\n");
  const file = join(home, "blocks.sh");
  await writeFile(file, script);
  const session = ["--system", home, "bash", file];
  try {
    const { stdout, stderr } = await exec(join(root, "scripts/private-session"), session);
    return { output: stdout + stderr, failed: undefined };
  } catch (error) {
    const { stdout, stderr } = error as { stdout: string; stderr: string };
    return { output: stdout + stderr, failed: page };
  }
}

/** The disks and file names that the pages use as examples become those of the session. */
function atHome(script: string): string {
  return script
    .replaceAll("/srv/backup", '"$HOME"/srv/backup')
    .replaceAll("/media/", '"$HOME"/media/')
    .replaceAll("clients.2026-11-24T18-50-00Z.db", '"$BACKUP"')
    .replaceAll("0123456789abcdef", '"$KEY_ID"');
}

async function executable(path: string, command: readonly string[]): Promise<void> {
  await writeFile(path, `#!/bin/sh\nexec ${[...command, '"$@"'].join(" ")}\n`);
  await chmod(path, 0o755);
}
