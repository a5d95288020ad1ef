/**
 * Writes sbom.cdx.json, the package's bill of materials (CycloneDX 1.5): what `npm sbom` makes of
 * the lock file, and the C code that is compiled into one of the dependencies and that npm does not
 * know of. A part of `npm pack`.
 *
 *   write-sbom.mjs [FILE]
 */
import { execFileSync } from "node:child_process";
import { createHash } from "node:crypto";
import { readFileSync, writeFileSync } from "node:fs";
import { fileURLToPath } from "node:url";

const top = new URL("../", import.meta.url);
const file = process.argv[2] ?? fileURLToPath(new URL("sbom.cdx.json", top));
// The npm that runs this, where it is one.
const npm = /npm-cli\.js$/.exec(process.env.npm_execpath ?? "")?.input;

const args = ["sbom", "--sbom-format", "cyclonedx", "--omit", "dev", "--omit", "optional"];
const [program, first] = npm ? [process.execPath, [npm]] : ["npm", []];
const options = { cwd: top, encoding: "utf8", stdio: ["ignore", "pipe", "inherit"] };
const bom = JSON.parse(execFileSync(program, [...first, ...args, "--package-lock-only"], options));

// npm calls it by its folder's name.
bom.metadata.component.name = JSON.parse(readFileSync(new URL("package.json", top), "utf8")).name;

const binding = bom.components.find(({ name }) => name === "@journeyapps/sqlcipher");
const source = readFileSync(
  new URL(`node_modules/${binding.name}/deps/sqlcipher-amalgamation/sqlite3.c`, top),
  "latin1",
);
const compiled = [
  {
    name: "sqlcipher",
    version: versionIn(/^#define CIPHER_VERSION_NUMBER (\d+\.\d+\.\d+)$/m),
    repository: "sqlcipher/sqlcipher",
    license: { id: "BSD-3-Clause" },
  },
  {
    name: "sqlite",
    version: versionIn(/^#define SQLITE_VERSION +"(\d+\.\d+\.\d+)"$/m),
    repository: "sqlite/sqlite",
    license: { name: "Public domain" },
  },
];
const references = compiled.map(({ name, version }) => `${name}@${version}`);
for (const [index, { name, version, repository, license }] of compiled.entries()) {
  bom.components.push({
    "bom-ref": references[index],
    type: "library",
    name,
    version,
    scope: "required",
    purl: `pkg:github/${repository}@${name === "sqlite" ? "version-" : "v"}${version}`,
    licenses: [{ license }],
  });
  bom.dependencies.push({ ref: references[index], dependsOn: [] });
}
bom.dependencies.find(({ ref }) => ref === binding["bom-ref"]).dependsOn.push(...references);

// npm makes up a number and takes the time; two builds of one commit have to be equal.
delete bom.serialNumber;
delete bom.metadata.timestamp;
const digest = createHash("sha256").update(JSON.stringify(bom)).digest("hex");
bom.serialNumber = `urn:uuid:${digest.replace(/^(.{8})(.{4}).(.{3}).(.{3})(.{12}).*$/, "$1-$2-8$3-8$4-$5")}`;
const seconds = process.env.SOURCE_DATE_EPOCH;
const now = seconds === undefined ? new Date() : new Date(Number(seconds) * 1000);
bom.metadata.timestamp = now.toISOString();

writeFileSync(file, `${JSON.stringify(bom, undefined, 2)}\n`);

/** A version that the source says of itself. */
function versionIn(definition) {
  const version = definition.exec(source)?.[1];
  if (version === undefined) throw new Error(`${binding.name} does not say its ${definition}`);
  return version;
}
