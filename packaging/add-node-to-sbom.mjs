/**
 * Prints a bill of materials with Node.js added, which the Debian package carries.
 *
 *   add-node-to-sbom.mjs FILE
 */
import { readFileSync } from "node:fs";

const bom = JSON.parse(readFileSync(process.argv[2], "utf8"));
const { packaged } = JSON.parse(readFileSync(new URL("node.json", import.meta.url), "utf8"));
const node = {
  "bom-ref": `node@${packaged}`,
  type: "application",
  name: "node",
  version: packaged,
  scope: "required",
  purl: `pkg:github/nodejs/node@v${packaged}`,
  licenses: [{ license: { id: "MIT" } }],
};
bom.components.push(node);
bom.dependencies.push({ ref: node["bom-ref"], dependsOn: [] });
process.stdout.write(`${JSON.stringify(bom, undefined, 2)}\n`);
