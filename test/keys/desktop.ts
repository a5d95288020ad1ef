/** A display without a screen, and a user that answers the dialogs on it. */
import { type ChildProcess, execFile, spawn } from "node:child_process";
import { once } from "node:events";
import { setTimeout as delay } from "node:timers/promises";
import { promisify } from "node:util";

const run = promisify(execFile);

/** The user's answer to a dialog; keys as in xdotool. */
export type Answer = "ignore" | { readonly type?: string; readonly key: string };

export class Desktop implements AsyncDisposable {
  /** The titles of the dialogs seen so far. */
  readonly dialogs: string[] = [];
  readonly #processes: ChildProcess[];
  #answer: Answer = "ignore";
  #delayMs = 0;
  #isEnded = false;
  #titles = "";
  #user: Promise<void> | undefined;

  private constructor(
    readonly display: string,
    processes: ChildProcess[],
  ) {
    this.#processes = processes;
  }

  static async start(): Promise<Desktop> {
    const options = ["-displayfd", "1", "-screen", "0", "1280x900x24", "-nolisten", "tcp"];
    const server = spawn("Xvfb", options, { stdio: ["ignore", "pipe", "ignore"] });
    const [number] = (await once(server.stdout, "data")) as [Buffer];
    const display = `:${number.toString().trim()}`;
    // Without a window manager, no window gets the keyboard.
    const manager = spawn("openbox", [], {
      env: { ...process.env, DISPLAY: display },
      stdio: "ignore",
    });
    return new Desktop(display, [manager, server]);
  }

  /**
   * Starts the user, which answers each dialog.
   *
   * @param titles - of the dialogs, as a regular expression of xdotool
   */
  watch(titles: string): void {
    this.#titles = titles;
    this.#user = this.#watch();
  }

  /** Sets the user's answer from now on, and its delay. */
  answer(answer: Answer, delayMs = 300): void {
    this.#answer = answer;
    this.#delayMs = delayMs;
  }

  /** Answers one dialog, and ignores the dialogs after it. */
  async answerOnce(answer: Exclude<Answer, "ignore">): Promise<void> {
    this.#answer = "ignore";
    let window: string | undefined;
    while (window === undefined) {
      await delay(50);
      [window] = await this.#windows();
    }
    await this.#answerTo(window, answer);
  }

  /** Waits until no dialog is open. */
  async closed(): Promise<void> {
    while ((await this.#windows()).length > 0) await delay(100);
  }

  /** Waits until a dialog is shown, whatever its answer. */
  async shown(): Promise<void> {
    const before = this.dialogs.length;
    while (this.dialogs.length === before) await delay(50);
  }

  async xdotool(...args: string[]): Promise<string> {
    const env = { ...process.env, DISPLAY: this.display };
    return await run("xdotool", args, { env }).then(
      ({ stdout }) => stdout,
      () => "",
    );
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#isEnded = true;
    await this.#user;
    for (const child of this.#processes) child.kill("SIGKILL");
  }

  async #windows(): Promise<string[]> {
    const found = await this.xdotool("search", "--onlyvisible", "--name", this.#titles);
    return found.split("\n").filter((id) => id !== "");
  }

  async #watch(): Promise<void> {
    const seen = new Set<string>();
    while (!this.#isEnded) {
      await delay(100);
      for (const window of await this.#windows()) {
        if (!seen.has(window)) {
          seen.add(window);
          this.dialogs.push((await this.xdotool("getwindowname", window)).trim());
        }
        if (this.#answer !== "ignore") await this.#answerTo(window, this.#answer);
      }
    }
  }

  async #answerTo(window: string, { type, key }: Exclude<Answer, "ignore">): Promise<void> {
    await delay(this.#delayMs);
    await this.xdotool("windowactivate", "--sync", window);
    if (type !== undefined) await this.xdotool("type", "--delay", "20", type);
    await this.xdotool("key", key);
    await delay(300);
  }
}
