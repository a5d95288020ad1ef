/**
 * What the package depends on: described, licensed, quiet at install, and listed in its bill of
 * materials.
 */
import { execFileSync } from "node:child_process";
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { expect, test } from "vitest";
import { root } from "../built.js";
import { interpreter } from "../interop/python.js";
import { temporaryFolder } from "../store/temporary.js";

interface Package {
  version: string;
  /** The registry's name, where it is installed under another one. */
  name?: string;
  license?: string;
  integrity?: string;
  resolved?: string;
  deprecated?: string;
  dev?: boolean;
  optional?: boolean;
  devOptional?: boolean;
  hasInstallScript?: boolean;
  dependencies?: Record<string, string>;
  devDependencies?: Record<string, string>;
}

/** Licences that ask for nothing but to be named, which a package may be used under with ours. */
const permissive = ["0BSD", "Apache-2.0", "BSD-3-Clause", "ISC", "MIT", "MIT OR Apache-2.0"];
/** Of what is used for building and testing alone. MPL-2.0 is about changes to its own files. */
const forTools = [...permissive, "BlueOak-1.0.0", "MPL-2.0"];

async function json<Contents>(path: string): Promise<Contents> {
  return JSON.parse(await readFile(join(root, path), "utf8")) as Contents;
}

/**
 * Everything in the lock file but the project itself: its place in node_modules, and what is said
 * of it.
 */
async function locked(): Promise<[string, Package][]> {
  const { packages } = await json<{ packages: Record<string, Package> }>("package-lock.json");
  return Object.entries(packages).filter(([place]) => place !== "");
}

/** The name that the registry knows a package by. */
function nameOf([place, { name }]: [string, Package]): string {
  return name ?? place.slice(place.lastIndexOf("node_modules/") + "node_modules/".length);
}

function isForTools({ dev, devOptional }: Package): boolean {
  return dev === true || devOptional === true;
}

async function installed(place: string): Promise<Package | undefined> {
  // A build for another kind of machine is in the lock file and not here.
  return json<Package>(join(place, "package.json")).catch(() => undefined);
}

test("every dependency is in docs/design/dependencies.md, and nothing else", async () => {
  const { dependencies = {}, devDependencies = {} } = await json<Package>("package.json");
  const page = await readFile(join(root, "docs/design/dependencies.md"), "utf8");
  const runtime = page.slice(page.indexOf("## At run time"), page.indexOf("## For building"));
  const tools = page.slice(page.indexOf("## For building"), page.indexOf("## At install"));
  const described = (part: string) =>
    [...part.matchAll(/^\| `([^`]+)` \|/gm)].map(([, name]) => name);
  const own = (names: Record<string, string>) =>
    Object.entries(names).map(([name, range]) => /^npm:(.+)@/.exec(range)?.[1] ?? name);
  expect(described(runtime).sort()).toEqual(own(dependencies).sort());
  expect(described(tools).sort()).toEqual(own(devDependencies).sort());
});

test("every package, also those that others bring, has a licence that is allowed", async () => {
  let looked = 0;
  for (const [place, entry] of await locked()) {
    const license = (await installed(place))?.license ?? entry.license ?? "none";
    looked += 1;
    expect([place, isForTools(entry) ? forTools : permissive]).toEqual([
      place,
      expect.arrayContaining([license]),
    ]);
  }
  expect(looked).toBeGreaterThan(100);
});

test("the lock file has a checksum for each, names no place to get it, and nothing that was given up", async () => {
  for (const [place, { integrity, resolved, deprecated }] of await locked()) {
    expect({ place, integrity, resolved, deprecated }).toEqual({
      place,
      integrity: expect.stringMatching(/^sha512-/),
    });
  }
});

test("nothing runs when the package is installed but the compiler, for SQLCipher", async () => {
  const { allowScripts } = await json<{ allowScripts: Record<string, boolean> }>("package.json");
  const entries = (await locked()).filter(([, entry]) => entry.hasInstallScript);
  const atRuntime = entries.filter(([, entry]) => !isForTools(entry)).map(nameOf);
  // keytar's would copy what is there already (pack.test.ts loads it without).
  expect(atRuntime.sort()).toEqual(["@github/keytar", "@journeyapps/sqlcipher"]);
  const allowed = Object.keys(allowScripts).filter((name) => allowScripts[name]);
  expect(allowed).toEqual(["@journeyapps/sqlcipher"]);
});

test("the bill of materials is valid, and has everything that the lock file has for run time", async () => {
  const file = join(await temporaryFolder(), "sbom.cdx.json");
  execFileSync(process.execPath, [join(root, "scripts/write-sbom.mjs"), file], {
    stdio: ["ignore", "ignore", "pipe"],
  });
  const validate = `import sys
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
error = JsonStrictValidator(SchemaVersion.V1_5).validate_str(open(sys.argv[1]).read())
print(error or "valid")`;
  const args = ["-c", validate, file];
  expect(execFileSync(interpreter("cyclonedx"), args, { encoding: "utf8" })).toBe("valid\n");

  const bom = JSON.parse(await readFile(file, "utf8")) as {
    metadata: { component: { name: string; version: string } };
    components: {
      purl: string;
      hashes?: { alg: string; content: string }[];
      licenses: unknown[];
    }[];
    dependencies: { ref: string; dependsOn: string[] }[];
  };
  const { version } = await json<Package>("package.json");
  expect(bom.metadata.component).toMatchObject({ name: "hivemind-sqlcipher", version });
  const wanted = (await locked())
    .filter(([, entry]) => !isForTools(entry))
    .map((found) => ({
      purl: `pkg:npm/${nameOf(found).replace("@", "%40")}@${found[1].version}`,
      sha512: Buffer.from(found[1].integrity?.slice("sha512-".length) ?? "", "base64").toString(
        "hex",
      ),
    }));
  const npm = bom.components.filter(({ purl }) => purl.startsWith("pkg:npm/"));
  const found = npm.map(({ purl, hashes }) => ({ purl, sha512: hashes?.[0]?.content }));
  expect(new Set(found)).toEqual(new Set(wanted));
  for (const { licenses } of bom.components) expect(licenses).not.toEqual([]);

  // What is compiled in says its own version.
  const { Database } = (await import("@journeyapps/sqlcipher")).default;
  const ask = (sql: string) =>
    new Promise<string>((resolve, reject) => {
      const memory = new Database(":memory:");
      memory.get(sql, (error: Error | null, row: Record<string, string>) => {
        memory.close();
        if (error) reject(error);
        else resolve(Object.values(row)[0] ?? "");
      });
    });
  const [cipher = ""] = (await ask("PRAGMA cipher_version")).split(" ");
  const sqlite = await ask("SELECT sqlite_version()");
  const purls = bom.components.map(({ purl }) => purl);
  expect(purls).toContain(`pkg:github/sqlcipher/sqlcipher@v${cipher}`);
  expect(purls).toContain(`pkg:github/sqlite/sqlite@version-${sqlite}`);
  const compiled = [`sqlcipher@${cipher}`, `sqlite@${sqlite}`];
  const binding = bom.dependencies.find(({ ref }) => ref.startsWith("@journeyapps/sqlcipher@"));
  expect(binding?.dependsOn).toEqual(expect.arrayContaining(compiled));
});
