/** Every relative link in the Markdown pages leads to a file of the repository. */
import { execFileSync } from "node:child_process";
import { existsSync, readFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { expect, test } from "vitest";
import { root } from "../built.js";

test("relative links in Markdown pages lead somewhere", () => {
  const list = ["ls-files", "--cached", "--others", "--exclude-standard", "*.md"];
  const pages = execFileSync("git", list, { cwd: root, encoding: "utf8" }).trimEnd().split("\n");
  const broken = pages.flatMap((page) => {
    const links = readFileSync(join(root, page), "utf8")
      .replace(/```[\s\S]*?```/g, "")
      .matchAll(/\]\((?!https?:|#)([^)#\s]+)/g);
    return [...links]
      .filter(([, target = ""]) => !existsSync(join(root, dirname(page), target)))
      .map(([, target]) => `${page}: ${target}`);
  });
  expect(broken).toEqual([]);
});
