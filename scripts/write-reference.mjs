/**
 * Writes docs/reference/commands.md from the built command and docs/reference/library.md from src.
 */
import { writeFileSync } from "node:fs";
import { commandReference } from "../dist/cli/reference.js";
import { libraryReference } from "./library-reference.mjs";

const target = (name) => new URL(`../docs/reference/${name}`, import.meta.url);
writeFileSync(target("commands.md"), await commandReference());
writeFileSync(target("library.md"), libraryReference());
