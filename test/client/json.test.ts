import { execFileSync } from "node:child_process";
import fc from "fast-check";
import { describe, expect, test } from "vitest";
import {
  formatJson,
  JsonNumber,
  type JsonValue,
  parseJson,
  sameJson,
} from "../../src/client/json.js";

/** What the real `json` module makes of each text: loads, then dumps with these options. */
function throughPython(texts: string[], options = ""): string[] {
  const script = `import json, sys
for text in json.load(sys.stdin): print(json.dumps(json.dumps(json.loads(text)${options})))`;
  const output = execFileSync("python3", ["-c", script], {
    input: JSON.stringify(texts),
    encoding: "utf8",
    maxBuffer: 1 << 28,
  });
  return output
    .trimEnd()
    .split("\n")
    .map((line) => JSON.parse(line));
}

/**
 * JSON texts of every kind: Python normalises them, so that what comes back is what `json.dumps`
 * writes.
 */
const numberText = fc.oneof(
  fc.double({ noDefaultInfinity: true, noNaN: true }).map((value) => String(value)),
  fc.bigInt().map(String),
  fc.integer().map((value) => `${value}.0`),
  fc
    .tuple(fc.integer({ min: 1, max: 9 }), fc.nat(99_999_999), fc.integer({ min: -320, max: 308 }))
    .map(([first, rest, exponent]) => `${first}.${rest}e${exponent}`),
  fc.constantFrom(
    "NaN",
    "Infinity",
    "-Infinity",
    "-0.0",
    "1e16",
    "9999999999999998.0",
    "1e-4",
    "0.00001",
  ),
);
const keyText = fc
  .oneof(
    fc.string({ unit: "binary" }),
    fc.nat(30).map(String),
    fc.constantFrom("__proto__", "constructor", "10", "2", "-1", "01", "\ud800", "z\udc00"),
  )
  .map((key) => JSON.stringify(key));
const { document } = fc.letrec<{ document: string }>((tie) => ({
  document: fc.oneof(
    { depthSize: "small", withCrossShrink: true },
    numberText,
    keyText,
    fc.constantFrom("null", "true", "false"),
    fc.array(tie("document"), { maxLength: 5 }).map((items) => `[${items.join(",")}]`),
    fc
      .array(fc.tuple(keyText, tie("document")), { maxLength: 6 })
      .map((members) => `{${members.map(([key, value]) => `${key}:${value}`).join(",")}}`),
  ),
}));
const samples = fc.sample(document, { numRuns: 5_000, seed: 20 });

describe("JSON as Python writes it", () => {
  test("anything json.dumps wrote comes back byte for byte", () => {
    for (const text of throughPython(samples)) expect(formatJson(parseJson(text))).toBe(text);
  });

  test("sorted keys and kept non-ASCII characters are Python's, at every level", () => {
    // Half a surrogate pair has no UTF-8 form: here it stays escaped, so those samples are left
    // out.
    const texts = samples.filter((text) => !/\\u[dD][89a-fA-F]|\p{Surrogate}/u.test(text));
    const written = throughPython(texts, ", sort_keys=True, ensure_ascii=False");
    const indented = throughPython(texts, ", indent=4, ensure_ascii=False");
    for (const [index, text] of throughPython(texts).entries()) {
      const value = parseJson(text);
      expect(formatJson(value, { sortKeys: true, ascii: false })).toBe(written[index]);
      expect(formatJson(value, { indent: 4, ascii: false })).toBe(indented[index]);
    }
  });

  test("JavaScript numbers are written as the same number in Python", () => {
    const values = [
      0.1,
      1e21,
      1e16,
      123456789012345680,
      2 ** 53,
      1e-7,
      1e-4,
      0.00012,
      -5e-324,
      1.5e300,
    ];
    const texts = values.map((value) => formatJson(value));
    expect(throughPython(texts)).toEqual(texts);
    expect(texts.map(Number)).toEqual(values);
    const strict = formatJson(
      { a: [1, Number.NaN, -1 / 0], b: {} },
      { compact: true, strict: true },
    );
    expect(strict).toBe('{"a":[1,null,null],"b":{}}');
    expect(formatJson([3, -7, 0, -0, Number.NaN, -1 / 0])).toBe("[3, -7, 0, -0.0, NaN, -Infinity]");
  });

  test("what JavaScript would change is kept as its text", () => {
    for (const text of ["1.0", "NaN", "-Infinity", "9007199254740993", "-0", "1.50", "1E5"]) {
      const value = parseJson(text);
      expect(value).toBeInstanceOf(JsonNumber);
      expect(formatJson(value)).toBe(text);
    }
    for (const value of [1, -5, 0.1, 1e-5, 1e16, 9007199254740991]) {
      expect(parseJson(formatJson(value))).toBe(value);
    }
  });

  test("keys that look like integers keep their place, also when others are added and removed", () => {
    const text = '{"b": 1, "10": 2, "2": 3, "__proto__": 4}';
    const object = parseJson(text) as Record<string, JsonValue>;
    expect(formatJson(object)).toBe(text);
    const { b: _, ...rest } = object;
    expect(formatJson({ ...rest, "5": 5 })).toBe('{"10": 2, "2": 3, "__proto__": 4, "5": 5}');
  });

  test("a key __proto__ is a key, not a prototype", () => {
    const object = parseJson('{"__proto__": {"admin": true}}') as Record<string, JsonValue>;
    expect(object.admin).toBeUndefined();
    expect(Object.keys(object)).toEqual(["__proto__"]);
  });

  test("what json.loads refuses is refused, with the position and without the text", () => {
    const bad = [
      "",
      " ",
      "{",
      "[1,]",
      '{"a" 1}',
      "{'a': 1}",
      "01",
      "1.",
      ".5",
      "+1",
      "nul",
      "[1] 2",
      '"\n"',
      '"\\x"',
      '"secret',
      '{"a": 1,}',
      "-NaN",
      '"\\u12g4"',
      "\ufeff1",
      "[".repeat(100_000),
    ];
    for (const text of bad) {
      expect(() => parseJson(text), text.slice(0, 20)).toThrow(/^not JSON: .* at character \d+$/);
    }
    const script = `import json, sys
for text in json.load(sys.stdin):
  try: json.loads(text)
  except (ValueError, RecursionError): continue
  sys.exit("Python accepts %r" % text)`;
    execFileSync("python3", ["-c", script], { input: JSON.stringify(bad) });
  });

  test("sameJson looks at what is said, not at the order of keys or the escapes", () => {
    const same = (a: string, b: string) => sameJson(parseJson(a), parseJson(b));
    expect(same('{"a": [1, {"b": null}], "c": "é"}', '{"c":"\\u00e9","a":[1,{"b":null}]}')).toBe(
      true,
    );
    expect(same("NaN", "NaN")).toBe(true);
    expect(same("9007199254740993", "9007199254740992")).toBe(false);
    expect(same("1", "1.0")).toBe(false);
    expect(same("[1, 2]", "[2, 1]")).toBe(false);
    expect(same("[]", "{}")).toBe(false);
    expect(same('{"a": null}', '{"b": null}')).toBe(false);
    expect(same('{"a": null}', "{}")).toBe(false);
    expect(same("null", "false")).toBe(false);
  });

  test("every parsed document is the same as itself, and as itself written and parsed again", () => {
    fc.assert(
      fc.property(document, (text) => {
        const value = parseJson(text);
        expect(sameJson(value, parseJson(formatJson(value)))).toBe(true);
        expect(sameJson(value, parseJson(formatJson(value, { sortKeys: true, indent: 2 })))).toBe(
          true,
        );
      }),
    );
  });
});
