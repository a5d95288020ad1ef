/**
 * Just enough D-Bus to ask something on the session bus, each answer awaited for so long and no longer. The wire format is
 * that of the D-Bus specification, "Message Protocol".
 */
import { createConnection, type Socket } from "node:net";

/** Starting a keyring daemon takes well under a second; the bus itself would wait two minutes for one. */
export const answerTimeoutMs = 5_000;

/** The other side answered, with an error. */
export class BusError extends Error {}

interface Message {
  readonly type: number;
  readonly replyTo: number | undefined;
  readonly path: string | undefined;
  readonly member: string | undefined;
  readonly body: Reader;
}

/** A string, an unsigned integer, a list of object paths, or a dictionary of strings. */
type Parameter = string | number | string[] | Readonly<Record<string, string>>;

const littleEndian = "l".charCodeAt(0);
const methodCall = 1;
const errorReply = 3;
const signal = 4;

/** Codes of a message's header fields. */
const headerField = { path: 1, service: 2, member: 3, replyTo: 5, destination: 6, signature: 8 };

/** One connection to a bus: calls one after the other, each with a bound. */
export class Bus {
  readonly #socket: Socket;
  readonly #messages: Message[] = [];
  #received: Buffer = Buffer.alloc(0);
  #serial = 0;
  #failure: Error | undefined;
  #wake: () => void = () => {};

