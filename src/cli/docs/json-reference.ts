/** The reference of the JSON output, in Markdown and as a JSON Schema, from `documents`. */
import * as z from "../../schema.js";
import type { JsonDocument } from "./documents/parts.js";
import { documents, errorDocument } from "./documents.js";

type JsonSchema = z.core.JSONSchema.BaseSchema;

/** Returns the JSON Schema of every document: `$defs` has one for each command, and `error`. */
export function jsonOutputSchema(): string {
  const definitions = groupByDocuments().flatMap(([[first = "", ...others], printed]) => [
    [first, combineSchemas(printed)],
    ...others.map((name) => [name, { $ref: `#/$defs/${first}` }]),
  ]);
  const schema = {
    $schema: "https://json-schema.org/draft/2020-12/schema",
    title: "What the commands of hivemind-sqlcipher print with --json",
    description: "Generated from the program by `npm run reference`; do not edit.",
    $defs: { error: toJsonSchema(errorDocument), ...Object.fromEntries(definitions) },
  };
  return `${JSON.stringify(schema, undefined, 2)}\n`;
}

/** Returns the page `docs/reference/json-output.md`. */
export function jsonOutputReference(): string {
  return [
    "# JSON output",
    "",
    "Generated from the program by `npm run reference`; do not edit. The same as a JSON Schema:",
    "[json-output.schema.json](json-output.schema.json), with a definition for each command.",
    "",
    "With `--json` a command prints exactly one JSON document on standard output, also for an error;",
    "notices, warnings and questions go to standard error. Keys are `snake_case`; a value that does not",
    "apply is `null`. Times are UTC, sizes are bytes, durations are milliseconds. Keys may be added in later",
    "versions; keys are not renamed or removed within a major version.",
    "",
    "Numbers in a client's metadata keep their digits, as `1.0` and integers beyond 2^53. NaN and Infinity, which",
    "JSON lacks, are `null`; `export-clients --format json --show-secrets` writes them as hubs do.",
    "",
    "In the tables, `a.b` is the key `b` of the object `a`, `a[]` each element of the array `a`, and `a.*` each",
    "value of an object `a` whose keys are data. A key marked with ? may be absent.",
    "",
    "## Errors",
    "",
    "The [exit code](exit-codes.md) is that of the error's kind.",
    "",
    "```json",
    '{ "error": { "code": 11, "message": "…", "hint": "…" } }',
    "```",
    "",
    ...renderTable(toJsonSchema(errorDocument)),
    ...groupByDocuments().flatMap(([names, printed]) => [
      "",
      `## ${names.join(", ")}`,
      ...printed.flatMap(renderSection),
    ]),
    "",
  ].join("\n");
}

function groupByDocuments(): [names: string[], printed: readonly JsonDocument[]][] {
  const groups = new Map<readonly JsonDocument[], string[]>();
  for (const [name, printed] of Object.entries(documents)) {
    groups.set(printed, [...(groups.get(printed) ?? []), name]);
  }
  return [...groups].map(([printed, names]) => [names, printed]);
}

function combineSchemas(printed: readonly JsonDocument[]): JsonSchema {
  const schemas = printed.map(({ schema, when }) => ({
    ...(when !== undefined && { description: when }),
    ...toJsonSchema(schema),
  }));
  return schemas.length === 1 ? { ...schemas[0] } : { anyOf: schemas };
}

function renderSection({ when, schema }: JsonDocument): string[] {
  return [
    ...(when === undefined ? [] : ["", `${when}:`]),
    "",
    ...renderTable(toJsonSchema(schema)),
  ];
}

function toJsonSchema(schema: z.ZodMiniType): JsonSchema {
  const { $schema: _, ...converted } = z.toJSONSchema(schema, {
    override: ({ jsonSchema }) => {
      // Remove the limits of JavaScript's integers, and the long pattern of a time.
      delete jsonSchema.minimum;
      delete jsonSchema.maximum;
      if (jsonSchema.format === "date-time") delete jsonSchema.pattern;
      // A user's validation must accept the keys of later versions. The tests accept no other keys.
      if (jsonSchema.additionalProperties === false) delete jsonSchema.additionalProperties;
    },
  });
  return converted;
}

function renderTable(schema: JsonSchema): string[] {
  return ["| key | type | |", "| --- | --- | --- |", ...renderRows(schema, "")];
}

function renderRows(schema: JsonSchema, prefix: string): string[] {
  return Object.entries(schema.properties ?? {}).flatMap(([name, value]) => {
    const { description, type, inner } = describe(value as JsonSchema);
    const isOptional = !(schema.required ?? []).includes(name);
    const key = `${prefix}${name}`;
    // The rows below show that it is an object, or an array of objects.
    const isPlain = description === "" && !isOptional && !type.endsWith("null");
    return [
      ...(isPlain ? [] : [`| \`${key}\`${isOptional ? " ?" : ""} | ${type} | ${description} |`]),
      ...(inner === undefined ? [] : renderRows(inner.schema, `${key}${inner.suffix}`)),
    ];
  });
}

interface Description {
  readonly description: string;
  readonly type: string;
  /** The schema of the keys below the value, if it has keys, and how their names are joined. */
  readonly inner?: { readonly schema: JsonSchema; readonly suffix: string };
}

function describe(schema: JsonSchema): Description {
  const { description = "" } = schema;
  if (schema.anyOf) {
    const parts = schema.anyOf.map((part) => describe(part as JsonSchema));
    const [described] = parts.filter((part) => part.description !== "" || part.inner);
    const type = parts.map((part) => part.type).join(" or ");
    return { ...described, description: description || (described?.description ?? ""), type };
  }
  if (schema.enum)
    return { description, type: schema.enum.map((each) => `\`${each}\``).join(", ") };
  if (schema.const !== undefined) return { description, type: `\`${schema.const}\`` };
  if (schema.type === "array") {
    const item = describe(schema.items as JsonSchema);
    const inner = item.inner && { ...item.inner, suffix: `[]${item.inner.suffix}` };
    return { description, type: `array of ${item.type}`, ...(inner && { inner }) };
  }
  if (schema.properties) return { description, type: "object", inner: { schema, suffix: "." } };
  if (typeof schema.additionalProperties === "object" && schema.type === "object") {
    const { inner } = describe(schema.additionalProperties);
    return {
      description,
      type: "object",
      ...(inner && { inner: { ...inner, suffix: `.*${inner.suffix}` } }),
    };
  }
  return { description, type: [schema.type ?? "any"].flat().join(" or ") };
}
