import type { Output } from "./output.js";

const redrawMs = 100;
const width = 30;

/** Draws a progress bar on standard error if that is a terminal. */
export class Progress {
  readonly #isShown: boolean;
  #drawnAt = 0;

  constructor(output: Output) {
    this.#isShown = Boolean(process.stderr.isTTY) && !output.quiet;
  }

  /** @param total - 0 if unknown; then only `done` is shown */
  show(what: string, done: number, total: number): void {
    if (!this.#isShown || (done < total && performance.now() - this.#drawnAt < redrawMs)) return;
    this.#drawnAt = performance.now();
    const part = total > 0 ? Math.min(1, done / total) : 0;
    const bar = "█".repeat(Math.round(part * width)).padEnd(width, "░");
    const figures = total > 0 ? `${bar} ${Math.floor(part * 100)} %` : String(done);
    process.stderr.write(`\r\u001b[K${what}  ${figures}`);
  }

  end(): void {
    if (this.#drawnAt > 0) process.stderr.write("\r\u001b[K");
    this.#drawnAt = 0;
  }
}
