import { StoreError } from "../errors.js";

/** A set of ids with a bit for each id: a million consecutive ids take an eighth of a megabyte. */
const idsABlock = 2 ** 15;

export class IdSet {
  readonly #blocks = new Map<number, Uint8Array>();
  #size = 0;

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
          if ((eight >> bit) & 1) yield block * idsABlock + byte * 8 + bit;
        }
      }
    }
  }

  /** Returns whether the id is new. */
  add(id: number): boolean {
    const { block, byte, bit } = positionOf(id);
    let bits = this.#blocks.get(block);
    if (bits === undefined) {
      bits = new Uint8Array(idsABlock / 8);
      this.#blocks.set(block, bits);
    }
    const before = bits[byte] ?? 0;
    if ((before & bit) !== 0) return false;
    bits[byte] = before | bit;
    this.#size += 1;
    return true;
  }
}

function positionOf(id: number): { block: number; byte: number; bit: number } {
  const block = Math.floor(id / idsABlock);
  const within = id - block * idsABlock;
  return { block, byte: within >> 3, bit: 1 << (within & 7) };
}

/** More unused ids than this are a mistake in a database. */
const mostGaps = 1_000_000;

/**
 * Returns the ids from 1 to the highest that no set has, in ascending order. Hubs count records to
 * find the next id, so a gap would make them overwrite a client.
 *
 * @throws {@link StoreError} refused - if there are too many
 */
export function gapsIn(sets: readonly IdSet[], highest: number): IdSet {
  const gaps = new IdSet();
  for (let id = 1; id < highest; id++) {
    if (sets.some((ids) => ids.has(id))) continue;
    gaps.add(id);
    if (gaps.size <= mostGaps) continue;
    throw new StoreError(
      "refused",
      `the ids go up to ${highest}, and more than ${mostGaps} below it are unused, for example ${id}`,
      { hint: "Give the highest clients lower ids first: each unused id would get a revoked row." },
    );
  }
  return gaps;
}
