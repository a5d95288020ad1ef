/**
 * Checks the prose: vocabulary and docstring tags of the comments in src, retired names, and the
 * width of comments and documents. Rates are per 1,000 words of comments.
 */
import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { expect, test } from "vitest";
import { root } from "./built.js";

const maxColumns = 100;

interface SourceLine {
  /** The path and the line number. */
  readonly where: string;
  readonly line: string;
}

interface Comment extends SourceLine {
  readonly text: string;
}

function linesBelow(directory: string, names: RegExp): SourceLine[] {
  return readdirSync(join(root, directory), { recursive: true, encoding: "utf8" })
    .filter((name) => names.test(name) && !name.includes("node_modules"))
    .flatMap((name) =>
      readFileSync(join(root, directory, name), "utf8")
        .split("\n")
        .map((line, index) => ({ where: `${directory}/${name}:${index + 1}`, line })),
    );
}

/** Matches a line in a comment, or code followed by a comment; a quote begins a text with `//`. */
const commentLine = /^\s*(?:\/\*\*?|\*(?!\/)|\/\/)(.*)|^\s*[^\s"'`].*[^:"'`]\/\/ (.*)$/;

function commentsIn(lines: readonly SourceLine[]): Comment[] {
  return lines.flatMap((source) => {
    const found = commentLine.exec(source.line);
    const text = found?.[1] ?? found?.[2];
    return text === undefined ? [] : [{ ...source, text }];
  });
}

const sources = linesBelow("src", /\.ts$/);
const comments = commentsIn(sources);

function isWord(text: string): boolean {
  return /\w/.test(text);
}

const wordCount = comments.flatMap(({ text }) => text.split(/\s+/).filter(isWord)).length;

const rates: [name: string, pattern: RegExp, atMost: number][] = [
  ["who", /\b(?:who|whoever|whose|whom|somebody|nobody|anybody|someone|anyone)\b/gi, 0.5],
  ["one", /\bones?\b/gi, 4],
  ["that", /\b(?:that|which)\b/gi, 15],
  [
    "archaic",
    /\b(?:anew|lest|meanwhile|alone|thereby|hitherto|mend(?:s|ed)?|till|beforehand|besides?)\b/gi,
    0,
  ],
  ["directory", /\bfolders?\b/gi, 0],
];

test.each(rates)("comments in src keep to the rate of %s words", (_name, pattern, atMost) => {
  const found = comments.flatMap(({ where, text }) =>
    [...text.matchAll(pattern)].map(([word]) => `${where}: ${word}`),
  );
  const rate = (1000 * found.length) / wordCount;
  expect(rate, rate > atMost ? found.slice(0, 60).join("\n") : "").toBeLessThanOrEqual(atMost);
});

test.each(["src", "test", "bench", "scripts", "examples"])(
  `no comment line in %s is wider than ${maxColumns} columns`,
  (directory) => {
    const wide = commentsIn(linesBelow(directory, /\.(?:ts|js|mjs|cjs)$/))
      .filter(({ line }) => line.length > maxColumns)
      .map(({ where }) => where);
    expect(wide).toEqual([]);
  },
);

const kind =
  "(?:failed|usage|notFound|inUse|wrongPassphrase|passphraseUnavailable|corrupted|service|newerVersion|refused|io|interrupted)";

/** The forms of docstring tags, by the tag. */
const tagForms: readonly [tag: RegExp, form: RegExp][] = [
  [/@param\b/, /@param [\w.]+ - \S/],
  [/@returns\b/, /@returns \S/],
  [
    /@throws \{@link StoreError\}/,
    new RegExp(
      `@throws \\{@link StoreError\\} (?:${kind}(?:(?:, | or )(?:${kind}|\`missing\`))*(?: - \\S|$)|- \\S|(?:as|what|if|of) \\S)`,
    ),
  ],
];

test("docstring tags have the form of the style guide", () => {
  const wrong = comments.flatMap(({ where, text }) =>
    tagForms
      .filter(([tag, form]) => tag.test(text) && !form.test(text))
      .map(() => `${where}: ${text.trim()}`),
  );
  expect(wrong).toEqual([]);
});

/** Names that were replaced. Formats of 0.1.0 and the hidden command `settle` keep theirs. */
const retired =
  /\b(?:settled?|settling|Settled|tidyUp|untidy|Absence|lastedMs|owed|paysOwed|onlyOpens|besideOperations|untilLetIn|Handover|handover|Gathered|HeldStore|letGo|putRight|setAside|rehears\w+|sealManifest|macHolds|lookAt|lookInside|knowService|KnownService|(?:refuse|require)[A-Z]\w*)\b/;

const exempt = /settle"|settled: messages|settle\.js|hivemind-sqlcipher settle|"rehearsal"/;

test("no retired name is left in src", () => {
  const found = sources
    .filter(({ line }) => retired.test(line) && !exempt.test(line))
    .map(({ where, line }) => `${where}: ${line.trim()}`);
  expect(found).toEqual([]);
});

test("README.md has at most 150 lines of at most 100 columns", () => {
  const lines = readFileSync(join(root, "README.md"), "utf8").trimEnd().split("\n");
  expect(lines.length).toBeLessThanOrEqual(150);
  expect(lines.filter((line) => line.length > maxColumns)).toEqual([]);
});

test("no line of text in the documents is wider than 100 columns", () => {
  const documents = ["README", "ARCHITECTURE", "CHANGELOG", "CONTRIBUTING", "SECURITY"];
  const written = [
    ...documents.map((name) => `${name}.md`),
    ...["docs/guide", "docs/design"].flatMap((directory) =>
      readdirSync(join(root, directory)).map((name) => `${directory}/${name}`),
    ),
  ].filter((path) => path.endsWith(".md"));
  const wide = written.flatMap((path) =>
    readFileSync(join(root, path), "utf8")
      .replace(/^( *)```[\s\S]*?^\1```/gm, (block) => block.replace(/.+/g, ""))
      .split("\n")
      .map((line, index) => ({ where: `${path}:${index + 1}`, line }))
      // A table's row is one line, and so is a link.
      .filter(({ line }) => line.length > maxColumns && !/^\||^\s*(?:- )?\[\S*$/.test(line))
      .map(({ where }) => where),
  );
  expect(wide).toEqual([]);
});
