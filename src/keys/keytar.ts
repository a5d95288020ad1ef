/**
 * keytar, in this process or in a worker.
 *
 * A call that may show a dialog runs in the worker, which is killed if the user interrupts or does
 * not answer in time. Every other call runs in this process, because starting a worker takes 60 ms.
 */
import { type ChildProcess, fork } from "node:child_process";
import { createRequire } from "node:module";
import { fileURLToPath } from "node:url";
import { replyTimeoutMs } from "../dbus/client.js";
import { orAbort } from "../process/abort.js";
import { currentInteraction } from "../process/interaction.js";
import { announceDialog, promptTimeoutMs } from "./secret-service.js";

export type Keytar = typeof import("keytar");

/** A call by name, which can be sent to the worker. */
export type KeytarCall =
  | readonly ["getPassword", service: string, account: string]
  | readonly ["setPassword", service: string, account: string, password: string]
  | readonly ["deletePassword", service: string, account: string];

export type KeytarResult = string | boolean | null | undefined;

/** Codes of Node's errors for a package, or a library that it needs, that is not installed. */
const missingModuleCodes = ["MODULE_NOT_FOUND", "ERR_DLOPEN_FAILED"];

/** keytar did not reply in time, with or without a dialog. */
export class KeytarTimeoutError extends Error {}

/** keytar, or libsecret, cannot be loaded. */
export class KeytarMissingError extends Error {}

/** Returns keytar, loaded on first use: without libsecret, the other sources still work. */
export function loadKeytar(): Keytar {
  // GLib takes an empty address for a malformed one, and not for an unset one.
  if (process.env.DBUS_SESSION_BUS_ADDRESS === "") delete process.env.DBUS_SESSION_BUS_ADDRESS;
  try {
    return createRequire(import.meta.url)("keytar");
  } catch (error) {
    throw new KeytarMissingError(messageOf(error), { cause: error });
  }
}

/** Makes a call that shows no dialog in this process. */
export async function callInProcess(
  call: KeytarCall,
  timeoutMs = replyTimeoutMs,
): Promise<KeytarResult> {
  const [method, ...args] = call;
  const keytar = loadKeytar() as unknown as Record<
    string,
    (...args: string[]) => Promise<string | boolean | null>
  >;
  return await within(timeoutMs, Promise.resolve(keytar[method]?.(...args)));
}

/**
 * The worker of this process. It stays for later calls: KeePassXC asks its user again for each
 * process.
 */
let worker: Worker | undefined;

/** Makes a call that may show a dialog. @param provider - for the notice */
export async function callInWorker(call: KeytarCall, provider: string): Promise<KeytarResult> {
  worker = worker?.isAlive ? worker : new Worker();
  return await worker.call(call, provider);
}

/** Makes a call in a new process, whose libsecret has a new session with the provider. */
export async function callInNewWorker(call: KeytarCall, provider: string): Promise<KeytarResult> {
  worker?.kill();
  return await callInWorker(call, provider);
}

/** Returns whether a worker has spoken to the provider, and may have its user's permission. */
export function hasWorker(): boolean {
  return worker?.isAlive === true;
}

interface Reply {
  readonly id: number;
  readonly result?: string | boolean | null;
  readonly error?: { readonly message: string; readonly code?: string };
}

class Worker {
  readonly #process: ChildProcess;
  readonly #waiting = new Map<number, (reply: Reply | Error) => void>();
  #isAlive = true;
  #lastId = 0;

  constructor() {
    const { DBUS_SESSION_BUS_ADDRESS: address, ...environment } = process.env;
    this.#process = fork(fileURLToPath(new URL("./keytar-worker.cjs", import.meta.url)), [], {
      execArgv: [],
      env: { ...environment, ...(address && { DBUS_SESSION_BUS_ADDRESS: address }) },
      stdio: ["ignore", "ignore", "ignore", "ipc"],
      // Ctrl-C at a terminal must reach this process only, which kills the worker.
      detached: true,
    });
    this.#process.on("message", (reply: Reply) => this.#waiting.get(reply.id)?.(reply));
    this.#process.on("error", (error) => this.#end(error));
    this.#process.on("exit", () => this.#end(new Error("the helper process for keytar ended")));
    this.#process.unref();
    this.#process.channel?.unref();
  }

  get isAlive(): boolean {
    return this.#isAlive;
  }

  kill(): void {
    this.#isAlive = false;
    this.#process.kill("SIGKILL");
  }

  async call(call: KeytarCall, provider: string): Promise<KeytarResult> {
    const { signal, notice } = currentInteraction();
    const stopNotice = announceDialog(provider, notice);
    this.#process.channel?.ref();
    try {
      const { result, error } = await within(promptTimeoutMs, orAbort(this.#send(call), signal));
      if (error === undefined) return result;
      if (missingModuleCodes.includes(error.code ?? ""))
        throw new KeytarMissingError(error.message);
      throw new Error(error.message);
    } catch (error) {
      // The call blocks until the dialog is closed, and its result is not wanted any more.
      if (error instanceof KeytarTimeoutError || signal?.aborted) this.kill();
      throw error;
    } finally {
      stopNotice();
      this.#process.channel?.unref();
    }
  }

  #send([method, ...args]: KeytarCall): Promise<Reply> {
    const id = ++this.#lastId;
    return new Promise((resolve, reject) => {
      this.#waiting.set(id, (reply) => {
        this.#waiting.delete(id);
        if (reply instanceof Error) reject(reply);
        else resolve(reply);
      });
      this.#process.send({ id, method, args });
    });
  }

  #end(error: Error): void {
    this.#isAlive = false;
    for (const finish of this.#waiting.values()) finish(error);
  }
}

async function within<T>(timeoutMs: number, work: Promise<T>): Promise<T> {
  let timer: NodeJS.Timeout | undefined;
  const timeout = new Promise<never>((_resolve, reject) => {
    timer = setTimeout(
      () => reject(new KeytarTimeoutError(`no reply within ${timeoutMs / 1000} seconds`)),
      timeoutMs,
    );
  });
  try {
    return await Promise.race([work, timeout]);
  } finally {
    clearTimeout(timer);
  }
}

function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}
