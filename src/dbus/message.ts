/**
 * D-Bus messages as bytes. See the D-Bus specification, "Message Protocol".
 *
 * Values are read and written by their signature. JavaScript types: numbers (bigints for 64 bits),
 * booleans, strings, arrays for `a` and structs, Map for dictionaries, Buffer for `ay`, and
 * {@link Variant}.
 */

/** The peer sent bytes that are not a D-Bus message. */
export class ProtocolError extends Error {}

export class Variant {
  constructor(
    readonly signature: string,
    readonly value: unknown,
  ) {}
}

export const messageType = { call: 1, reply: 2, error: 3, signal: 4 } as const;

export interface Message {
  readonly type: number;
  readonly serial: number;
  readonly path?: string | undefined;
  readonly interface?: string | undefined;
  readonly member?: string | undefined;
  readonly errorName?: string | undefined;
  readonly replySerial?: number | undefined;
  readonly sender?: string | undefined;
  /** The body's signature; empty without a body. */
  readonly signature: string;
  readonly body: readonly unknown[];
}

export interface Call {
  readonly destination: string;
  readonly path: string;
  readonly interface: string;
  readonly member: string;
  readonly signature?: string;
  readonly args?: readonly unknown[];
}

const littleEndian = "l".charCodeAt(0);
const bigEndian = "B".charCodeAt(0);
const protocolVersion = 1;
const fixedHeaderSize = 16;
/** The specification's limits, in bytes. */
const maxMessageSize = 128 * 1024 * 1024;
const maxArraySize = 64 * 1024 * 1024;
/** The maximal nesting of containers in a value, as in the reference implementation. */
const maxDepth = 64;

/** The size of a type in bytes, which is its alignment, too, and a function to read a value. */
type FixedType = readonly [
  size: 1 | 2 | 4 | 8,
  read: (view: DataView, isLittleEndian: boolean) => unknown,
];

const byte: FixedType = [1, (view) => view.getUint8(0)];
const uint32: FixedType = [4, (view, isLittleEndian) => view.getUint32(0, isLittleEndian)];

const fixedTypes: Readonly<Record<string, FixedType>> = {
  y: byte,
  b: [4, (view, isLittleEndian) => view.getUint32(0, isLittleEndian) !== 0],
  n: [2, (view, isLittleEndian) => view.getInt16(0, isLittleEndian)],
  q: [2, (view, isLittleEndian) => view.getUint16(0, isLittleEndian)],
  i: [4, (view, isLittleEndian) => view.getInt32(0, isLittleEndian)],
  u: uint32,
  h: uint32,
  x: [8, (view, isLittleEndian) => view.getBigInt64(0, isLittleEndian)],
  t: [8, (view, isLittleEndian) => view.getBigUint64(0, isLittleEndian)],
  d: [8, (view, isLittleEndian) => view.getFloat64(0, isLittleEndian)],
};

/** Header fields by code, with their types in the specification. */
const headerFields = new Map<number, { name: keyof Message | "destination"; type: string }>([
  [1, { name: "path", type: "o" }],
  [2, { name: "interface", type: "s" }],
  [3, { name: "member", type: "s" }],
  [4, { name: "errorName", type: "s" }],
  [5, { name: "replySerial", type: "u" }],
  [6, { name: "destination", type: "s" }],
  [7, { name: "sender", type: "s" }],
  [8, { name: "signature", type: "g" }],
]);

/**
 * Returns the first message in `data` and its length, or undefined if it is not complete yet.
 *
 * @throws {@link ProtocolError} for bytes that are not a message
 */
export function readMessage(data: Buffer): { message: Message; length: number } | undefined {
  if (data.length < fixedHeaderSize) return undefined;
  const endianness = data[0];
  if (endianness !== littleEndian && endianness !== bigEndian) {
    throw new ProtocolError("not a D-Bus message");
  }
  if (data[3] !== protocolVersion) throw new ProtocolError(`D-Bus protocol version ${data[3]}`);
  const fixed = new Reader(data.subarray(0, fixedHeaderSize), 4);
  const [bodyLength, serial, fieldsLength] = [fixed.u32(), fixed.u32(), fixed.u32()];
  const bodyStart = align(fixedHeaderSize + fieldsLength, 8);
  const length = bodyStart + bodyLength;
  if (fieldsLength > maxArraySize || length > maxMessageSize) {
    throw new ProtocolError("the message is too long");
  }
  if (data.length < length) return undefined;
  const fields = readHeaderFields(data.subarray(0, fixedHeaderSize + fieldsLength));
  const signature = fields.signature ?? "";
  const body = new Reader(data.subarray(0, length), bodyStart).values(signature);
  const message = { ...fields, type: data[1] ?? 0, serial, signature, body };
  return { message, length };
}

