/**
 * Campaigns of generated inputs: many documents, most of them slightly wrong, each for a single
 * reader.
 *
 * For any input, a reader returns or throws a `StoreError` without a secret. A reader must not
 * hang: a thread watches for this, because a test in an endless loop does not notice its own time
 * limit.
 *
 * PROVE_INPUTS is the number of inputs of all campaigns; PROVE_SEED repeats a run.
 */
import assert from "node:assert/strict";
import { Worker } from "node:worker_threads";
import fc from "fast-check";
import { afterAll, expect, it } from "vitest";
import { exitCodes, StoreError } from "../../src/errors.js";
import { proving, report } from "../prove-report.js";

const inputs = Number(process.env.PROVE_INPUTS ?? (proving ? 1_000_000 : 12_000));

const seed = Number(process.env.PROVE_SEED ?? Math.trunc(Math.random() * 2 ** 31));

/** The sum of all campaigns' shares. */
const parts = 1368;

/** An input takes milliseconds. A longer run than this is endless. */
const longestInputMs = 120_000;

/** The beginning of every generated secret, by which it is recognised in any output. */
export const secretMark = "hunter2-";

export interface Campaign<Input> {
  /** The reader, for the table. */
  readonly what: string;
  /** Its share of all inputs, in `parts`. */
  readonly share: number;
  readonly inputs: fc.Arbitrary<Input>;
  /** The number of inputs in a value of `inputs`, if it is a list. */
  readonly each?: number;
  /** Throws if the reader violates its contract. */
  holds(input: Input): void | Promise<void>;
}

/** Defines a test that runs a campaign's share of the inputs. */
export function campaign<Input>(name: string, it_: Campaign<Input>): void {
  const { what, share, each = 1 } = it_;
  const numRuns = Math.max(1, Math.ceil((inputs * share) / parts / each));
  it(name, { timeout: 3_600_000 }, async () => {
    watchdog.watch(`${what} (PROVE_SEED=${seed})`);
    const property = fc.asyncProperty(it_.inputs, async (input) => {
      watchdog.alive();
      await it_.holds(input);
    });
    const result = await fc.check(property, { numRuns, seed });
    watchdog.rest();
    report(`input: ${what}`, result.numRuns * each, result.failed ? 1 : 0);
    expect(failureOf(result)).toBe("");
  });
}

/** Returns the failure with its smallest input, or "" without a failure. */
function failureOf<Input>(result: fc.RunDetails<[Input]>): string {
  if (!result.failed) return "";
  const error = result.errorInstance instanceof Error ? result.errorInstance.stack : "";
  const [input] = result.counterexample ?? [];
  const text = Buffer.isBuffer(input) ? JSON.stringify(input.toString()) : fc.stringify(input);
  return `PROVE_SEED=${seed}, after ${result.numRuns} inputs: ${text.slice(0, 2000)}\n${error}`;
}

/** Accepts the errors that a reader may throw. */
export function assertRefusal(error: unknown): asserts error is StoreError {
  if (!(error instanceof StoreError)) throw error;
  assert(Object.hasOwn(exitCodes, error.kind));
  assert.notEqual(error.message, "");
  const said = `${error.message}\n${error.hint ?? ""}`;
  assert(!said.includes(secretMark), `a secret is told: ${said}`);
  assert(!/: undefined|\[object/.test(said), `it does not say what is wrong: ${said}`);
}

/** Returns the reader's result, or undefined if it refused. */
export async function answerOf<T>(read: () => T | Promise<T>): Promise<T | undefined> {
  try {
    return await read();
  } catch (error) {
    assertRefusal(error);
    return undefined;
  }
}

class Watchdog {
  /** The number of the current input, and whether there is one. */
  readonly #state = new Int32Array(new SharedArrayBuffer(8));
  readonly #worker: Worker;

  constructor() {
    const script = `
      const { workerData: { state, limit }, parentPort } = require("node:worker_threads");
      let what = "", last = -1, since = 0;
      parentPort.on("message", (text) => { what = text; });
      setInterval(() => {
        const now = Atomics.load(state, 0);
        if (Atomics.load(state, 1) === 0 || now !== last) { last = now; since = Date.now(); return; }
        if (Date.now() - since < limit) return;
        require("node:fs").writeSync(2, "no end of input " + now + " of " + what + "\\n");
        process.kill(process.pid, "SIGKILL");
      }, 1000);`;
    const workerData = { state: this.#state, limit: longestInputMs };
    this.#worker = new Worker(script, { eval: true, workerData });
    this.#worker.unref();
  }

  watch(what: string): void {
    this.#worker.postMessage(what);
    Atomics.store(this.#state, 0, 0);
    Atomics.store(this.#state, 1, 1);
  }

  alive(): void {
    Atomics.add(this.#state, 0, 1);
  }

  rest(): void {
    Atomics.store(this.#state, 1, 0);
  }

  end(): Promise<number> {
    return this.#worker.terminate();
  }
}

const watchdog = new Watchdog();
afterAll(() => watchdog.end());
