/** Compares what a command prints with --json with the schema of its document. */
import { documents, errorDocument } from "../../src/cli/docs/documents.js";
import * as z from "../../src/schema.js";

/** Returns the name of the command in an argument list: `backup`, `bundle show`. */
function commandIn(args: readonly string[]): string | undefined {
  const isIn = (name: string) => {
    const places = name.split(" ").map((word) => args.indexOf(word));
    return places.every((place, index) => place > (places[index - 1] ?? -1));
  };
  const names = Object.keys(documents).filter(isIn);
  const first = (name: string) => args.indexOf(name.split(" ")[0] ?? "");
  // Options may stand between the words of a name, and `status` is a command, too.
  return names.sort((a, b) => first(a) - first(b) || b.length - a.length)[0];
}

/** Returns the names of the documents that standard output is, such as `bundle print: With …`. */
export function matchingDocuments(args: readonly string[], stdout: string): string[] {
  const printed = printedDocument(args, stdout);
  return printed
    ? formsOf(printed.name).flatMap(([form, schema]) =>
        z.safeParse(schema, printed.document).success ? [form] : [],
      )
    : [];
}

/**
 * Throws if standard output is not a document of the command, or of an error, with the documented
 * keys and no others. Accepts no output, of a command that was killed.
 */
export function assertDocument(args: readonly string[], stdout: string): void {
  const printed = printedDocument(args, stdout);
  if (printed === undefined || matchingDocuments(args, stdout).length > 0) return;
  const problems = formsOf(printed.name).map(([form, schema]) => {
    const { error } = z.safeParse(schema, printed.document);
    return `${form}: ${error && z.prettifyError(error)}`;
  });
  throw new Error(`an undocumented document: ${stdout}\n${problems.join("\n")}`);
}

/** Returns the command and its document; undefined if it prints none. */
function printedDocument(args: readonly string[], stdout: string) {
  const end = args.indexOf("--");
  const own = end === -1 ? args : args.slice(0, end);
  const name = commandIn(own);
  if (!own.includes("--json") || own.includes("--jsonl") || stdout === "") return undefined;
  if (name === undefined || (name === "run" && !own.includes("--print-unit"))) return undefined;
  return { name, document: JSON.parse(stdout) as unknown };
}

function formsOf(name: string): [form: string, schema: z.ZodMiniType][] {
  const forms = documents[name] ?? [];
  return [
    ["error", errorDocument],
    ...forms.map(({ when, schema }): [string, z.ZodMiniType] => [
      when === undefined ? name : `${name}: ${when}`,
      schema,
    ]),
  ];
}
