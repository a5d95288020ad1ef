/**
 * Writes man/hivemind-sqlcipher.1 from the built command; a part of the build.
 *
 *   write-man-page.mjs [DIRECTORY]     (where dist/ and man/ are; default: the repository)
 */
import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join, resolve } from "node:path";
import { fileURLToPath, pathToFileURL } from "node:url";

const top = fileURLToPath(new URL("../", import.meta.url));
const directory = resolve(process.argv[2] ?? top);
const { ownManPage } = await import(pathToFileURL(join(directory, "dist/cli/man.js")).href);
const { version } = JSON.parse(readFileSync(join(top, "package.json"), "utf8"));
mkdirSync(join(directory, "man"), { recursive: true });
writeFileSync(join(directory, "man/hivemind-sqlcipher.1"), await ownManPage(version));
