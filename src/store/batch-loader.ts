/**
 * Combines concurrent lookups into a few queries, as DataLoader does. A lookup then takes 18 µs of
 * CPU time (50,000 clients). A query of its own takes 200 µs, most of it for the call through the
 * thread pool.
 *
 * Nothing is cached: the lookup of a key begins after its request.
 */

/** The maximum number of keys in a query. */
const batchLimit = 500;

interface Request<Result> {
  readonly key: string;
  readonly resolve: (result: Result | undefined) => void;
  readonly reject: (error: unknown) => void;
}

/**
 * Selects one of two prepared statements, so that a query can run while the rows of the previous
 * query are decoded.
 */
export type StatementQueue = 0 | 1;

export class BatchLoader<Found, Result> {
  readonly #find: (
    keys: readonly string[],
    queue: StatementQueue,
  ) => Promise<ReadonlyMap<string, Found>>;
  readonly #decode: (found: Found) => Result;
  #waiting: Request<Result>[] = [];
  readonly #isBusy: [boolean, boolean] = [false, false];

  /**
   * @param find - looks up many keys; a key missing from its result resolves to undefined
   * @param decode - converts the result for a key
   */
  constructor(
    find: (keys: readonly string[], queue: StatementQueue) => Promise<ReadonlyMap<string, Found>>,
    decode: (found: Found) => Result,
  ) {
    this.#find = find;
    this.#decode = decode;
  }

  load(key: string): Promise<Result | undefined> {
    return new Promise((resolve, reject) => {
      this.#waiting.push({ key, resolve, reject });
      const free = this.#isBusy.indexOf(false);
      if (free >= 0) void this.#run(free as StatementQueue);
    });
  }

  async #run(queue: StatementQueue): Promise<void> {
    this.#isBusy[queue] = true;
    // Waits for other keys requested in the same tick.
    await undefined;
    while (this.#waiting.length > 0) {
      const requests = this.#waiting.splice(0, batchLimit);
      try {
        const keys = requests.map(({ key }) => key);
        const found = await this.#find(keys, queue);
        for (const request of requests) this.#resolve(request, found.get(request.key));
      } catch (error) {
        for (const { reject } of requests) reject(error);
      }
    }
    this.#isBusy[queue] = false;
  }

  /** A row that fails to decode rejects only the calls that requested it. */
  #resolve({ resolve, reject }: Request<Result>, found: Found | undefined): void {
    try {
      resolve(found === undefined ? undefined : this.#decode(found));
    } catch (error) {
      reject(error);
    }
  }
}
