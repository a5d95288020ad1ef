/** How far a long piece of work is, drawn over itself: on a terminal only. */
import type { Output } from "./output.js";

const redrawMs = 100;
const width = 30;

export class Progress {
  readonly #shown: boolean;
  #drawn = 0;

  constructor(output: Output) {
    this.#shown = Boolean(process.stderr.isTTY) && !output.quiet;
  }

  /** @param total 0 where it is not known. */
  show(what: string, done: number, total: number): void {
    if (!this.#shown || (done < total && performance.now() - this.#drawn < redrawMs)) return;
    this.#drawn = performance.now();
    const part = total > 0 ? Math.min(1, done / total) : 0;
    const bar = "█".repeat(Math.round(part * width)).padEnd(width, "░");
    const figures = total > 0 ? `${bar} ${Math.floor(part * 100)} %` : String(done);
    process.stderr.write(`\r\u001b[K${what}  ${figures}`);
  }

  /** Leaves the line empty for what is printed next. */
  end(): void {
    if (this.#drawn > 0) process.stderr.write("\r\u001b[K");
    this.#drawn = 0;
  }
}
