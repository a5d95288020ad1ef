/**
 * The npm package with SQLCipher's addon ready-made: it is installed without a compiler, runs on
 * each Node.js that is supported, refuses a changed addon, and uses a compiled one only when told
 * to.
 */
import { execFile, execFileSync } from "node:child_process";
import { readFileSync, realpathSync } from "node:fs";
import { cp, mkdir, mkdtemp, readdir, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { basename, dirname, join } from "node:path";
import { promisify } from "node:util";
import { afterAll, beforeAll, expect, test } from "vitest";
import { root } from "../built.js";
import { proving } from "../prove-report.js";
import { temporaryFolder } from "../store/temporary.js";
import { compiledAddon } from "./addon.js";

const exec = promisify(execFile);
// Compiling the addons, which the other test file of the packages may be doing.
const timeoutMs = proving ? 7_200_000 : 1_200_000;
const native = execFileSync("dpkg", ["--print-architecture"], { encoding: "utf8" }).trim();

/** The versions of Node.js that packaging/node.json pins: one of each line that is supported. */
const nodeVersions = Object.keys(
  (
    JSON.parse(readFileSync(join(root, "packaging/node.json"), "utf8")) as {
      integrity: Record<string, unknown>;
    }
  ).integrity,
);

/** A directory in which the package is installed. */
let installed: string;
let archive: string;
let directory: string;

/** A directory for PATH with what npm and the package's scripts need, and no compiler. */
async function pathWithoutCompiler(directory: string): Promise<string> {
  const bin = join(directory, "bin");
  await mkdir(bin);
  for (const name of ["node", "npm", "sh", "env"]) {
    const target = execFileSync("sh", ["-c", `command -v ${name}`], { encoding: "utf8" }).trim();
    await exec("ln", ["-s", target, join(bin, name)]);
  }
  return bin;
}

beforeAll(async () => {
  directory = await mkdtemp(join(tmpdir(), "hivemind-npm-"));
  const build = join(directory, "build");
  await exec(join(root, "packaging/build"), [build], { maxBuffer: 1 << 24 });
  const args = [build, directory, ...(proving ? ["amd64", "arm64"] : [native])];
  const { stdout } = await exec(join(root, "packaging/build-npm"), args, {
    env: { ...process.env, ...compiledAddon },
  });
  archive = stdout.trim();
  installed = join(directory, "installed");
  await mkdir(installed);
  await writeFile(join(installed, "package.json"), '{"type": "module"}');
  const PATH = await pathWithoutCompiler(directory);
  await exec("npm", ["install", "--no-audit", "--no-fund", archive], {
    cwd: installed,
    env: { ...process.env, PATH },
  });
}, timeoutMs);

afterAll(() => rm(directory, { recursive: true, force: true }));

const addon = () =>
  join(
    ...[installed, "node_modules/hivemind-sqlcipher/native"],
    ...[`linux-${process.arch}`, "node_sqlite3.node"],
  );

async function command(
  args: string[],
  env: NodeJS.ProcessEnv = {},
  node = process.execPath,
): Promise<{ code: number; stdout: string; stderr: string }> {
  const program = join(installed, "node_modules/.bin/hivemind-sqlcipher");
  const options = { env: { ...process.env, ...env }, encoding: "utf8" as const };
  try {
    return { code: 0, ...(await exec(node, [program, ...args], options)) };
  } catch (error) {
    return error as { code: number; stdout: string; stderr: string };
  }
}

/** A store whose passphrase is in a file, and the options that name it. */
async function madeStore(): Promise<string[]> {
  const directory = await temporaryFolder();
  const passphrase = join(directory, "passphrase");
  await writeFile(passphrase, "a passphrase of this test", { mode: 0o600 });
  const options = [
    ...["--db", join(directory, "clients.db"), "--config", join(directory, "config.json")],
    ...["--passphrase-source", `file:${passphrase}`],
  ];
  const key = ["--recovery-key-file", join(directory, "recovery-key.txt")];
  const answer = await command([
    ...["init", ...options, "--yes", "--service", "none", "--hub", "none", ...key],
    ...["--to", join(directory, "backups"), "--bundle-to", join(directory, "bundles")],
  ]);
  expect(answer).toMatchObject({ code: 0 });
  return options;
}

test(
  "it is installed without a compiler, as a command and as a library",
  async () => {
    const options = await madeStore();
    expect(await command(["add-client", ...options, "--name", "door"])).toMatchObject({ code: 0 });
    expect((await command(["list-clients", ...options])).stdout).toContain("door");

    await useLibrary(process.execPath);
  },
  timeoutMs,
);

/** Uses the library in the project that has the package installed. */
async function useLibrary(node: string): Promise<void> {
  const path = join(await temporaryFolder(), "library.db");
  const program = `
    import { ClientStore, generatePassphrase, newClient } from "hivemind-sqlcipher";
    const store = await ClientStore.create(${JSON.stringify(path)}, generatePassphrase());
    await store.addItem(newClient({ client_id: 1, api_key: "a key" }));
    console.log((await store.getClientByApiKey("a key")).client_id);
    await store.close();`;
  await writeFile(join(installed, "use.mjs"), program);
  const { stdout } = await exec(node, ["use.mjs"], { cwd: installed });
  expect(stdout.trim()).toBe("1");
}

test("the lines of Node.js that package.json supports are the ones that are tried", async () => {
  const { engines } = JSON.parse(await readFile(join(root, "package.json"), "utf8")) as {
    engines: { node: string };
  };
  const supported = engines.node.split("||").map((range) => /\d+/.exec(range)?.[0]);
  expect(nodeVersions.map((version) => version.split(".")[0])).toEqual(supported);
});

test.each(nodeVersions)(
  "the main job, with the keyring, and the library on Node.js %s",
  async (version) => {
    const fetched = await exec(join(root, "packaging/fetch-node"), [native, version]);
    const node = join(fetched.stdout.trim(), "bin/node");
    expect((await exec(node, ["--version"])).stdout.trim()).toBe(`v${version}`);
    const directory = await temporaryFolder();
    const own = (name: string) => join(directory, name);
    const options = ["--db", own("clients.db"), "--config", own("config.json")];
    const succeed = async (...args: string[]) => {
      const answer = await command([...args, ...options], {}, node);
      expect(answer, args.join(" ")).toMatchObject({ code: 0 });
      return answer.stdout;
    };
    const key = ["--recovery-key-file", own("recovery-key.txt")];
    const places = ["--to", own("backups"), "--bundle-to", own("bundles")];
    await succeed("init", "--yes", "--service", "none", "--hub", "none", ...key, ...places);
    await succeed("add-client", "--name", "door");
    await succeed("backup", "--service", "none");
    const [backup = ""] = (await readdir(own("backups"))).filter((name) => name.endsWith(".db"));
    await succeed("verify", join(own("backups"), backup));
    const back = ["--yes", "--service", "none", "--hub", "none", join(own("backups"), backup)];
    await succeed("restore", ...back);
    await succeed("rotate", "--yes", "--service", "none", "--hub", "none");
    expect(await succeed("list-clients")).toContain("door");
    await useLibrary(node);
  },
  timeoutMs,
);

test(
  "the commands of the installation guide install the command",
  async () => {
    const guide = await readFile(join(root, "docs/guide/install.md"), "utf8");
    const section = guide.split(/^## /m).find((each) => each.startsWith("With npm")) ?? "";
    const blocks = [...section.matchAll(/```sh\n([\s\S]*?)```/g)].map(([, text = ""]) => text);
    expect(blocks.length).toBe(2);
    const prefix = join(await temporaryFolder(), "global");
    const run = (block: string) =>
      exec("sh", ["-ec", block.replace("hivemind-sqlcipher-VERSION.tgz", basename(archive))], {
        cwd: directory,
        // node-gyp downloads Node's headers unless it knows where they are.
        env: { ...process.env, npm_config_prefix: prefix, npm_config_nodedir: nodeDirectory() },
      });
    const program = join(prefix, "bin/hivemind-sqlcipher");
    await run(blocks[0] ?? "");
    expect((await exec(program, ["--version"])).stdout).toMatch(/^\d+\.\d+\.\d+\n$/);
    const page = await readFile(join(prefix, "share/man/man1/hivemind-sqlcipher.1"), "utf8");
    expect(page).toContain(".TH HIVEMIND-SQLCIPHER 1");
    // Compiling takes minutes: only scripts/prove runs the command that does.
    if (!proving) return;
    await run(blocks[1] ?? "");
    await rm(join(prefix, "lib/node_modules/hivemind-sqlcipher/native"), { recursive: true });
    const options = await madeStore();
    expect((await exec(program, ["list-clients", ...options])).stdout).toBe("");
  },
  timeoutMs,
);

/** The directory of Node.js, which contains its headers. */
function nodeDirectory(): string {
  return dirname(dirname(realpathSync(process.execPath)));
}

test("it has the addon ready-made, and no binding that would be compiled", async () => {
  const { stdout } = await exec("tar", ["--list", "--gzip", "--file", archive]);
  const files = stdout.split("\n");
  const architectures = proving ? ["x64", "arm64"] : [process.arch];
  for (const arch of architectures) {
    expect(files).toContain(`package/native/linux-${arch}/node_sqlite3.node`);
  }
  expect(files).toContain("package/native/LICENSE");
  expect(files).toContain("package/sbom.cdx.json");
  await expect(
    readFile(join(installed, "node_modules/@journeyapps/sqlcipher/package.json")),
  ).rejects.toThrow("ENOENT");
});

test(
  "an addon with one byte changed is refused, and nothing is loaded in its place",
  async () => {
    const options = await madeStore();
    const sound = await readFile(addon());
    const changed = Buffer.from(sound);
    const middle = Math.floor(changed.length / 2);
    changed[middle] = (changed[middle] ?? 0) ^ 1;
    try {
      await writeFile(addon(), changed);
      const { code, stderr } = await command(["list-clients", ...options]);
      expect(code).toBe(14);
      expect(stderr).toContain(`the SQLCipher addon ${addon()} was changed: its sha256 differs`);
      expect(stderr).toContain("Install hivemind-sqlcipher again");
      await rm(addon());
      const missing = await command(["list-clients", ...options]);
      expect(missing.code).toBe(1);
      expect(missing.stderr).toContain(`cannot read the SQLCipher addon ${addon()}`);
    } finally {
      await writeFile(addon(), sound);
    }
    expect(await command(["list-clients", ...options])).toMatchObject({ code: 0 });
  },
  timeoutMs,
);

test(
  "a compiled addon is used only where it was asked for",
  async () => {
    const options = await madeStore();
    const compiled = { HIVEMIND_SQLCIPHER_ADDON: "compiled" };
    const without = await command(["list-clients", ...options], compiled);
    expect(without.code).toBe(1);
    expect(without.stderr).toContain("npm install --allow-scripts=@journeyapps/sqlcipher");

    const unknown = await command(["list-clients", ...options], { HIVEMIND_SQLCIPHER_ADDON: "x" });
    expect(unknown.code).toBe(2);

    // What was compiled for this checkout: compiling it once more would test nothing.
    for (const name of ["@journeyapps/sqlcipher", "bindings", "file-uri-to-path"]) {
      await cp(join(root, "node_modules", name), join(installed, "node_modules", name), {
        recursive: true,
      });
    }
    await rm(addon());
    expect(await command(["list-clients", ...options], compiled)).toMatchObject({ code: 0 });
  },
  timeoutMs,
);
