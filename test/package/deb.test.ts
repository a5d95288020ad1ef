/**
 * Makes a release; installs, uses, upgrades and removes its Debian package in systems that have
 * only what it depends on. The oldest system on this machine's architecture is tried each time;
 * `scripts/prove packages` tries Debian 12 and 13 on both architectures, the foreign one under
 * qemu, Ubuntu 24.04, and the upgrade from version 0.1.0.
 */
import { execFile, execFileSync } from "node:child_process";
import { existsSync, readFileSync } from "node:fs";
import {
  copyFile,
  cp,
  mkdir,
  mkdtemp,
  readdir,
  readFile,
  rm,
  symlink,
  writeFile,
} from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { promisify } from "node:util";
import { afterAll, beforeAll, expect, test } from "vitest";
import { root } from "../built.js";
import { proving, report } from "../prove-report.js";
import { temporaryFolder } from "../store/temporary.js";
import { compiledAddon } from "./addon.js";

const exec = promisify(execFile);
const native = execFileSync("dpkg", ["--print-architecture"], { encoding: "utf8" }).trim();
const foreign = native === "amd64" ? "arm64" : "amd64";
const architectures = proving ? [native, foreign] : [native];
const suites = proving ? ["bookworm", "trixie"] : ["bookworm"];
// Ubuntu keeps its packages for arm64 on other servers. Few mirrors have them.
const systems = [
  ...architectures.flatMap((arch) => suites.map((suite) => ({ suite, arch }))),
  ...(proving && native === "amd64" ? [{ suite: "noble", arch: native }] : []),
];
// Compiling the addon, and making a system for the first time; under qemu everything takes ten
// times as long.
const timeoutMs = proving ? 7_200_000 : 1_200_000;

