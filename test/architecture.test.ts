import { readdirSync, readFileSync } from "node:fs";
import { dirname, join, relative } from "node:path";
import { expect, test } from "vitest";

const top = join(import.meta.dirname, "..");

/** Returns the layer of each module in the table of ARCHITECTURE.md. */
function readLayers(): Map<string, number> {
  const text = readFileSync(join(top, "ARCHITECTURE.md"), "utf8");
  const rows = text.matchAll(/^\| (\d+) \| `([\w.]+)\/?` \|/gm);
  return new Map([...rows].map(([, layer, module]) => [module as string, Number(layer)]));
}

function sourceFiles(): string[] {
  return readdirSync(join(top, "src"), { recursive: true, encoding: "utf8" })
    .filter((name) => name.endsWith(".ts"))
    .sort();
}

function importsOf(file: string): string[] {
  const text = readFileSync(join(top, "src", file), "utf8");
  return [...text.matchAll(/(?:from|import)\s*\(?\s*"(\.[^"]+)"/g)].map(([, path]) =>
    relative(join(top, "src"), join(top, "src", dirname(file), path as string)),
  );
}

const moduleOf = (file: string) =>
  file.includes("/") ? file.split("/")[0] : file.replace(/\.js$/, ".ts");

test("every source file is in a module that ARCHITECTURE.md names", () => {
  const known = readLayers();
  expect(known.size).toBeGreaterThan(10);
  expect(sourceFiles().filter((file) => !known.has(moduleOf(file) as string))).toEqual([]);
});

test("imports go from higher layers to lower layers only", () => {
  const layers = readLayers();
  const wrong = sourceFiles().flatMap((file) =>
    importsOf(file)
      .filter((target) => {
        const from = moduleOf(file) as string;
        const to = moduleOf(target) as string;
        return (
          from !== to && (layers.get(to) ?? Number.POSITIVE_INFINITY) >= (layers.get(from) ?? -1)
        );
      })
      .map((target) => `${file} imports ${target}`),
  );
  expect(wrong).toEqual([]);
});

test("only src/schema.ts imports zod: its large form, once loaded, slows every command", () => {
  const importers = sourceFiles().filter((file) =>
    /from "zod\b/.test(readFileSync(join(top, "src", file), "utf8")),
  );
  expect(importers).toEqual(["schema.ts"]);
});
