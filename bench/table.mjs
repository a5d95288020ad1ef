// Formats the table of scripts/bench from the rows of bench/*.mjs, a JSON document per line:
//
//   {"versions": {"restic": "0.14.0"}}
//   {"work": "rotate 1 GiB, verified", "unit": "s", "ours": [7.1, 7.3], "note": "…",
//    "peers": [{"name": "bare sqlcipher_export", "values": [6.0, 6.1], "at_most": 1.3}]}
//   {"work": "rotate 10 GiB", "skipped": "no space left on device"}
//
// Figures are the durations of the runs, in turns; less is better. `at_most` is the aim: the
// largest ratio of the medians, ours to the peer's. `aim` is an aim as text instead. `load` is the
// machine's after the work. Other lines go to stderr unchanged.
//
// Usage: table.mjs [JSON]      writes the rows to this file, too
import { readFileSync, writeFileSync } from "node:fs";
import { cpus, release, totalmem } from "node:os";
import { createInterface } from "node:readline";
import { median } from "./tools.mjs";

const headings = ["work", "this project", "peer", "its figure", "ratio", "aim", "load"];

/** Returns median, smallest and largest. */
function span(values, unit) {
  const middle = median(values);
  const digits = middle < 10 ? 2 : middle < 100 ? 1 : 0;
  const figure = (value) => value.toFixed(digits);
  const range =
    values.length > 1 ? ` (${figure(Math.min(...values))}–${figure(Math.max(...values))})` : "";
  return `${figure(middle)}${range} ${unit}`;
}

function linesOf({ work, unit, ours, peers = [], skipped, note, load }) {
  if (skipped !== undefined) return [[work, "not run", skipped, "", "", "", ""]];
  const lines = peers.map(({ name, values, at_most, aim }) => {
    const ratio = median(ours) / median(values);
    const held = ratio <= at_most ? "" : " MISSED";
    const limit = at_most === undefined ? (aim ?? "") : `≤ ${at_most}${held}`;
    return ["", "", name, span(values, unit), ratio.toFixed(ratio < 0.1 ? 3 : 2), limit, ""];
  });
  if (lines.length === 0) lines.push(["", "", "", "", "", "", ""]);
  lines[0].splice(0, 2, work, span(ours, unit));
  lines[0].splice(-1, 1, load?.toFixed(1) ?? "");
  if (note !== undefined) lines.push([`  ${note}`]);
  return lines;
}

const rows = [];
const { version } = JSON.parse(readFileSync(new URL("../package.json", import.meta.url), "utf8"));
const versions = { "hivemind-sqlcipher": version, Node: process.version, Linux: release() };
for await (const line of createInterface({ input: process.stdin })) {
  if (!line.startsWith("{")) {
    console.error(line);
    continue;
  }
  const { versions: found, ...row } = JSON.parse(line);
  if (found) Object.assign(versions, found);
  else rows.push(row);
}
const lines = [headings, ...rows.flatMap(linesOf)];
const widths = headings.map((_, column) =>
  Math.max(...lines.filter((line) => line.length > 1).map((line) => line[column].length)),
);
console.log(
  "Medians of runs in turns (smallest–largest); less is better; ratio: this project's median to the peer's.",
);
console.log(
  `${cpus()[0]?.model}, ${cpus().length} cores, ${Math.round(totalmem() / 2 ** 30)} GiB of memory`,
);
console.log(
  Object.entries(versions)
    .map(([name, version]) => `${name} ${version}`)
    .join(", "),
);
for (const [number, line] of lines.entries()) {
  // A new measurement begins a new line of the table.
  if (line[0] !== "" && line.length > 1)
    console.log(number === 1 ? "-".repeat(widths.reduce((a, b) => a + b + 2)) : "");
  console.log(
    line
      .map((cell, column) => cell.padEnd(line.length > 1 ? widths[column] : 0))
      .join("  ")
      .trimEnd(),
  );
}
const missed = lines.filter((line) => line[5]?.endsWith("MISSED")).length;
const aims = lines.filter((line) => line[5]?.startsWith("≤")).length;
console.log(`\n${aims - missed} of ${aims} aims reached`);
const [, , file] = process.argv;
if (file) writeFileSync(file, `${JSON.stringify({ date: new Date(), versions, rows }, null, 2)}\n`);
