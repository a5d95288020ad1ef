/**
 * Prints a version's section of CHANGELOG.md, which is what a release is described by.
 *
 *   release-notes.mjs VERSION
 */
import { readFileSync } from "node:fs";

const version = process.argv[2];
const changelog = readFileSync(new URL("../CHANGELOG.md", import.meta.url), "utf8");
const sections = changelog.split(/^## /m).slice(1);
const section = sections.find((each) => {
  const heading = each.slice(0, each.indexOf("\n")).replaceAll(/[[\]]/g, "");
  return heading.split(" ")[0] === version && !/unreleased/i.test(heading);
});
if (section === undefined) {
  process.stderr.write(`CHANGELOG.md has no section "## ${version} - DATE"\n`);
  process.exit(1);
}
process.stdout.write(`${section.slice(section.indexOf("\n")).trim()}\n`);
