/** A client of the session bus, with a time limit for each call and filtered signals. */
import { lstatSync } from "node:fs";
import { createConnection, type Socket } from "node:net";
import type { Environment } from "../config/paths.js";
import { messageOf } from "../errors.js";
import { abortReason } from "../process/abort.js";
import { sessionBusAddresses } from "./address.js";
import {
  type Call,
  encodeCall,
  type Message,
  messageType,
  ProtocolError,
  readMessage,
} from "./message.js";

/**
 * A call may start the keyring daemon, in well under a second. The bus would wait two minutes for a
 * broken daemon.
 */
export const replyTimeoutMs = 5_000;

export const busName = "org.freedesktop.DBus";
const busPath = "/org/freedesktop/DBus";

export class BusError extends Error {
  /** @param errorName - such as `org.freedesktop.DBus.Error.ServiceUnknown` */
  constructor(
    readonly errorName: string,
    text: string,
  ) {
    super(text === "" ? errorName : text);
  }
}

/** There is no bus, or the bus rejected this process. */
export class NoBusError extends Error {
  /** @param isForeign - whether the bus belongs to another user */
  constructor(
    message: string,
    readonly isForeign: boolean = false,
  ) {
    super(message);
  }
}

export class BusTimeoutError extends Error {}

interface PendingCall {
  readonly replySignature: string;
  readonly resolve: (values: readonly unknown[]) => void;
  readonly reject: (error: Error) => void;
}

export interface SignalFilter {
  readonly sender: string;
  readonly path: string;
  readonly interface: string;
  readonly member: string;
  readonly arg0?: string;
}

export class Bus implements AsyncDisposable {
  readonly #socket: Socket;
  readonly #signal: AbortSignal | undefined;
  readonly #pendingCalls = new Map<number, PendingCall>();
  readonly #listeners = new Set<(message: Message) => void>();
  readonly #failureListeners = new Set<(error: Error) => void>();
  #received: Buffer = Buffer.alloc(0);
  #isAuthenticated = false;
  #onLine: (line: string) => void = () => {};
  #serial = 0;
  #failure: Error | undefined;

  private constructor(socket: Socket, signal: AbortSignal | undefined) {
    this.#socket = socket;
    this.#signal = signal;
    socket.on("data", (data) => this.#receive(data));
    socket.on("error", (error) => this.#fail(error));
    socket.on("close", () => this.#fail(new Error("the bus closed the connection")));
    signal?.addEventListener("abort", this.#abort);
    if (signal?.aborted) this.#abort();
  }

  /**
   * Connects to the session bus, at the first working address.
   *
   * @param signal - when aborted, rejects pending and later calls
   * @throws {@link NoBusError} if no address works
   */
  static async session(environment: Environment, signal?: AbortSignal): Promise<Bus> {
    const { sockets, unusable } = sessionBusAddresses(environment);
    const problems = [...unusable];
    let isForeign = false;
    for (const path of sockets) {
      try {
        return await Bus.#connect(path, signal);
      } catch (error) {
        if (signal?.aborted) throw abortReason(signal);
        const owner = findForeignOwner(path);
        isForeign ||= owner !== undefined;
        // An abstract socket's usual form begins with @ instead of NUL.
        problems.push(
          owner === undefined
            ? `${path.replace(/^\0/, "@")}: ${messageOf(error)}`
            : `${path} belongs to the user with id ${owner}`,
        );
      }
    }
    throw new NoBusError(problems.join("; "), isForeign);
  }

  static async #connect(path: string, signal: AbortSignal | undefined): Promise<Bus> {
    const bus = new Bus(createConnection(path), signal);
    try {
      await bus.#authenticate();
      await bus.call(
        { destination: busName, path: busPath, interface: busName, member: "Hello" },
        "s",
      );
      return bus;
    } catch (error) {
      bus.close();
      throw error;
    }
  }

  /**
   * Authenticates by the socket's credentials, without a user id: inside a user namespace, the bus
   * sees another id than this process does.
   */
  async #authenticate(): Promise<void> {
    this.#socket.write("\0AUTH EXTERNAL\r\n");
    const data = await this.#readLine();
    if (!data.startsWith("DATA")) throw new Error(`authentication failed: ${data}`);
    this.#socket.write("DATA\r\n");
    const accepted = await this.#readLine();
    if (!accepted.startsWith("OK ")) throw new Error(`authentication failed: ${accepted}`);
    this.#isAuthenticated = true;
    this.#socket.write("BEGIN\r\n");
  }

  /**
   * Calls a method and returns the values of its reply.
   *
   * @param replySignature - the expected signature of the reply
   * @throws {@link BusError} if the peer replies with an error
   * @throws {@link BusTimeoutError} if the peer does not reply in time
   * @throws {@link ProtocolError} if the reply has another signature
   * @throws the error of the connection, if it fails during the call or has failed before
   */
  async call(
    call: Call,
    replySignature: string,
    timeoutMs = replyTimeoutMs,
  ): Promise<readonly unknown[]> {
    const serial = ++this.#serial;
    const bytes = encodeCall(serial, call);
    return await this.#within(timeoutMs, (resolve, reject) => {
      this.#pendingCalls.set(serial, { replySignature, resolve, reject });
      this.#socket.write(bytes);
      return () => this.#pendingCalls.delete(serial);
    });
  }

