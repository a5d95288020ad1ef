// prove-table.mjs FOLDER PART ...
//
// Prints what scripts/prove tried and how much of it failed: of each part the lines that its suites
// reported (FOLDER/PART.jsonl, see test/prove-report.ts), and the tests themselves
// (FOLDER/PART.json, vitest's report).
import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";

const [folder, ...parts] = process.argv.slice(2);

function rowsOf(part) {
  const lines = join(folder, `${part}.jsonl`);
  const reported = existsSync(lines) ? readFileSync(lines, "utf8").trim().split("\n") : [];
  const rows = reported.map((line) => JSON.parse(line));
  const report = join(folder, `${part}.json`);
  if (!existsSync(report)) return [...rows, { what: "the tests did not run", tried: 0, failed: 1 }];
  const { testResults, startTime } = JSON.parse(readFileSync(report, "utf8"));
  const tests = testResults.flatMap(({ assertionResults }) => assertionResults);
  const count = (status) => tests.filter((test) => test.status === status).length;
  // A file that cannot even be loaded has no tests of its own to count.
  const unloadable = testResults.filter(
    ({ status, assertionResults }) => status === "failed" && assertionResults.length === 0,
  ).length;
  const failed = count("failed") + unloadable;
  const seconds = Math.round(
    (Math.max(...testResults.map((file) => file.endTime)) - startTime) / 1000,
  );
  return [...rows, { what: `tests, in ${seconds} s`, tried: count("passed") + failed, failed }];
}

const rows = parts.flatMap((part) =>
  rowsOf(part).map(({ what, tried, failed }) => [part, what, `${tried}`, `${failed}`]),
);
const all = [["part", "what", "tried", "failed"], ...rows];
const widths = [0, 1, 2, 3].map((column) => Math.max(...all.map((row) => row[column].length)));
for (const row of all) {
  console.log(
    row
      .map((cell, column) =>
        column < 2 ? cell.padEnd(widths[column]) : cell.padStart(widths[column]),
      )
      .join("  "),
  );
}
