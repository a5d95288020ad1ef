/** Writes man/hivemind-sqlcipher.1 from the compiled command; a part of the build. */
import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { grammarOf } from "../dist/cli/grammar.js";
import { manPage } from "../dist/cli/man.js";
import { Output } from "../dist/cli/output.js";
import { buildProgram } from "../dist/cli/program.js";

const top = new URL("../", import.meta.url);
const { version } = JSON.parse(readFileSync(new URL("package.json", top), "utf8"));
const program = buildProgram(
  new Output({ json: false, quiet: false, verbose: false, color: false }),
);
mkdirSync(new URL("man/", top), { recursive: true });
writeFileSync(new URL("man/hivemind-sqlcipher.1", top), manPage(grammarOf(program), version));
