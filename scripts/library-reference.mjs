/**
 * The library's reference in Markdown: every export of src/index.ts with its signature and
 * docstring.
 */
import { fileURLToPath } from "node:url";
import { Node, Project } from "ts-morph";

const top = fileURLToPath(new URL("..", import.meta.url));

/** Returns the page `docs/reference/library.md`. */
export function libraryReference() {
  const project = new Project({
    tsConfigFilePath: `${top}tsconfig.json`,
    skipAddingFilesFromTsConfig: true,
  });
  const index = project.addSourceFileAtPath(`${top}src/index.ts`);
  const exports = [...index.getExportedDeclarations()].sort(([a], [b]) => a.localeCompare(b));
  return [
    "# Library",
    "",
    "Generated from the docstrings by `npm run reference`; do not edit. Every name is exported by",
    "`hivemind-sqlcipher`; the conformance tests by `hivemind-sqlcipher/testing`. Programs that run:",
    "[examples](../../examples/README.md). The fields of results are in camelCase since 0.2.0; only client",
    "records, manifests and bundles keep the names of their columns and keys. `--json` prints snake_case.",
    ...exports.flatMap(([name, [declaration]]) => section(name, declaration)),
    "",
  ].join("\n");
}

function section(name, declaration) {
  const documented = statementOf(declaration);
  const [doc] = documented.getJsDocs?.() ?? [];
  return [
    "",
    `## ${name}`,
    "",
    "```ts",
    signature(declaration),
    "```",
    ...(doc === undefined ? [] : ["", ...text(doc)]),
  ];
}

function text(doc) {
  const tags = doc.getTags().flatMap((tag) => {
    const name = tag.getTagName();
    const subject = Node.isJSDocParameterTag(tag) ? ` \`${tag.getName()}\`` : "";
    const comment = links(tag.getCommentText() ?? "").replace(/^- /, "");
    if (name === "example") return ["", fenced(comment.trim())];
    // TypeScript splits `@throws {@link StoreError} kind` into an empty tag and a tag "link".
    if (name === "throws" && comment === "") return [];
    if (name === "link") return [item("throws", comment.replace(/^(\w+)\}/, "`$1`"))];
    return [item(name, comment, subject)];
  });
  return [links(doc.getDescription().trim()), ...(tags.length === 0 ? [] : ["", ...tags])].filter(
    (line, index, lines) => line !== "" || lines[index - 1] !== "",
  );
}

/** An example may have its own fence. */
function fenced(example) {
  return example.startsWith("```") ? example : `\`\`\`ts\n${example}\n\`\`\``;
}

function item(name, comment, subject = "") {
  return `- **${name}**${subject}: ${comment.replaceAll("\n", " ")}`;
}

function links(comment) {
  return comment.replace(/\{@link (\w+)\}/g, "`$1`");
}

/**
 * Returns the declaration without bodies and private members. Its members keep their docstrings.
 */
function signature(declaration) {
  if (Node.isClassDeclaration(declaration)) {
    const members = publicMembers(declaration).map(
      (member) => `  ${withoutBody(member, member.getText(true))}`,
    );
    return [`class ${declaration.getName()} {`, ...members, "}"].join("\n");
  }
  const whole = statementOf(declaration);
  return withoutBody(whole, withoutDocs(whole)).replace(/^export /, "");
}

/** Returns the members of a class and of its base classes, which the library does not export. */
function publicMembers(declaration) {
  const base = declaration.getBaseClass();
  const inherited = base === undefined ? [] : publicMembers(base);
  const own = declaration
    .getMembers()
    .filter((member) => !/^(?:private |static \{)/.test(withoutDocs(member)))
    .filter((member) => !member.getName?.().startsWith("#"));
  return [...inherited.filter((member) => !Node.isConstructorDeclaration(member)), ...own];
}

function withoutBody(node, text) {
  const code = text.trim();
  const body = node.getBody?.()?.getText();
  return body === undefined ? code : `${code.slice(0, code.length - body.length).trim()};`;
}

function withoutDocs(node) {
  return node.getText(false).trim();
}

/** The docstring of a constant belongs to its statement. */
function statementOf(declaration) {
  return Node.isVariableDeclaration(declaration)
    ? declaration.getVariableStatementOrThrow()
    : declaration;
}
