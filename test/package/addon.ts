import { join } from "node:path";
import { root } from "../built.js";
import { proving } from "../prove-report.js";

const built = join(root, "node_modules/@journeyapps/sqlcipher/build/Release/node_sqlite3.node");

/** Lets packages have the addon that scripts/setup compiled; `scripts/prove` compiles it again. */
export const compiledAddon = proving ? {} : { PACKAGE_ADDON: built };
