/** The compiled command, run as a separate process in a temporary home. */
import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { mkdir } from "node:fs/promises";
import { join } from "node:path";
import { pathToFileURL } from "node:url";
import { root, testProgram } from "../built.js";
import { temporaryFolder } from "../store/temporary.js";
import { assertDocument } from "./documents.js";

export interface Answer {
  code: number | null;
  stdout: string;
  stderr: string;
}

const commandKeys = pathToFileURL(testProgram("command-keys")).href;

export class Machine {
  private constructor(
    readonly folder: string,
    private readonly before: readonly string[] = [],
  ) {}

  /**
   * Creates a machine with its own data, settings and files, removed after the test, and with the
   * session's keyring and user manager.
   *
   * @param before - a program and its arguments that start each command
   */
  static async make(before: readonly string[] = []): Promise<Machine> {
    return new Machine(await temporaryFolder(), before);
  }

  /** Returns a machine in a directory that several tests share. */
  static in(folder: string): Machine {
    return new Machine(folder);
  }

  get store(): string {
    return join(this.folder, "data", "hivemind-core", "clients.db");
  }

  get environment(): NodeJS.ProcessEnv {
    return {
      ...process.env,
      // A command under another program, which may count its calls, derives its keys.
      ...(this.before.length === 0 && { NODE_OPTIONS: `--import=${commandKeys}` }),
      XDG_DATA_HOME: join(this.folder, "data"),
      XDG_CONFIG_HOME: join(this.folder, "config"),
      XDG_STATE_HOME: join(this.folder, "state"),
      NO_COLOR: "1",
    };
  }

  path(...names: string[]): string {
    return join(this.folder, ...names);
  }

  /** Returns the arguments that start the command, beginning with a program. */
  line(args: readonly string[], before: readonly string[] = []): [string, ...string[]] {
    const main = `${root}dist/cli/main.js`;
    return [...this.before, ...before, process.execPath, main, ...args] as [string, ...string[]];
  }

  /** Runs the command. Every document that it prints with --json is compared with its schema. */
  async run(
    args: string[],
    options: {
      input?: string;
      env?: NodeJS.ProcessEnv;
      before?: string[];
      /** Gets the process. */
      onSpawn?: (child: ChildProcess) => void;
    } = {},
  ): Promise<Answer> {
    const [program, ...rest] = this.line(args, options.before);
    const own = options.before === undefined ? {} : { NODE_OPTIONS: undefined };
    const child = spawn(program, rest, { env: { ...this.environment, ...own, ...options.env } });
    options.onSpawn?.(child);
    let stdout = "";
    let stderr = "";
    child.stdout.setEncoding("utf8").on("data", (text) => {
      stdout += text;
    });
    child.stderr.setEncoding("utf8").on("data", (text) => {
      stderr += text;
    });
    child.stdin.end(options.input ?? "");
    const [code] = (await once(child, "close")) as [number | null];
    assertDocument(args, stdout);
    return { code, stdout, stderr };
  }

  /** Runs with --json and reads the document on stdout, also for an error. */
  async json(
    ...args: string[]
  ): Promise<{ code: number | null; document: Record<string, unknown> }> {
    const { code, stdout } = await this.run([...args, "--json"]);
    return { code, document: JSON.parse(stdout) };
  }

  /** Creates a store with its recovery key in a file. */
  async init(...args: string[]): Promise<void> {
    await mkdir(this.path("safe"), { recursive: true });
    const { code, stderr } = await this.run([
      ...["init", "--recovery-key-file", this.path("safe", "recovery-key.txt"), ...args],
    ]);
    if (code !== 0) throw new Error(stderr);
  }
}