  async callBus(member: string, arg: string, replySignature: string): Promise<readonly unknown[]> {
    return await this.call(
      {
        destination: busName,
        path: busPath,
        interface: busName,
        member,
        signature: "s",
        args: [arg],
      },
      replySignature,
    );
  }

  /**
   * Subscribes to a signal. Returns as soon as the bus has accepted the match rule, and does not
   * wait for the signal. The rule is needed even for signals meant for this client, because some
   * services broadcast them.
   */
  async subscribe(
    filter: SignalFilter,
    listener: (values: readonly unknown[]) => void,
  ): Promise<void> {
    this.#listeners.add((message) => {
      if (matches(filter, message)) listener(message.body);
    });
    const rule = Object.entries({ type: "signal", ...filter })
      .map(([key, value]) => `${key}='${value}'`)
      .join(",");
    await this.callBus("AddMatch", rule, "");
  }

  /** Calls `listener` if the connection fails, or if the signal given to `session` is aborted. */
  onFailure(listener: (error: Error) => void): void {
    this.#failureListeners.add(listener);
    if (this.#failure) listener(this.#failure);
  }

  close(): void {
    this.#signal?.removeEventListener("abort", this.#abort);
    this.#failure ??= new Error("the connection is closed");
    this.#socket.destroy();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.close();
  }

  readonly #abort = () => {
    if (this.#signal) this.#fail(abortReason(this.#signal));
  };

  #readLine(): Promise<string> {
    return this.#within(replyTimeoutMs, (resolve) => {
      this.#onLine = resolve;
      this.#parse();
      return () => {
        this.#onLine = () => {};
      };
    });
  }

  /** Waits until `start` resolves. Rejects at the time limit or at a failure of the connection. */
  #within<T>(
    timeoutMs: number,
    start: (resolve: (value: T) => void, reject: (error: Error) => void) => () => void,
  ): Promise<T> {
    if (this.#failure) return Promise.reject(this.#failure);
    const { promise, resolve, reject } = Promise.withResolvers<T>();
    const timeout = new BusTimeoutError(`no reply within ${timeoutMs / 1000} seconds`);
    const timer = setTimeout(reject, timeoutMs, timeout);
    this.#failureListeners.add(reject);
    const stop = start(resolve, reject);
    return promise.finally(() => {
      clearTimeout(timer);
      this.#failureListeners.delete(reject);
      stop();
    });
  }

  #fail(error: Error): void {
    this.#failure ??= error;
    for (const listener of [...this.#failureListeners]) listener(this.#failure);
    this.#socket.destroy();
  }

  #receive(data: Buffer): void {
    this.#received = Buffer.concat([this.#received, data]);
    this.#parse();
  }

  #parse(): void {
    try {
      if (!this.#isAuthenticated) this.#parseLine();
      if (this.#isAuthenticated) this.#parseMessages();
    } catch (error) {
      this.#fail(error instanceof Error ? error : new Error(String(error)));
    }
  }

  #parseLine(): void {
    const end = this.#received.indexOf("\r\n");
    if (end === -1) return;
    const line = this.#received.toString("latin1", 0, end);
    this.#received = this.#received.subarray(end + 2);
    this.#onLine(line);
  }

  #parseMessages(): void {
    for (;;) {
      const found = readMessage(this.#received);
      if (found === undefined) return;
      this.#received = this.#received.subarray(found.length);
      this.#dispatch(found.message);
    }
  }

  #dispatch(message: Message): void {
    if (message.type === messageType.signal) {
      for (const listener of this.#listeners) listener(message);
      return;
    }
    const pending = this.#pendingCalls.get(message.replySerial ?? 0);
    if (pending === undefined) return;
    if (message.type === messageType.error) {
      const [text] = message.body;
      const name = message.errorName ?? "unnamed error";
      pending.reject(new BusError(name, typeof text === "string" ? text : ""));
    } else if (message.type !== messageType.reply) {
      return;
    } else if (message.signature === pending.replySignature) {
      pending.resolve(message.body);
    } else {
      pending.reject(
        new ProtocolError(
          `a reply has the signature "${message.signature}", not "${pending.replySignature}"`,
        ),
      );
    }
  }
}

function matches(filter: SignalFilter, message: Message): boolean {
  return (
    message.sender === filter.sender &&
    message.path === filter.path &&
    message.interface === filter.interface &&
    message.member === filter.member &&
    (filter.arg0 === undefined || message.body[0] === filter.arg0)
  );
}

/**
 * Returns the id of the user who owns a socket; undefined if that is the user of this process. The
 * bus of another user accepts the authentication and then closes the connection without a reason.
 */
function findForeignOwner(path: string): number | undefined {
  try {
    const { uid } = lstatSync(path);
    return uid === process.geteuid?.() ? undefined : uid;
  } catch {
    return undefined;
  }
}
