/**
 * A sample of the kill matrix. All of it, thousands of cases, is run by scripts/prove.
 */
import { expect, test } from "vitest";
import { proving, report } from "../prove-report.js";
import { type Case, casesOf, numbers, operations, prepare, runCase } from "./matrix.js";

/** How much of the matrix is run, from 0 to 1. */
const share = Number(process.env.MATRIX_SHARE ?? (proving ? 1 : 0.012));
const seed = Number(process.env.MATRIX_SEED ?? 1);
const chosen = process.env.MATRIX_OPERATIONS?.split(",");

for (const operation of operations) {
  test.skipIf(chosen && !chosen.includes(operation))(
    `${operation}: killed or failing anywhere, it leaves a store that opens, and the next command puts the rest right`,
    async () => {
      const scene = await prepare(operation);
      try {
        const cases = casesOf(scene, share, numbers(seed));
        const counted = { run: cases.length, void: 0 };
        const wrong: string[] = [];
        let failed = 0;
        const worker = async () => {
          for (let tried = cases.shift(); tried; tried = cases.shift()) {
            const found = await runCase(scene, tried);
            if (!found) counted.void++;
            if (found?.length) failed++;
            for (const sentence of found ?? []) wrong.push(`${named(tried)}: ${sentence}`);
          }
        };
        await Promise.all([worker(), worker()]);
        console.log(`${operation}: ${counted.run} cases, of which ${counted.void} struck nothing`);
        report(operation, counted.run - counted.void, failed);
        expect(wrong).toEqual([]);
        expect(counted.void).toBeLessThan(counted.run);
      } finally {
        await scene.world.remove();
      }
    },
    600_000 + share * 6 * 3_600_000,
  );
}

function named({ operation, unit, fault, second }: Case): string {
  const then = second ? `, then ${JSON.stringify(second)}` : "";
  return `${operation}${unit ? " with a unit" : ""} at ${JSON.stringify(fault)}${then}`;
}