/** Reads the fields of the specification and skips all others, as the specification requires. */
function readHeaderFields(data: Buffer): Partial<Message> {
  const found: Record<string, unknown> = {};
  const reader = new Reader(data, 12);
  for (const [code, { signature, value }] of reader.value("a(yv)") as [number, Variant][]) {
    const field = headerFields.get(code);
    if (field === undefined) continue;
    if (signature !== field.type) {
      throw new ProtocolError(`header field ${field.name} has the type ${signature}`);
    }
    found[field.name] = value;
  }
  return found;
}

export function encodeCall(serial: number, call: Call): Buffer {
  const body = new Writer();
  const signature = call.signature ?? "";
  body.values(signature, call.args ?? []);
  const values: Record<string, unknown> = { ...call, ...(signature && { signature }) };
  const fields: [number, Variant][] = [];
  for (const [code, { name, type }] of headerFields) {
    if (values[name]) fields.push([code, new Variant(type, values[name])]);
  }
  const message = new Writer();
  message.values("yyyyuua(yv)", [
    littleEndian,
    messageType.call,
    0,
    protocolVersion,
    body.length,
    serial,
    fields,
  ]);
  message.align(8);
  message.append(body);
  return message.bytes();
}

/** Reads values. Alignment counts from the start of the message. */
class Reader {
  readonly #data: Buffer;
  readonly #isLittleEndian: boolean;
  #offset: number;

  constructor(message: Buffer, offset: number) {
    this.#data = message;
    this.#isLittleEndian = message[0] === littleEndian;
    this.#offset = offset;
  }

  values(signature: string): unknown[] {
    return splitSignature(signature).map((type) => this.value(type));
  }

  /** @param type - a single complete type */
  value(type: string, depth = 0): unknown {
    if (depth > maxDepth) throw new ProtocolError("a value is nested too deeply");
    const fixed = fixedTypes[type];
    if (fixed !== undefined) return this.#fixed(fixed);
    switch (type[0]) {
      case "s":
      case "o":
        return this.#text(this.u32());
      case "g":
        return this.#signature();
      case "v": {
        const signature = this.#signature();
        if (splitSignature(signature).length !== 1) {
          throw new ProtocolError(`a variant has the signature "${signature}"`);
        }
        return new Variant(signature, this.value(signature, depth + 1));
      }
      case "(":
      case "{":
        this.#align(8);
        return splitSignature(type.slice(1, -1)).map((part) => this.value(part, depth + 1));
      case "a":
        return this.#array(type.slice(1), depth);
      default:
        throw new ProtocolError(`unknown type "${type}"`);
    }
  }

  u32(): number {
    return Number(this.#fixed(uint32));
  }

  #array(type: string, depth: number): unknown {
    const length = this.u32();
    if (length > maxArraySize) throw new ProtocolError("an array is too long");
    this.#align(alignmentOf(type));
    if (type === "y") return Buffer.from(this.#take(length));
    const end = this.#offset + length;
    if (end > this.#data.length) throw new ProtocolError("an array exceeds its message");
    const values: unknown[] = [];
    while (this.#offset < end) values.push(this.value(type, depth + 1));
    if (this.#offset !== end)
      throw new ProtocolError("an array has another length than its values");
    return type.startsWith("{") ? new Map(values as [unknown, unknown][]) : values;
  }

  #fixed([size, read]: FixedType): unknown {
    this.#align(size);
    const { buffer, byteOffset } = this.#take(size);
    return read(new DataView(buffer, byteOffset, size), this.#isLittleEndian);
  }

  #signature(): string {
    return this.#text(Number(this.#fixed(byte)));
  }

  /** Reads a text of `length` bytes and the NUL after it. */
  #text(length: number): string {
    const text = this.#take(length).toString("utf8");
    this.#take(1);
    return text;
  }

  #align(to: number): void {
    this.#offset = align(this.#offset, to);
  }

  #take(length: number): Buffer {
    const end = this.#offset + length;
    if (end > this.#data.length) throw new ProtocolError("a value exceeds its message");
    const bytes = this.#data.subarray(this.#offset, end);
    this.#offset = end;
    return bytes;
  }
}

/** Writes values in little-endian order. */
class Writer {
  readonly #data: number[] = [];

