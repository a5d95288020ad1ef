/**
 * What `npm pack` makes is installed elsewhere and used: as a command, as a library, and by a
 * compiler.
 */
import { execFile } from "node:child_process";
import { existsSync } from "node:fs";
import { cp, mkdir, readdir, readFile, symlink, writeFile } from "node:fs/promises";
import { isBuiltin } from "node:module";
import { join } from "node:path";
import { promisify } from "node:util";
import { expect, test } from "vitest";
import { root } from "../built.js";
import { temporaryFolder } from "../store/temporary.js";

const exec = promisify(execFile);

const program = `
import { ClientStore, generatePassphrase, newClient, type Client } from "hivemind-sqlcipher";

const store = await ClientStore.create(process.argv[2]!, generatePassphrase());
await store.addItem(newClient({ client_id: 1, api_key: "a key" }));
const found: Client | undefined = await store.getClientByApiKey("a key");
console.log(found?.client_id);
await store.close();
`;

/** Of the tests this alone is for those who have the package: it opens backups without it. */
const reader = "tools/open_backup.py";

/**
 * The project as it is here, in a place of its own: packing builds, and the tests beside this one
 * use dist/.
 */
async function copyOfProject(folder: string): Promise<string> {
  const list = ["ls-files", "-z", "--cached", "--others", "--exclude-standard"];
  const { stdout } = await exec("git", list, { cwd: root, maxBuffer: 1 << 24 });
  const copy = join(folder, "project");
  for (const path of stdout.split("\0")) {
    const isTest = path.startsWith("test/") && path !== reader;
    if (path === "" || isTest || !existsSync(join(root, path))) continue;
    await cp(join(root, path), join(copy, path));
  }
  await symlink(join(root, "node_modules"), join(copy, "node_modules"));
  return copy;
}

test("the packed package holds what it needs and no more, installs, runs, and has its types", async () => {
  const folder = await temporaryFolder();
  const project = await copyOfProject(folder);
  // Of a module that is gone something is left in dist/ wherever it was once compiled.
  await mkdir(join(project, "dist"));
  await writeFile(join(project, "dist", "gone.js"), "");
  const { stdout } = await exec("npm", ["pack", "--json", "--pack-destination", folder], {
    cwd: project,
  });
  const [packed] = JSON.parse(stdout.slice(stdout.indexOf("[\n"))) as {
    filename: string;
    files: { path: string }[];
  }[];
  const files = packed?.files.map(({ path }) => path) ?? [];
  expect(files).toContain("dist/cli/main.js");
  expect(files).toContain("dist/index.d.ts");
  expect(files.filter((path) => !/^(?:dist|docs)\//.test(path)).sort()).toEqual([
    "ARCHITECTURE.md",
    "CHANGELOG.md",
    "LICENSE",
    "README.md",
    "SECURITY.md",
    "man/hivemind-sqlcipher.1",
    "package.json",
    "sbom.cdx.json",
    reader,
  ]);
  const list = ["ls-files", "--cached", "--others", "--exclude-standard", "docs"];
  const pages = (await exec("git", list, { cwd: root })).stdout.trimEnd().split("\n");
  expect(files.filter((path) => path.startsWith("docs/")).sort()).toEqual(pages.sort());
  expect(files.filter((path) => /^dist\/(?!.*\.(?:js|d\.ts)$)/.test(path)).sort()).toEqual([
    "dist/bundle/sheet.html",
    "dist/cli/THIRD-PARTY-NOTICES.txt",
    "dist/cli/formats.md",
    "dist/cli/keytar-worker.cjs",
    "dist/cli/open_backup.py",
    "dist/cli/package.json",
    "dist/cli/sheet.html",
    "dist/keys/keytar-worker.cjs",
  ]);
  expect(files).not.toContain("dist/gone.js");

  await writeFile(join(folder, "package.json"), '{"type": "module"}');
  // Compiling SQLCipher once more would take a minute and test nothing of ours: what was compiled
  // here is copied.
  await exec(
    "npm",
    ["install", "--ignore-scripts", "--no-audit", "--no-fund", `./${packed?.filename}`],
    {
      cwd: folder,
    },
  );
  const native = join("node_modules", "@journeyapps", "sqlcipher", "build");
  await cp(join(root, native), join(folder, native), { recursive: true });
  // The keyring's native part is in its package and needs no script.
  await exec(process.execPath, ["-e", 'require("keytar")'], { cwd: folder });

  const installed = JSON.parse(await readFile(`${root}package.json`, "utf8")) as {
    version: string;
  };
  const command = join(folder, "node_modules", ".bin", "hivemind-sqlcipher");
  expect((await exec(command, ["--version"])).stdout.trim()).toBe(installed.version);

  await writeFile(join(folder, "use.mts"), program);
  for (const types of ["@types", "undici-types"]) {
    await cp(`${root}node_modules/${types}`, join(folder, "node_modules", types), {
      recursive: true,
    });
  }
  await exec(
    join(root, "node_modules", ".bin", "tsc"),
    [
      ...["--strict", "--module", "NodeNext", "--target", "ES2022", "--types", "node"],
      ...["--lib", "ES2023,ESNext.Disposable", "use.mts"],
    ],
    { cwd: folder },
  );
  const used = await exec(process.execPath, ["use.mjs", join(folder, "clients.db")], {
    cwd: folder,
  });
  expect(used.stdout.trim()).toBe("1");
  expect(await readdir(folder)).toContain("clients.db");
}, 240_000);

/** What the built command's files load, by file. */
async function loadedBy(folder: string): Promise<Map<string, string[]>> {
  const names = (await readdir(folder)).filter((name) => name.endsWith(".js"));
  const loads = names.map(async (name) => {
    const text = await readFile(join(folder, name), "utf8");
    const found = text.matchAll(/\b(?:require|import)\w*(?:\([^()"]*\))?\(\s*"([^"]+)"\s*\)/g);
    return [name, [...found].map(([, what = ""]) => what)] as const;
  });
  return new Map(await Promise.all(loads));
}

test("the built command loads itself, Node, and one package", async () => {
  const loaded = await loadedBy(join(root, "dist", "cli"));
  const names = new Set([...loaded.values()].flat());
  const own = [...names].filter((name) => name.startsWith("."));
  expect(own.filter((name) => !loaded.has(name.slice(2)))).toEqual([]);
  expect(own.length).toBeGreaterThan(20);
  const packages = [...names].filter((name) => !name.startsWith(".") && !isBuiltin(name));
  expect(packages).toEqual(["@redis/client"]);
});

test("the licence of every package in the built command is with it", async () => {
  const notices = await readFile(join(root, "dist", "cli", "THIRD-PARTY-NOTICES.txt"), "utf8");
  for (const name of ["commander", "zod", "age-encryption", "@noble/hashes", "csv-parse"]) {
    expect(notices).toMatch(new RegExp(`^${name} \\d+\\.\\d+\\.\\d+ \\(`, "m"));
  }
  expect(notices).toContain("Permission is hereby granted");
});
