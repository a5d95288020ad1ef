/**
 * Generates documents: valid ones, and the same with errors in their structure, values or bytes.
 */
import fc from "fast-check";
import { secretMark } from "./campaign.js";

/** Texts that have caused errors before. */
const nasty = [
  "",
  " ",
  "\0",
  "__proto__",
  "constructor",
  "toString",
  "revoked",
  "None",
  "true",
  "\ud800",
  "x\udfffy",
  "\u2028",
  "\ufeff",
  "\x1b[2J",
  "../../etc/passwd",
  "/",
  "é𝒳玄関",
  "a\r\nb",
  "'\"`;--/*",
  "%s$PATH\\",
  "1e999",
  "9007199254740993",
  "-1",
  "<script>&amp;",
  "x".repeat(5000),
  " ".repeat(3000),
  '"'.repeat(500),
];

export const wildText: fc.Arbitrary<string> = fc.oneof(
  { arbitrary: fc.constantFrom(...nasty), weight: 3 },
  { arbitrary: fc.string({ unit: "grapheme-ascii", maxLength: 20 }), weight: 2 },
  { arbitrary: fc.string({ unit: "binary", maxLength: 12 }), weight: 1 },
);

/** A secret of a client or a store. */
export const secret: fc.Arbitrary<string> = fc
  .string({ unit: "grapheme-ascii", maxLength: 12 })
  .map((rest) => secretMark + rest);

const numbers = [
  ...["0", "-0", "1", "-1", "1.0", "-0.0", "1e16", "1e+16", "1E-7", "5e-324", "1e999", "-1e999"],
  ...["9007199254740991", "9007199254740992", "9007199254740993", "-9007199254740993"],
  ...["9223372036854775807", "9223372036854775808", "1".repeat(400), `0.${"3".repeat(400)}`],
  ...["NaN", "Infinity", "-Infinity", "01", "1.", ".5", "+1", "0x10", "1_000", "--1", "nan"],
];

const deep = fc
  .tuple(fc.constantFrom("[", '{"a":', '[{"a":['), fc.constantFrom(3, 999, 1990, 2010, 60_000))
  .map(([open, times]) => {
    const close = [...open].reverse().map((sign) => ({ "[": "]", "{": "}" })[sign] ?? "");
    return `${open.repeat(times)}1${close.join("").repeat(times)}`;
  });

const keys = ["a", "b", "__proto__", "constructor", "client_id", "metadata", "1", "0", "é"];

/** Any JSON value, and some texts that are not JSON. */
export const wildJson: fc.Arbitrary<string> = fc.letrec<{ value: string }>((tie) => ({
  value: fc.oneof(
    { depthSize: "small", withCrossShrink: true },
    { arbitrary: fc.constantFrom("null", "true", "false", "[]", "{}", '""'), weight: 80 },
    { arbitrary: fc.constantFrom(...numbers), weight: 60 },
    { arbitrary: wildText.map((text) => JSON.stringify(text)), weight: 80 },
    {
      arbitrary: fc.constantFrom('"\\ud800"', '"\\x41"', '"a\nb"', "'a'", "undefined"),
      weight: 20,
    },
    { arbitrary: fc.array(tie("value"), { maxLength: 4 }).map(listText), weight: 40 },
    { arbitrary: fc.array(memberOf(tie("value")), { maxLength: 4 }).map(objectText), weight: 40 },
    { arbitrary: deep, weight: 1 },
  ),
})).value;

function memberOf(value: fc.Arbitrary<string>): fc.Arbitrary<string> {
  const key = fc.constantFrom(...keys);
  return fc.tuple(key, value).map(([name, text]) => `${JSON.stringify(name)}: ${text}`);
}

function listText(items: readonly string[]): string {
  return `[${items.join(", ")}]`;
}

function objectText(members: readonly string[]): string {
  return `{${members.join(", ")}}`;
}

/** The members of an object by their keys. Each value is JSON text. */
export type Fields = Readonly<Record<string, fc.Arbitrary<string>>>;

/** Returns a value as JSON text. */
export function json(value: unknown): fc.Arbitrary<string> {
  return fc.constant(JSON.stringify(value));
}

export function jsonOf(values: fc.Arbitrary<unknown>): fc.Arbitrary<string> {
  return values.map((value) => JSON.stringify(value));
}

/**
 * Returns the text of an object with these members: all correct, or some missing, duplicated, of
 * another kind, in another order, or with additional members.
 */