  get length(): number {
    return this.#data.length;
  }

  values(signature: string, values: readonly unknown[]): void {
    for (const [index, type] of splitSignature(signature).entries()) {
      this.#value(type, values[index]);
    }
  }

  align(to: number): void {
    while (this.#data.length % to !== 0) this.#data.push(0);
  }

  append(other: Writer): void {
    for (const byte of other.#data) this.#data.push(byte);
  }

  bytes(): Buffer {
    return Buffer.from(this.#data);
  }

  /** Writes a value of the types sent by this project. A new call may need another type. */
  #value(type: string, value: unknown): void {
    switch (type[0]) {
      case "y":
        this.#data.push(Number(value));
        break;
      case "b":
      case "u":
        this.#u32(Number(value));
        break;
      case "s":
      case "o":
        this.#u32(Buffer.byteLength(String(value)));
        this.#text(String(value));
        break;
      case "g":
        this.#data.push(Buffer.byteLength(String(value)));
        this.#text(String(value));
        break;
      case "v": {
        const variant = value as Variant;
        this.values("g", [variant.signature]);
        this.values(variant.signature, [variant.value]);
        break;
      }
      case "(":
      case "{":
        this.align(8);
        this.values(type.slice(1, -1), value as unknown[]);
        break;
      case "a":
        this.#array(type.slice(1), [...(value as Iterable<unknown>)]);
        break;
      default:
        throw new Error(`cannot write the type ${type}`);
    }
  }

  /** Writes an array. Its length excludes the padding before the first element. */
  #array(type: string, values: readonly unknown[]): void {
    this.#u32(0);
    const lengthOffset = this.#data.length - 4;
    this.align(alignmentOf(type));
    const start = this.#data.length;
    for (const value of values) this.#value(type, value);
    const length = this.#data.length - start;
    for (const [index, shift] of [0, 8, 16, 24].entries()) {
      this.#data[lengthOffset + index] = (length >>> shift) & 0xff;
    }
  }

  #u32(value: number): void {
    this.align(4);
    for (const shift of [0, 8, 16, 24]) this.#data.push((value >>> shift) & 0xff);
  }

  #text(text: string): void {
    for (const byte of Buffer.from(text)) this.#data.push(byte);
    this.#data.push(0);
  }
}

/**
 * Splits a signature into its single complete types.
 *
 * @throws {@link ProtocolError} for a malformed signature
 */
function splitSignature(signature: string): string[] {
  const types: string[] = [];
  for (let start = 0; start < signature.length; ) {
    const end = findTypeEnd(signature, start);
    types.push(signature.slice(start, end));
    start = end;
  }
  return types;
}

function findTypeEnd(signature: string, start: number, depth = 0): number {
  const code = signature[start];
  if (code === undefined || depth > maxDepth) {
    throw new ProtocolError(`malformed signature "${signature}"`);
  }
  if (code === "a") return findTypeEnd(signature, start + 1, depth + 1);
  if (code !== "(" && code !== "{") {
    if (!"ybnqiuxtdsoghv".includes(code)) {
      throw new ProtocolError(`malformed signature "${signature}"`);
    }
    return start + 1;
  }
  const close = code === "(" ? ")" : "}";
  let end = start + 1;
  while (signature[end] !== close) end = findTypeEnd(signature, end, depth + 1);
  if (end === start + 1) throw new ProtocolError(`malformed signature "${signature}"`);
  return end + 1;
}

function alignmentOf(type: string): number {
  const [code = ""] = type;
  if ("gv".includes(code)) return 1;
  return fixedTypes[code]?.[0] ?? ("({".includes(code) ? 8 : 4);
}

function align(offset: number, to: number): number {
  return Math.ceil(offset / to) * to;
}
