/**
 * Many questions that are asked side by side, put as few: those that come while others are being answered wait for each
 * other and go together. Nothing is kept: each question is put after it was asked.
 */

/** How many are put together. */
const together = 500;

interface Question<Answer> {
  readonly key: string;
  readonly resolve: (answer: Answer | undefined) => void;
  readonly reject: (error: unknown) => void;
}

export class BatchLoader<Found, Answer> {
  readonly #find: (keys: readonly string[], lane: number) => Promise<ReadonlyMap<string, Found>>;
  readonly #read: (found: Found) => Answer;
  #waiting: Question<Answer>[] = [];
  /** Two, so that while the answers to some are read the next are being found; whether each is in use. */
  readonly #lanes = [false, false];

  /**
   * @param find what there is for many keys; a question whose key is not among it is answered with undefined. Of two
   *   that are under way together one has lane 0, the other lane 1.
   * @param read makes the answer to one question of what was found.
   */
  constructor(
    find: (keys: readonly string[], lane: number) => Promise<ReadonlyMap<string, Found>>,
    read: (found: Found) => Answer,
  ) {
    this.#find = find;
    this.#read = read;
  }

  ask(key: string): Promise<Answer | undefined> {
    return new Promise((resolve, reject) => {
      this.#waiting.push({ key, resolve, reject });
      const free = this.#lanes.indexOf(false);
      if (free >= 0) void this.#run(free);
    });
  }

  async #run(lane: number): Promise<void> {
    this.#lanes[lane] = true;
    // Whoever asks for many in one breath has asked for all of them by then.
    await undefined;
    while (this.#waiting.length > 0) {
      const questions = this.#waiting.splice(0, together);
      try {
        const found = await this.#find(
          questions.map(({ key }) => key),
          lane,
        );
        for (const question of questions) this.#answer(question, found.get(question.key));
      } catch (error) {
        for (const { reject } of questions) reject(error);
      }
    }
    this.#lanes[lane] = false;
  }

  /** What cannot be read is the misfortune of those who asked for it. */
  #answer({ resolve, reject }: Question<Answer>, found: Found | undefined): void {
    try {
      resolve(found === undefined ? undefined : this.#read(found));
    } catch (error) {
      reject(error);
    }
  }
}
