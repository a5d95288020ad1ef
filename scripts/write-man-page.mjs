/** Writes man/hivemind-sqlcipher.1 from the built command; a part of the build. */
import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { ownManPage } from "../dist/cli/man.js";

const top = new URL("../", import.meta.url);
const { version } = JSON.parse(readFileSync(new URL("package.json", top), "utf8"));
mkdirSync(new URL("man/", top), { recursive: true });
writeFileSync(new URL("man/hivemind-sqlcipher.1", top), await ownManPage(version));
