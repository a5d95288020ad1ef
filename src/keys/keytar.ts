/**
 * Calls keytar, in this process or in a worker.
 *
 * A call with a possible dialog runs in the worker, which is killed at an interrupt or a time-out.
 * Every other call runs in this process, because starting a worker takes 60 ms.
 */
import { type ChildProcess, fork } from "node:child_process";
import { createRequire } from "node:module";
import { fileURLToPath } from "node:url";
import { replyTimeoutMs } from "../dbus/client.js";
import { messageOf } from "../errors.js";
import { orAbort } from "../process/abort.js";
import { currentInteraction } from "../process/interaction.js";
import { announceDialog, promptTimeoutMs } from "./secret-service.js";

/** A call by name, which can be sent to the worker. */
export type KeytarCall =
  | readonly ["getPassword", service: string, account: string]
  | readonly ["setPassword", service: string, account: string, password: string]
  | readonly ["deletePassword", service: string, account: string];

export type KeytarResult = string | boolean | null | undefined;

/** Node's error codes for a missing package or a missing library of a package. */
const missingModuleCodes = ["MODULE_NOT_FOUND", "ERR_DLOPEN_FAILED"];

/** keytar did not reply in time, with or without a dialog. */
export class KeytarTimeoutError extends Error {}

/** keytar, or libsecret, cannot be loaded. */
export class KeytarMissingError extends Error {}

/**
 * Returns keytar. Loads it at the first call, so that the other passphrase sources work on a
 * machine without libsecret.
 *
 * @throws {@link KeytarMissingError} if keytar or libsecret cannot be loaded
 */
function loadKeytar(): Record<KeytarCall[0], (...args: string[]) => Promise<KeytarResult>> {
  // GLib treats an empty address as malformed instead of unset.
  if (process.env.DBUS_SESSION_BUS_ADDRESS === "") delete process.env.DBUS_SESSION_BUS_ADDRESS;
  try {
    return createRequire(import.meta.url)("keytar");
  } catch (error) {
    throw new KeytarMissingError(messageOf(error), { cause: error });
  }
}

/** Calls keytar in this process, for a call without a dialog. */
export async function callInProcess([method, ...args]: KeytarCall): Promise<KeytarResult> {
  return await withTimeout(replyTimeoutMs, loadKeytar()[method](...args));
}

/**
 * The worker of this process. It is kept for later calls, because KeePassXC asks its user once for
 * each process.
 */
let worker: Worker | undefined;

/**
 * Calls keytar in the worker, for a call with a possible dialog.
 *
 * @param provider - for the notice
 */
export async function callInWorker(call: KeytarCall, provider: string): Promise<KeytarResult> {
  worker = worker?.isAlive ? worker : new Worker();
  return await worker.call(call, provider);
}

/** Calls keytar in a new worker, so that libsecret opens a new session with the provider. */
export async function callInNewWorker(call: KeytarCall, provider: string): Promise<KeytarResult> {
  worker?.kill();
  return await callInWorker(call, provider);
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
      // Ctrl-C at a terminal must reach only this process, which then kills the worker.
      detached: true,
    });
    this.#process.on("message", (reply: Reply) => this.#waiting.get(reply.id)?.(reply));
    this.#process.on("error", (error) => this.#rejectWaiting(error));
    this.#process.on("exit", () =>
      this.#rejectWaiting(new Error("the helper process for keytar ended")),
    );
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
      const { result, error } = await withTimeout(
        promptTimeoutMs,
        orAbort(this.#send(call), signal),
      );
      if (error === undefined) return result;
      if (missingModuleCodes.includes(error.code ?? ""))
        throw new KeytarMissingError(error.message);
      throw new Error(error.message);
    } catch (error) {
      // The worker stays blocked until the dialog is closed, and its result is no longer needed.
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

  #rejectWaiting(error: Error): void {
    this.#isAlive = false;
    for (const finish of this.#waiting.values()) finish(error);
  }
}

async function withTimeout<T>(timeoutMs: number, work: Promise<T>): Promise<T> {
  const { promise, reject } = Promise.withResolvers<never>();
  const timeout = new KeytarTimeoutError(`no reply within ${timeoutMs / 1000} seconds`);
  const timer = setTimeout(reject, timeoutMs, timeout);
  try {
    return await Promise.race([work, promise]);
  } finally {
    clearTimeout(timer);
  }
}
