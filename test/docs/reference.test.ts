/** The generated reference pages are up to date: `npm run reference` writes them. */
import { execFileSync } from "node:child_process";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { expect, test } from "vitest";
import { root } from "../built.js";

test.each([
  ["commands.md", "../dist/cli/reference.js", "commandReference"],
  ["library.md", "./library-reference.mjs", "libraryReference"],
  ["json-output.md", "../dist/cli/reference.js", "jsonOutputReference"],
  ["json-output.schema.json", "../dist/cli/reference.js", "jsonOutputSchema"],
])("docs/reference/%s is what npm run reference writes", (page, module, name) => {
  const script = `import { ${name} } from ${JSON.stringify(module)}; process.stdout.write(await ${name}());`;
  const generated = execFileSync(process.execPath, ["--input-type=module", "-e", script], {
    cwd: join(root, "scripts"),
    encoding: "utf8",
    maxBuffer: 1 << 24,
  });
  expect(readFileSync(join(root, "docs/reference", page), "utf8")).toBe(generated);
});