  private constructor(socket: Socket) {
    this.#socket = socket;
    socket.on("data", (data) => {
      this.#received = Buffer.concat([this.#received, data]);
      this.#wake();
    });
    socket.on("error", (error) => this.#fail(error));
    socket.on("close", () => this.#fail(new Error("the bus closed the connection")));
  }

  /** Connects and says who we are: the user id, as hexadecimal digits of its decimal text. */
  static async connect(path: string): Promise<Bus> {
    const bus = new Bus(createConnection(path));
    const user = Buffer.from(String(process.geteuid?.() ?? 0)).toString("hex");
    try {
      bus.#socket.write(`\0AUTH EXTERNAL ${user}\r\n`);
      const answer = await bus.#within(answerTimeoutMs, () => bus.#takeLine());
      if (!answer.startsWith("OK ")) throw new Error(`the bus answered ${answer}`);
      bus.#socket.write("BEGIN\r\n");
      return bus;
    } catch (error) {
      bus.close();
      throw error;
    }
  }

  /** Calls a method; gives its reply's body to read. */
  async call(
    destination: string,
    path: string,
    service: string,
    member: string,
    ...parameters: Parameter[]
  ): Promise<Reader> {
    const serial = ++this.#serial;
    this.#socket.write(encodeCall(serial, { destination, path, service, member }, parameters));
    const reply = await this.#within(answerTimeoutMs, () =>
      this.#takeMessage((message) => message.replyTo === serial),
    );
    if (reply.type === errorReply) throw new BusError(reply.body.string());
    return reply.body;
  }

  /** Waits for a signal that an object sends to us. */
  async signal(path: string, member: string, timeoutMs: number): Promise<void> {
    await this.#within(timeoutMs, () =>
      this.#takeMessage(
        (message) => message.type === signal && message.path === path && message.member === member,
      ),
    );
  }

  close(): void {
    this.#socket.destroy();
  }

  #fail(error: Error): void {
    this.#failure ??= error;
    this.#wake();
  }

  /** Waits until `take` finds what it looks for in what was received. */
  async #within<T>(timeoutMs: number, take: () => T | undefined): Promise<T> {
    const timer = setTimeout(
      () => this.#fail(new Error(`no answer within ${timeoutMs / 1000} seconds`)),
      timeoutMs,
    );
    try {
      for (;;) {
        const found = take();
        if (found !== undefined) return found;
        if (this.#failure) throw this.#failure;
        await new Promise<void>((resolve) => {
          this.#wake = resolve;
        });
      }
    } finally {
      clearTimeout(timer);
    }
  }

  #takeLine(): string | undefined {
    const end = this.#received.indexOf("\r\n");
    if (end === -1) return undefined;
    const line = this.#received.toString("latin1", 0, end);
    this.#received = this.#received.subarray(end + 2);
    return line;
  }

  /** The first message received that `matches`; the others stay for whoever waits for them. */
  #takeMessage(matches: (message: Message) => boolean): Message | undefined {
    for (let next = this.#nextMessage(); next !== undefined; next = this.#nextMessage()) {
      this.#messages.push(next);
    }
    const index = this.#messages.findIndex(matches);
    return index === -1 ? undefined : this.#messages.splice(index, 1)[0];
  }

  /** Cuts a whole message off the bytes received. */
  #nextMessage(): Message | undefined {
    if (this.#received.length < 16) return undefined;
    const fixed = new Reader(this.#received, 4);
    const bodyLength = fixed.u32();
    fixed.u32();
    const fieldsEnd = 16 + fixed.u32();
    const bodyStart = align(fieldsEnd, 8);
    const end = bodyStart + bodyLength;
    if (this.#received.length < end) return undefined;
    const fields = readHeaderFields(new Reader(this.#received, 16, fieldsEnd));
    const text = (code: number) => {
      const value = fields.get(code);
      return typeof value === "string" ? value : undefined;
    };
    const replyTo = fields.get(headerField.replyTo);
    const message: Message = {
      type: this.#received.readUInt8(1),
      replyTo: typeof replyTo === "number" ? replyTo : undefined,
      path: text(headerField.path),
      member: text(headerField.member),
      body: new Reader(this.#received, bodyStart, end),
    };
    this.#received = this.#received.subarray(end);
    return message;
  }
}

/** Reads a message's values in the byte order that its first byte names. Alignment counts from the message's start. */
export class Reader {
  readonly #message: Buffer;
  readonly #end: number;
  #at: number;

  constructor(message: Buffer, at = 0, end = message.length) {
    this.#message = message;
    this.#at = at;
    this.#end = end;
  }

  get done(): boolean {
    return this.#at >= this.#end;
  }

  align(to: number): void {
    this.#at = align(this.#at, to);
  }

  byte(): number {
    return this.#message.readUInt8(this.#at++);
  }

  u32(): number {
    const at = align(this.#at, 4);
    this.#at = at + 4;
    return this.#message[0] === littleEndian
      ? this.#message.readUInt32LE(at)
      : this.#message.readUInt32BE(at);
  }

  string(): string {
    return this.#text(this.u32());
  }

  /** A list of strings or object paths. */
  strings(): string[] {
    const end = this.u32() + this.#at;
    const found: string[] = [];
    while (this.#at < end) found.push(this.string());
    return found;
  }

  /** Strings by strings. Each entry begins at a multiple of 8, the first after the length as well. */
  dictionary(): Map<string, string> {
    const length = this.u32();
    this.align(8);
    const end = this.#at + length;
    const found = new Map<string, string>();
    while (this.#at < end) {
      this.align(8);
      found.set(this.string(), this.string());
    }
    return found;
  }

  signature(): string {
    return this.#text(this.byte());
  }

  #text(length: number): string {
    const text = this.#message.toString("utf8", this.#at, this.#at + length);
    this.#at += length + 1;
    return text;
  }
}

/** A message's header fields: each a code and a variant, of which only three types occur. */
function readHeaderFields(fields: Reader): Map<number, string | number> {
  const found = new Map<number, string | number>();
  for (fields.align(8); !fields.done; fields.align(8)) {
    const code = fields.byte();
    const type = fields.signature();
    found.set(
      code,
      type === "u" ? fields.u32() : type === "g" ? fields.signature() : fields.string(),
    );
  }
  return found;
}

function isList(value: Parameter): value is string[] {
  return Array.isArray(value);
}

function encodeCall(
  serial: number,
  to: { destination: string; path: string; service: string; member: string },
  parameters: Parameter[],
): Buffer {
  const body = new Writer();
  let signature = "";
  for (const value of parameters) {
    if (typeof value === "string") {
      signature += "s";
      body.string(value);
    } else if (typeof value === "number") {
      signature += "u";
      body.u32(value);
    } else if (isList(value)) {
      signature += "ao";
      body.strings(value);
    } else {
      signature += "a{ss}";
      body.dictionary(value);
    }
  }
  const fields = new Writer();
  const field = (code: number, type: string, value: string) => {
    fields.align(8);
    fields.byte(code);
    fields.signature(type);
    if (type === "g") fields.signature(value);
    else fields.string(value);
  };
  field(headerField.path, "o", to.path);
  field(headerField.service, "s", to.service);
  field(headerField.member, "s", to.member);
  field(headerField.destination, "s", to.destination);
  if (signature !== "") field(headerField.signature, "g", signature);

  const message = new Writer();
  for (const byte of [littleEndian, methodCall, 0, 1]) message.byte(byte);
  message.u32(body.length);
  message.u32(serial);
  message.u32(fields.length);
  message.append(fields);
  message.align(8);
  message.append(body);
  return message.bytes();
}

/** Writes values in little-endian order, each aligned as D-Bus wants it. */
class Writer {
  readonly #data: number[] = [];

  get length(): number {
    return this.#data.length;
  }

  align(to: number): void {
    while (this.#data.length % to !== 0) this.#data.push(0);
  }

  byte(value: number): void {
    this.#data.push(value);
  }

  u32(value: number): void {
    this.align(4);
    for (const shift of [0, 8, 16, 24]) this.#data.push((value >>> shift) & 0xff);
  }

  string(text: string): void {
    this.u32(Buffer.byteLength(text));
    this.#data.push(...Buffer.from(text), 0);
  }

  signature(text: string): void {
    this.byte(text.length);
    this.#data.push(...Buffer.from(text), 0);
  }

  /** A list: its length in bytes, then its elements. */
  strings(texts: string[]): void {
    const elements = new Writer();
    for (const text of texts) elements.string(text);
    this.u32(elements.length);
    this.append(elements);
  }

  /** As `Reader.dictionary` reads it. The entries are written as if they began a message, which is aligned likewise. */
  dictionary(entries: Readonly<Record<string, string>>): void {
    const elements = new Writer();
    for (const [key, value] of Object.entries(entries)) {
      elements.align(8);
      elements.string(key);
      elements.string(value);
    }
    this.u32(elements.length);
    this.align(8);
    this.append(elements);
  }

  append(other: Writer): void {
    this.#data.push(...other.#data);
  }

  bytes(): Buffer {
    return Buffer.from(this.#data);
  }
}

function align(at: number, to: number): number {
  return Math.ceil(at / to) * to;
}
