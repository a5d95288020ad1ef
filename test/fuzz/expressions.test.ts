/**
 * Every regular expression of src/ on long text that it nearly matches: none may take more than its
 * length.
 */
import { once } from "node:events";
import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { Worker } from "node:worker_threads";
import { expect, it } from "vitest";
import { root } from "../built.js";
import { report } from "../prove-report.js";

/**
 * For one expression and all texts, in milliseconds: what takes the square of a text's length takes
 * minutes.
 */
const limitMs = 40_000;

const literal =
  /(?<=[=(,:[!&|?{};]\s*|return\s+|\n\s*)\/(?![*/])((?:\\.|\[(?:\\.|[^\]\\\n])*\]|[^/\\[\n])+)\/([dgimsuvy]*)/g;

interface Expression {
  readonly where: string;
  readonly source: string;
  readonly flags: string;
}

/** Those that repeat something. */
function expressions(): Expression[] {
  const folder = join(root, "src");
  return readdirSync(folder, { recursive: true, encoding: "utf8" })
    .filter((name) => name.endsWith(".ts"))
    .flatMap((name) => {
      const text = readFileSync(join(folder, name), "utf8");
      const code = text.replace(/^\s*(?:\/\*\*|\*|\/\/).*$/gm, "");
      return [...code.matchAll(literal)].flatMap(([, source = "", flags = ""]) => {
        const repeats = /[*+]|\{\d*,\}/.test(source) && isExpression(source, flags);
        return repeats ? [{ where: `src/${name}: /${source}/`, source, flags }] : [];
      });
    });
}

function isExpression(source: string, flags: string): boolean {
  try {
    new RegExp(source, flags);
    return true;
  } catch {
    return false;
  }
}

/**
 * Tries an expression on text that goes on for long in what it could repeat, and then ends as it
 * does not.
 */
const attack = `
  const { parentPort } = require("node:worker_threads");
  const length = 200_000;
  parentPort.on("message", ({ source, flags }) => {
    const letters = source.replace(/\\\\[a-zA-Z]|[()[\\]{}|^$*+?\\\\]/g, "");
    const singles = new Set([...letters, ..." \\t\\n\\r.-_'\\"/*,:;=%a1Aé𝒳\\u2028"]);
    const pairs = ["\\r\\n", "''", "\\\\a", " \\n", "a ", "1.", "a=b ", "--", "/*", "argv[]=", "{ path="];
    for (const pump of [...singles, ...pairs]) {
      const long = pump.repeat(Math.ceil(length / pump.length));
      for (const text of [long + "\\0", letters.slice(0, 3) + long + "!"]) {
        text.replace(new RegExp(source, flags), "");
      }
    }
    parentPort.postMessage("done");
  });`;

function startWorker(): Worker {
  return new Worker(attack, { eval: true });
}

it("no regular expression takes the square of its text's length", {
  timeout: 600_000,
}, async () => {
  const all = expressions();
  expect(all.length).toBeGreaterThan(40);
  const slow: string[] = [];
  let worker = startWorker();
  for (const expression of all) {
    worker.postMessage(expression);
    const problem = await once(worker, "message", { signal: AbortSignal.timeout(limitMs) }).then(
      () => undefined,
      (error: Error) => `${expression.where}: ${error.message}`,
    );
    if (problem === undefined) continue;
    slow.push(problem);
    await worker.terminate();
    worker = startWorker();
  }
  await worker.terminate();
  report("regular expressions on long text", all.length, slow.length);
  expect(slow).toEqual([]);
});