export function objectOf(fields: Fields, wildness = 12): fc.Arbitrary<string> {
  const members = Object.entries(fields).map(([key, value]) => {
    const name = JSON.stringify(key);
    const whole = value.map((text) => [`${name}: ${text}`]);
    return fc.oneof(
      { arbitrary: whole, weight: wildness * 4 },
      { arbitrary: wildJson.map((text) => [`${name}: ${text}`]), weight: 1 },
      { arbitrary: fc.constant<string[]>([]), weight: 1 },
      {
        arbitrary: fc.tuple(whole, wildJson).map(([one, text]) => [...one, `${name}:${text}`]),
        weight: 1,
      },
    );
  });
  const others = fc.oneof(
    { arbitrary: fc.constant<string[]>([]), weight: wildness },
    { arbitrary: fc.array(memberOf(wildJson), { maxLength: 2 }), weight: 1 },
  );
  return fc
    .tuple(
      fc.tuple(...members),
      others,
      fc.nat(wildness),
      fc.constantFrom("", " ", "\n  ", "\r\n\t"),
    )
    .map(([known, more, order, space]) => {
      const all = [...known.flat(), ...more];
      if (order === 0) all.reverse();
      return `{${all.map((text) => space + text).join(",")}${space.replace(/[ \t]*$/, "")}}`;
    });
}

interface Harm {
  readonly kind: "flip" | "cut" | "drop" | "twice" | "put" | "bom" | "crlf" | "swap";
  /** The position, from 0 to 1. */
  readonly at: number;
  readonly length: number;
  readonly bytes: Uint8Array;
}

const harm: fc.Arbitrary<Harm> = fc.record({
  kind: fc.constantFrom("flip", "flip", "cut", "drop", "twice", "put", "bom", "crlf", "swap"),
  at: fc.nat(1_000_000).map((millionths) => millionths / 1_000_001),
  length: fc.integer({ min: 1, max: 40 }),
  bytes: fc.oneof(
    fc.uint8Array({ minLength: 1, maxLength: 6 }),
    fc
      .constantFrom('"', "{", "}", "[", ",", "\0", "#", "//", "\n", "\r", "\u2028", "\ud800")
      .map((text) => Buffer.from(text)),
  ),
});

function harmed(bytes: Buffer, { kind, at, length, bytes: more }: Harm): Buffer {
  const from = Math.floor(at * bytes.length);
  const to = Math.min(bytes.length, from + length);
  const [before, middle, after] = [
    bytes.subarray(0, from),
    bytes.subarray(from, to),
    bytes.subarray(to),
  ];
  switch (kind) {
    case "flip": {
      const flipped = Buffer.from(bytes);
      if (from < flipped.length) flipped[from] = (flipped[from] ?? 0) ^ (1 << (length % 8));
      return flipped;
    }
    case "cut":
      return before;
    case "drop":
      return Buffer.concat([before, after]);
    case "twice":
      return Buffer.concat([before, middle, middle, after]);
    case "put":
      return Buffer.concat([before, more, middle, after]);
    case "bom":
      return Buffer.concat([Buffer.from("\ufeff"), bytes]);
    case "crlf":
      return Buffer.from(bytes.toString("latin1").replaceAll("\n", "\r\n"), "latin1");
    case "swap":
      return Buffer.concat([before, after, middle]);
  }
}

/**
 * Returns the bytes of documents. Half of them are unchanged, the others are damaged at a few
 * positions.
 */
export function bytesOf(documents: fc.Arbitrary<string | Uint8Array>): fc.Arbitrary<Buffer> {
  const harms = fc.oneof(
    { arbitrary: fc.constant<Harm[]>([]), weight: 3 },
    { arbitrary: fc.array(harm, { minLength: 1, maxLength: 3 }), weight: 2 },
  );
  return fc
    .tuple(documents, harms)
    .map(([document, all]) => all.reduce(harmed, Buffer.from(document as Uint8Array)));
}

/** Returns the fields of a client's record, as HiveMind's plugins write them. */
export function recordFields(id: fc.Arbitrary<number>): Fields {
  const list = jsonOf(
    fc.array(fc.constantFrom("speak", "a:b", "skill-x", "é", ""), { maxLength: 3 }),
  );
  const truth = fc.constantFrom("true", "false", "null");
  const text = jsonOf(wildText);
  return {
    client_id: jsonOf(id),
    api_key: jsonOf(fc.oneof({ arbitrary: secret, weight: 6 }, fc.constant("revoked"))),
    name: text,
    description: text,
    is_admin: truth,
    last_seen: fc.constantFrom("-1", "1763900000.25", "1.0", "null"),
    intent_blacklist: list,
    skill_blacklist: list,
    message_blacklist: list,
    allowed_types: list,
    crypto_key: fc.oneof(json(null), jsonOf(secret)),
    password: fc.oneof(json(null), jsonOf(secret)),
    can_broadcast: truth,
    can_escalate: truth,
    can_propagate: truth,
    metadata: fc.oneof(json({}), json({ skill_blacklist: ["x"], n: 1 }), wildJson),
  };
}
