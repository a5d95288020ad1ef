/**
 * Writes docs/reference/: commands.md and the JSON output from the built command, library.md from
 * src.
 */
import { writeFileSync } from "node:fs";
import { commandReference, jsonOutputReference, jsonOutputSchema } from "../dist/cli/reference.js";
import { libraryReference } from "./library-reference.mjs";

const target = (name) => new URL(`../docs/reference/${name}`, import.meta.url);
writeFileSync(target("commands.md"), await commandReference());
writeFileSync(target("library.md"), libraryReference());
writeFileSync(target("json-output.md"), jsonOutputReference());
writeFileSync(target("json-output.schema.json"), jsonOutputSchema());
