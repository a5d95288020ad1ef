import { StoreError } from "../errors.js";

const idsPerBlock = 2 ** 15;

/** A set of ids with a bit for each id: a million consecutive ids take 125 kB. */
export class IdSet {
  readonly #blocks = new Map<number, Uint8Array>();
  #size = 0;
  #highest = 0;

  /** The highest id; 0 if no id is positive. */
  get highest(): number {
    return this.#highest;
  }

  get size(): number {
    return this.#size;
  }

  has(id: number): boolean {
    const { block, byte, bit } = positionOf(id);
    return ((this.#blocks.get(block)?.[byte] ?? 0) & bit) !== 0;
  }

  /** Yields the ids in ascending order. */
  *[Symbol.iterator](): Generator<number> {
    for (const [block, bits] of [...this.#blocks].sort(([a], [b]) => a - b)) {
      for (const [byte, eight] of bits.entries()) {
        for (let bit = 0; eight >> bit > 0; bit++) {
          if ((eight >> bit) & 1) yield block * idsPerBlock + byte * 8 + bit;
        }
      }
    }
  }

  /** Adds an id. Returns false if the set already has it. */
  add(id: number): boolean {
    const { block, byte, bit } = positionOf(id);
    let bits = this.#blocks.get(block);
    if (bits === undefined) {
      bits = new Uint8Array(idsPerBlock / 8);
      this.#blocks.set(block, bits);
    }
    const before = bits[byte] ?? 0;
    if ((before & bit) !== 0) return false;
    bits[byte] = before | bit;
    this.#size += 1;
    this.#highest = Math.max(this.#highest, id);
    return true;
  }
}

function positionOf(id: number): { block: number; byte: number; bit: number } {
  const block = Math.floor(id / idsPerBlock);
  const within = id - block * idsPerBlock;
  return { block, byte: within >> 3, bit: 1 << (within & 7) };
}

/** The maximum number of unused ids to fill. More unused ids mean that the highest id is wrong. */
const maxGaps = 1_000_000;

/**
 * Returns the ids from 1 to the highest id that are in no set. A hub counts the records to choose
 * the next id, so with an unused id it would choose the id of an existing client and overwrite it.
 *
 * @throws {@link StoreError} refused - if too many ids are unused
 */
export function findGaps(sets: readonly IdSet[]): IdSet {
  const highest = Math.max(...sets.map((ids) => ids.highest));
  const gaps = new IdSet();
  for (let id = 1; id < highest; id++) {
    if (sets.some((ids) => ids.has(id))) continue;
    gaps.add(id);
    if (gaps.size <= maxGaps) continue;
    throw new StoreError(
      "refused",
      `the ids go up to ${highest}, and more than ${maxGaps} ids below it are unused, for example ${id}`,
      {
        hint: `Give client ${highest} a lower id in its database first: each unused id would get a revoked record.`,
      },
    );
  }
  return gaps;
}
