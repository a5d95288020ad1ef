/**
 * Prints the package.json of the npm package that holds SQLCipher's addon ready-made:
 * @journeyapps/sqlcipher, whose install script compiles, becomes optional, for machines that no
 * ready-made addon is for.
 *
 *   npm-manifest.mjs PACKAGE.JSON
 */
import { readFileSync } from "node:fs";

const manifest = JSON.parse(readFileSync(process.argv[2], "utf8"));
const binding = "@journeyapps/sqlcipher";
const { [binding]: range, ...dependencies } = manifest.dependencies;
const { devDependencies: _, scripts: __, allowScripts: ___, ...kept } = manifest;
const written = {
  ...kept,
  files: [...manifest.files, "native"],
  dependencies,
  peerDependencies: { [binding]: range },
  peerDependenciesMeta: { [binding]: { optional: true } },
};
process.stdout.write(`${JSON.stringify(written, undefined, 2)}\n`);
