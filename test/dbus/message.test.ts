/** D-Bus messages that are unusual, and bytes that are none. */
import { expect, test } from "vitest";
import { encodeCall, ProtocolError, readMessage, Variant } from "../../src/dbus/message.js";

const call = { destination: "a.b", path: "/a", interface: "a.b", member: "M" };

/** A message with the header fields and the body of a call whose arguments are `args`. */
function message(signature: string, args: readonly unknown[]): Buffer {
  return encodeCall(7, { ...call, signature, args });
}

/** Puts another header field in front of those of a message. */
function withField(code: number, value: string): Buffer {
  const bytes = message("s", ["body"]);
  const length = bytes.readUInt32LE(12);
  const field = Buffer.concat([
    Buffer.from([code, 1, "s".charCodeAt(0), 0]),
    uint32(Buffer.byteLength(value)),
    Buffer.from(`${value}\0`),
  ]);
  const padded = Buffer.concat([field, Buffer.alloc((8 - (field.length % 8)) % 8)]);
  const header = Buffer.from(bytes.subarray(0, 16));
  header.writeUInt32LE(length + padded.length, 12);
  return Buffer.concat([header, padded, bytes.subarray(16)]);
}

function uint32(value: number): Buffer {
  const bytes = Buffer.alloc(4);
  bytes.writeUInt32LE(value);
  return bytes;
}

test("a message without a body", () => {
  const found = readMessage(encodeCall(7, call));
  expect(found?.message).toMatchObject({ serial: 7, member: "M", signature: "", body: [] });
});

test("header fields that the specification does not know are skipped", () => {
  const found = readMessage(withField(200, "later"));
  expect(found?.message).toMatchObject({ member: "M", body: ["body"] });
});

test("a header field of another type than the specification's is refused", () => {
  expect(() => readMessage(withField(5, "not a serial"))).toThrow(
    new ProtocolError("header field replySerial has the type s"),
  );
});

test("values come back as they were written", () => {
  const dictionary = new Map([["k", new Variant("s", "v")]]);
  const args = ["ä", ["/a", "/b"], dictionary, ["/s", Buffer.from([1, 2]), Buffer.alloc(0), "t"]];
  expect(readMessage(message("saoa{sv}(oayays)", args))?.message.body).toEqual(args);
});

test("a message in pieces is incomplete, whatever the pieces", () => {
  const bytes = message("sas", ["text", ["a", "bc"]]);
  for (let length = 0; length < bytes.length; length++) {
    expect(readMessage(bytes.subarray(0, length))).toBeUndefined();
  }
  expect(readMessage(Buffer.concat([bytes, bytes]))?.length).toBe(bytes.length);
});

test("every changed byte is another message, an incomplete one, or a protocol error", () => {
  const bytes = message("sa{sv}(oayays)", [
    "text",
    new Map([["k", new Variant("as", ["v"])]]),
    ["/s", Buffer.from([1]), Buffer.alloc(3), "t"],
  ]);
  for (let offset = 0; offset < bytes.length; offset++) {
    for (const byte of [0, 1, 0x28, 0x61, 0x7f, 0xff]) {
      const changed = Buffer.from(bytes);
      changed[offset] = byte;
      try {
        readMessage(changed);
      } catch (error) {
        expect(error).toBeInstanceOf(ProtocolError);
      }
    }
  }
});
