/** Derives each key once in the process of a test file, and shares it with the tests' programs. */
import { mkdirSync, writeFileSync } from "node:fs";
import { deriveOnce, sharedDirectory } from "./shared-keys.js";

mkdirSync(sharedDirectory, { recursive: true });
deriveOnce((path, masked) => writeFileSync(path, masked));