const expected = [
  "there is no compiler, npm or Node.js",
  "a package of another architecture is refused, and nothing is installed",
  "a read-only /usr is refused, and nothing is installed",
  "apt names a missing libsecret, and nothing is installed",
  "apt names a libc that is too old, and nothing is installed",
  "the commands of the installation guide",
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
const expectedWithSystemd = [
  "a timer that the old version installed starts the new one",
  "a dead-man timer that the old version armed runs the new one and starts the hub",
];
// The first version has to be built; its files are tried by test/age each time.
const expectedWithFirstVersion = proving
  ? [
      "the package recovers the store, journal, settings and backup of version 0.1.0",
      "doctor names the timer of version 0.1.0, and schedule install replaces it",
    ]
  : [];
const expectedAtEnd = ["remove and purge leave stores, settings, bundles and backups"];

/** xz would take longer than the tests. */
const env = {
  ...process.env,
  ...compiledAddon,
  PACKAGE_COMPRESSION: "gzip",
  SOURCE_DATE_EPOCH: "1700000000",
};

/** A directory for everything that this file makes. */
let directory: string;
/** The committed sources from which the release is made. */
let project: string;
/** The release. */
let packages: string;
let environment: NodeJS.ProcessEnv;

const { version } = JSON.parse(readFileSync(join(root, "package.json"), "utf8")) as {
  version: string;
};
const archOptions = architectures.flatMap((arch) => ["--arch", arch]);

async function script(name: string, ...args: string[]): Promise<string> {
  return scriptOf(root, name, ...args);
}

async function scriptOf(from: string, name: string, ...args: string[]): Promise<string> {
  const { stdout } = await exec(join(from, "packaging", name), args, { env, maxBuffer: 1 << 24 });
  return stdout.trim();
}

/**
 * Copies the sources as they are here, with a date for the version in CHANGELOG.md, and commits
 * them. A release is made from a commit.
 */
async function commitSources(to: string): Promise<void> {
  const steps = [
    `mkdir ${to} ${to}/.cache`,
    "git ls-files -z --cached --others --exclude-standard --deduplicate |" +
      ` tar --create --null --files-from=- --ignore-failed-read 2>/dev/null | tar --extract --directory=${to}`,
    `cd ${to}`,
    `sed -i 's/^## ${version} (unreleased)$/## ${version} - 2026-12-01/' CHANGELOG.md`,
    "git init --quiet && git add --all",
    "git -c user.name=Test -c user.email=test@example.com commit --quiet --message=Test",
  ];
  await exec("bash", ["-ec", steps.join("\n")], { cwd: root, env });
  await addInstalled(to);
}

/** Links what is installed here; a file of it that setup replaces there stays as it is here. */
async function addInstalled(to: string, ...caches: string[]): Promise<void> {
  await mkdir(join(to, ".cache"), { recursive: true });
  await mkdir(join(root, ".cache/package"), { recursive: true });
  await exec("cp", ["--archive", "--link", join(root, "node_modules"), to]);
  for (const name of caches.length > 0 ? caches : ["node", "package"]) {
    await symlink(join(root, ".cache", name), join(to, ".cache", name));
  }
}

async function release(...args: string[]): Promise<{ code: number; stderr: string }> {
  const options = { env: environment, maxBuffer: 1 << 24 };
  try {
    return { code: 0, ...(await exec(join(project, "scripts/release"), args, options)) };
  } catch (error) {
    return error as { code: number; stderr: string };
  }
}

/** The command blocks of the installation guide below a heading. */
function guideBlocks(heading: string): string[] {
  const guide = readFileSync(join(root, "docs/guide/install.md"), "utf8");
  const section = guide.split(/^## /m).find((each) => each.startsWith(heading)) ?? "";
  return [...section.matchAll(/```sh\n([\s\S]*?)```/g)].map(([, text = ""]) => text);
}

/**
 * What a system is given: the package, an older version of it, one of another architecture, one for
 * another libc, and the first version.
 */
async function fillSharedDirectory(shared: string, arch: string): Promise<void> {
  await mkdir(shared);
  const deb = join(packages, await packageOf(arch));
  await copyFile(deb, join(shared, "new.deb"));
  await copyFile(await script("older-version", deb, "0.1.0", directory), join(shared, "old.deb"));
  const other = arch === "amd64" ? "arm64" : "amd64";
  await withControl(deb, `s/^Architecture: .*/Architecture: ${other}/`, join(shared, "other.deb"));
  const libc = "s/libc6 (>= [^)]*)/libc6 (>= 99)/";
  await withControl(deb, libc, join(shared, "newer-libc.deb"));
  await copyFile(join(root, "packaging/try-package"), join(shared, "try-package"));
  if (proving && arch === native) {
    await copyFile(await script("first-version", arch), join(shared, "0.1.0.tar"));
  }
  const commands = guideBlocks("On Debian")
    .join("")
    .replaceAll("sudo ", "")
    .replaceAll("./hivemind-sqlcipher_VERSION_ARCH.deb", "/mnt/new.deb");
  await writeFile(join(shared, "guide.sh"), commands);
}

async function packageOf(arch: string): Promise<string> {
  const names = await readdir(packages);
  const name = names.find((each) => each.endsWith(`_${arch}.deb`));
  if (name === undefined) throw new Error(`there is no package for ${arch}`);
  return name;
}

/**
 * Makes a package with a changed control file and nothing in it: dpkg and apt refuse by that file,
 * before they look at anything else.
 */
async function withControl(deb: string, change: string, to: string): Promise<void> {
  const tree = await temporaryFolder();
  await exec("dpkg-deb", ["--control", deb, join(tree, "DEBIAN")]);
  await exec("sed", ["-i", change, join(tree, "DEBIAN/control")]);
  await exec("dpkg-deb", ["--build", tree, to]);
}

beforeAll(async () => {
  await mkdir(join(root, ".cache"), { recursive: true });
  directory = await mkdtemp(join(root, ".cache/packages-"));
  // gpg's agent has a socket in there, and a path of a socket is short.
  const keys = await mkdtemp(join(tmpdir(), "keys-"));
  environment = { ...env, GNUPGHOME: keys };
  delete environment.SOURCE_DATE_EPOCH;
  const key = ["--quick-generate-key", "Release test", "ed25519", "sign", "never"];
  await exec("gpg", ["--batch", "--passphrase", "", ...key], { env: environment });
  project = join(directory, "project");
  packages = join(directory, "release");
  await commitSources(project);
  const made = await release(
    ...["--without-tests", "--key", "Release test", ...archOptions, version, `${packages}/`],
  );
  expect(made, made.stderr).toMatchObject({ code: 0 });
}, timeoutMs);

afterAll(async () => {
  await exec("gpgconf", ["--kill", "gpg-agent"], { env: environment });
  await rm(environment.GNUPGHOME ?? "", { recursive: true, force: true });
  await rm(directory, { recursive: true, force: true });
});

test("a release holds the packages, their signed checksums and its notes", async () => {
  const debs = architectures.map((arch) => `hivemind-sqlcipher_${version}_${arch}.deb`);
  expect((await readdir(packages)).sort()).toEqual(
    [
      ...debs,
      ...[`hivemind-sqlcipher-${version}.tgz`, "RELEASE-NOTES.md", "SHA256SUMS", "SHA256SUMS.asc"],
    ].sort(),
  );
  expect(await readFile(join(packages, "RELEASE-NOTES.md"), "utf8")).toContain("### Added");
});

test("a download is checked as the guide says, and refused after a change", async () => {
  const [check = ""] = guideBlocks("Check what you downloaded");
  const download = await temporaryFolder();
  await cp(packages, download, { recursive: true });
  const options = { cwd: download, env: environment };
  await exec("sh", ["-ec", check], options);
  const deb = join(download, await packageOf(native));
  const changed = await readFile(deb);
  changed[changed.length >> 1] = (changed[changed.length >> 1] ?? 0) ^ 1;
  await writeFile(deb, changed);
  await expect(exec("sh", ["-ec", check], options)).rejects.toThrow("did NOT match");
});

test("a release is refused when something is missing, and nothing is made", async () => {
  const signed = ["--without-tests", "--key", "Release test"];
  const elsewhere = join(directory, "elsewhere");
  const refused = async (message: string, ...args: string[]) => {
    const { code, stderr } = await release(...args);
    expect(stderr).toContain(message);
    expect(code).not.toBe(0);
    expect(existsSync(elsewhere)).toBe(false);
  };
  await refused("VERSION is missing", ...signed);
  await refused(`package.json has version ${version}`, ...signed, "9.9.9", elsewhere);
  await refused("no key to sign with", "--without-tests", version, elsewhere);
  await refused("gpg has no secret key nobody", "--key", "nobody", version, elsewhere);
  await refused(`${packages} exists`, ...signed, version, packages);
  await writeFile(join(project, "README.md"), "changed");
  await refused("changes that are not committed", ...signed, version, elsewhere);
  await exec("git", ["checkout", "--quiet", "README.md"], { cwd: project });
  const changelog = await readFile(join(project, "CHANGELOG.md"), "utf8");
  await writeFile(
    join(project, "CHANGELOG.md"),
    changelog.replace(/^(## \S+) - .*/m, "$1 (unreleased)"),
  );
  const commit = ["-c", "user.name=Test", "-c", "user.email=test@example.com", "commit", "--quiet"];
  await exec("git", [...commit, "--all", "--message=Test"], { cwd: project });
  await refused("give the section of", ...signed, version, elsewhere);
  await exec("git", ["reset", "--quiet", "--hard", "HEAD~1"], { cwd: project });
});

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

/** Runs a program as a user with another umask, time zone and language does. */
function runElsewhere(program: string, args: string[], env: NodeJS.ProcessEnv = {}) {
  return exec("sh", ["-c", 'umask 077; exec "$0" "$@"', program, ...args], {
    env: { ...process.env, PACKAGE_COMPRESSION: "gzip", TZ: "Asia/Tokyo", LC_ALL: "C", ...env },
    maxBuffer: 1 << 24,
  });
}

if (proving) {
  test(
    "a second build of the commit, in another directory and by another user, is equal byte for byte",
    async () => {
      const again = join(directory, "a second build");
      await runElsewhere("git", ["clone", "--quiet", project, again]);
      await addInstalled(again, "node");
      const built = join(directory, "built");
      await mkdir(built);
      const { stdout } = await exec("git", ["log", "-1", "--format=%ct"], { cwd: again });
      const build = (name: string, ...args: string[]) =>
        runElsewhere(join(again, "packaging", name), args, { SOURCE_DATE_EPOCH: stdout.trim() });
      await build("build", join(again, "build"));
      for (const arch of architectures) await build("build-deb", arch, join(again, "build"), built);
      await build("build-npm", join(again, "build"), built, ...architectures);
      const names = await readdir(built);
      expect(names.length).toBe(architectures.length + 1);
      for (const name of names) {
        const first = await readFile(join(packages, name));
        expect((await readFile(join(built, name))).equals(first), name).toBe(true);
      }
    },
    timeoutMs,
  );

  test(
    "lintian finds nothing that is not explained",
    async () => {
      for (const arch of architectures) {
        const deb = join(packages, await packageOf(arch));
        const args = [
          "--allow-root",
          "--fail-on",
          "error,warning",
          "--tag-display-limit",
          "0",
          deb,
        ];
        const { stdout } = await exec("lintian", args).catch(
          (error) => error as { stdout: string },
        );
        expect(stdout).toBe("");
      }
    },
    timeoutMs,
  );
}

test.each(systems)(
  "$suite on $arch: used, upgraded, removed, and refused where it must be",
  async ({ suite, arch }) => {
    const shared = join(directory, `shared-${arch}`);
    if (!existsSync(shared)) await fillSharedDirectory(shared, arch);
    const system = await script("make-root", suite, arch);
    const args = [system, shared, "/mnt/try-package"];
    const { stdout, stderr } = await exec(join(root, "packaging/in-root"), args, {
      maxBuffer: 1 << 24,
    }).catch((error) => error as { stdout: string; stderr: string });
    const lines = stdout.split("\n");
    const done = lines.filter((line) => line.startsWith("ok ")).map((line) => line.slice(3));
    const wanted = [
      ...expected,
      ...(arch === native
        ? [...expectedWithKeyring, ...expectedWithSystemd, ...expectedWithFirstVersion]
        : []),
      ...expectedAtEnd,
    ];
    for (const note of lines.filter((line) => line.startsWith("note: "))) {
      console.log(`${suite} on ${arch}: ${note.slice(6)}`);
    }
    report(`Debian package, ${suite} on ${arch}`, wanted.length, wanted.length - done.length);
    expect(done, stderr).toEqual(wanted);
  },
  timeoutMs,
);
