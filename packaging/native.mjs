/**
 * Lays out native/, the part of a package that holds SQLCipher's addon ready-made: the addon for
 * each architecture, the JavaScript of @journeyapps/sqlcipher that drives it, the licences of both,
 * and the checksums that src/store/addon.ts compares with what it is about to load.
 *
 *   native.mjs DIRECTORY ARCH=FILE …     (ARCH as Node.js names it: x64, arm64)
 */
import { createHash } from "node:crypto";
import { copyFileSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { sqlcipherLicence } from "./licences.mjs";

const binding = fileURLToPath(new URL("../node_modules/@journeyapps/sqlcipher/", import.meta.url));

/** Replaces the file of this name, which looks for an addon in several places. */
const loader = `"use strict";
// Loaded by hivemind-sqlcipher after it has compared the addon with checksums.json.
module.exports = require(\`./\${process.platform}-\${process.arch}/node_sqlite3.node\`);
`;

export function layOutNative(directory, addons) {
  mkdirSync(directory, { recursive: true });
  const checksums = {};
  for (const [arch, file] of Object.entries(addons)) {
    const path = `linux-${arch}/node_sqlite3.node`;
    mkdirSync(join(directory, `linux-${arch}`));
    copyFileSync(file, join(directory, path));
    checksums[path] = createHash("sha256").update(readFileSync(file)).digest("hex");
  }
  for (const name of ["sqlite3.js", "trace.js"]) {
    copyFileSync(join(binding, "lib", name), join(directory, name));
  }
  writeFileSync(join(directory, "sqlite3-binding.js"), loader);
  writeFileSync(join(directory, "package.json"), '{ "type": "commonjs" }\n');
  writeFileSync(join(directory, "checksums.json"), `${JSON.stringify(checksums, undefined, 2)}\n`);
  const licence = readFileSync(join(binding, "LICENSE"), "utf8").trim();
  writeFileSync(
    join(directory, "LICENSE"),
    `@journeyapps/sqlcipher\n\n${licence}\n\n\nSQLCipher\n\n${sqlcipherLicence()}\n`,
  );
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const [directory, ...pairs] = process.argv.slice(2);
  layOutNative(directory, Object.fromEntries(pairs.map((pair) => pair.split("="))));
}
