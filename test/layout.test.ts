/**
 * The top level of the repository holds what CONTRIBUTING.md and ARCHITECTURE.md describe, and
 * nothing else.
 */
import { execFileSync } from "node:child_process";
import { expect, test } from "vitest";
import { root } from "./built.js";

const documented = [
  ...[".ci", ".github", ".gitignore", ".npmrc"],
  ...["ARCHITECTURE.md", "CHANGELOG.md", "CONTRIBUTING.md", "LICENSE", "README.md", "SECURITY.md"],
  ...["bench", "docs", "examples", "packaging", "scripts", "src", "test", "tools"],
  ...["biome.json", "package-lock.json", "package.json"],
  ...["tsconfig.build.json", "tsconfig.json", "vitest.config.ts"],
];

test("no file or directory appears outside the documented top level", () => {
  const tracked = execFileSync("git", ["ls-files", "--cached", "--others", "--exclude-standard"], {
    cwd: root,
    encoding: "utf8",
    maxBuffer: 1 << 26,
  });
  const top = new Set(
    tracked
      .trimEnd()
      .split("\n")
      .map((path) => path.split("/")[0] as string),
  );
  expect([...top].filter((name) => !documented.includes(name))).toEqual([]);
});
