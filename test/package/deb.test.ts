/**
 * Installs, uses, upgrades and removes the Debian package in systems that have only what it depends on. The oldest system on
 * this machine's architecture is tried each time; `scripts/prove packages` tries Debian 12 and 13 on both architectures,
 * the foreign one under qemu.
 */
import { execFile, execFileSync } from "node:child_process";
import { existsSync } from "node:fs";
import { copyFile, mkdir, mkdtemp, readdir, readFile, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { promisify } from "node:util";
import { afterAll, beforeAll, expect, test } from "vitest";
import { root } from "../built.js";
import { proving, report } from "../prove-report.js";
import { temporaryFolder } from "../store/temporary.js";

const exec = promisify(execFile);
const native = execFileSync("dpkg", ["--print-architecture"], { encoding: "utf8" }).trim();
const foreign = native === "amd64" ? "arm64" : "amd64";
const architectures = proving ? [native, foreign] : [native];
const suites = proving ? ["bookworm", "trixie"] : ["bookworm"];
const systems = architectures.flatMap((arch) => suites.map((suite) => ({ suite, arch })));
// Compiling the addon, and making a system for the first time; under qemu everything takes ten times as long.
const timeoutMs = proving ? 7_200_000 : 1_200_000;

const expected = [
  "there is no compiler, npm or Node.js",
  "a package of another architecture is refused, and nothing is installed",
  "a read-only /usr is refused, and nothing is installed",
  "apt names a missing libsecret, and nothing is installed",
  "installs, and dpkg --verify is content",
  "man page, completions, documents",
  "init, add-client, backup, verify, restore and rotate: with a passphrase file",
  "an upgrade during a backup",
  "an upgrade during a rotation",
  "the new version recovers what was killed under the old one",
  "run goes on with the old version, and ends with the hub's exit code",
  "the recovery sheet is printed",
  "units name /usr/bin/hivemind-sqlcipher",
  "without libsecret other sources work",
  "an addon with one byte changed is refused, and dpkg --verify names it",
];
const expectedWithKeyring = [
  "init, add-client, backup, verify, restore and rotate: with a keyring",
  "an upgrade during a backup",
  "an upgrade during a rotation",
  "the new version recovers what was killed under the old one",
  "without libsecret the keyring's error names the package",
  "purge leaves the keyring's entry",
];
const expectedAtEnd = ["remove and purge leave stores, settings, bundles and backups"];

/** xz would take longer than the tests. */
const env = { ...process.env, PACKAGE_COMPRESSION: "gzip", SOURCE_DATE_EPOCH: "1700000000" };

let packages: string;

async function script(name: string, ...args: string[]): Promise<string> {
  const { stdout } = await exec(join(root, "packaging", name), args, { env, maxBuffer: 1 << 24 });
  return stdout.trim();
}

/** What a system is given: the package, an older version of it, and one of another architecture. */
async function fillSharedDirectory(directory: string, arch: string): Promise<void> {
  await mkdir(directory);
  const deb = join(packages, await packageOf(arch));
  await copyFile(deb, join(directory, "new.deb"));
  await copyFile(await script("older-version", deb, "0.1.0", packages), join(directory, "old.deb"));
  const other = await otherArchitecture(deb, arch, directory);
  await copyFile(other, join(directory, "other.deb"));
  await copyFile(join(root, "packaging/try-package"), join(directory, "try-package"));
}

async function packageOf(arch: string): Promise<string> {
  const names = await readdir(packages);
  const name = names.find((each) => each.endsWith(`_${arch}.deb`) && !each.includes("_0.1.0_"));
  if (name === undefined) throw new Error(`there is no package for ${arch}`);
  return name;
}

/** dpkg refuses by the control file, before it looks at anything else. */
async function otherArchitecture(deb: string, arch: string, directory: string): Promise<string> {
  const other = arch === "amd64" ? "arm64" : "amd64";
  const tree = join(directory, "other");
  await mkdir(tree);
  await exec("dpkg-deb", ["--control", deb, join(tree, "DEBIAN")]);
  await exec("sed", [
    "-i",
    `s/^Architecture: .*/Architecture: ${other}/`,
    `${tree}/DEBIAN/control`,
  ]);
  const built = join(packages, `other-${arch}.deb`);
  await exec("dpkg-deb", ["--build", tree, built]);
  return built;
}

beforeAll(async () => {
  packages = await mkdtemp(join(tmpdir(), "hivemind-packages-"));
  const build = join(packages, "build");
  await script("build", build);
  for (const arch of architectures) await script("build-deb", arch, build, packages);
}, timeoutMs);

afterAll(() => rm(packages, { recursive: true, force: true }));

test("the package names what it needs, and is not larger than it has to be", async () => {
  for (const arch of architectures) {
    const deb = join(packages, await packageOf(arch));
    const { stdout } = await exec("dpkg-deb", ["--field", deb, "Depends", "Recommends"]);
    expect(stdout).toMatch(/\blibc6 \(>= 2\.3[46]\)/);
    expect(stdout).toMatch(/\blibstdc\+\+6 \(>= 1[12]\)/);
    expect(stdout).toMatch(/\blibssl3 \(>= 3\.0\.0\) \| libssl3t64 \(>= 3\.0\.0\)/);
    expect(stdout).toMatch(/\blibsecret-1-0 \(>= /);
    expect(stdout).toMatch(/^Recommends: gnome-keyring \|.*\bage\b/m);
  }
});

test(
  "two packages of one build are equal byte for byte",
  async () => {
    const again = await temporaryFolder();
    await script("build", join(again, "build"));
    await script("build-deb", native, join(again, "build"), again);
    const name = await packageOf(native);
    expect((await readFile(join(again, name))).equals(await readFile(join(packages, name)))).toBe(
      true,
    );
  },
  timeoutMs,
);

test(
  "lintian finds nothing that is not explained",
  async () => {
    for (const arch of architectures) {
      const deb = join(packages, await packageOf(arch));
      const args = ["--allow-root", "--fail-on", "error,warning", "--tag-display-limit", "0", deb];
      const { stdout } = await exec("lintian", args).catch((error) => error as { stdout: string });
      expect(stdout).toBe("");
    }
  },
  timeoutMs,
);

test.each(systems)(
  "$suite on $arch: used, upgraded, removed, and refused where it must be",
  async ({ suite, arch }) => {
    const shared = join(packages, `shared-${arch}`);
    if (!existsSync(shared)) await fillSharedDirectory(shared, arch);
    const system = await script("make-root", suite, arch);
    const args = [system, shared, "/mnt/try-package"];
    const { stdout, stderr } = await exec(join(root, "packaging/in-root"), args, {
      maxBuffer: 1 << 24,
    }).catch((error) => error as { stdout: string; stderr: string });
    const lines = stdout.split("\n");
    const done = lines.filter((line) => line.startsWith("ok ")).map((line) => line.slice(3));
    const wanted = [...expected, ...(arch === native ? expectedWithKeyring : []), ...expectedAtEnd];
    for (const note of lines.filter((line) => line.startsWith("note: "))) {
      console.log(`${suite} on ${arch}: ${note.slice(6)}`);
    }
    report(`Debian package, ${suite} on ${arch}`, wanted.length, wanted.length - done.length);
    expect({ done, stderr }).toEqual({ done: wanted, stderr: expect.any(String) });
  },
  timeoutMs,
);
