/**
 * build.mjs
 *
 * Builds dist/: the library, module by module with its types, by tsc; and dist/cli/, the command,
 * by rolldown, as a few CommonJS files, which Node.js loads in a fraction of the time that a few
 * hundred modules take. With it go the licences of the packages that are in it.
 *
 *   build.mjs [DIRECTORY]     (default: dist/)
 *
 * Only what changed is put in place, and each file by a rename: a run beside this one may be
 * starting a process from dist/. Files of earlier builds stay for the same reason; `npm pack`
 * begins without any.
 */
import { spawnSync } from "node:child_process";
import {
  chmodSync,
  copyFileSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  writeFileSync,
} from "node:fs";
import { basename, dirname, join, resolve } from "node:path";
import { fileURLToPath } from "node:url";
import { rolldown } from "rolldown";

const top = fileURLToPath(new URL("..", import.meta.url));
const target = resolve(process.argv[2] ?? join(top, "dist"));

/** Commands that a user waits for: with the main file, what they import is one file. */
const shortCommands = ["find-client", "list-clients", "show-client", "add-client", "delete-client"];

/** zod's converter to JSON Schema is only for the reference. */
const unneeded = /node_modules\/zod\/v4\/core\/(?:json-schema|to-json-schema)/;

// On the file system of the target, for a rename.
const scratch = process.argv[2] === undefined ? join(top, ".cache") : dirname(target);
mkdirSync(scratch, { recursive: true });
const fresh = mkdtempSync(join(scratch, "build-"));
try {
  const { status } = spawnSync("npx", ["tsc", "-p", "tsconfig.build.json", "--outDir", fresh], {
    cwd: top,
    stdio: "inherit",
  });
  await buildCommand(join(fresh, "cli"));
  copyUncompiled(fresh);
  putInPlace(fresh, target);
  process.exitCode = status ?? 1;
} finally {
  rmSync(fresh, { recursive: true, force: true });
}

async function buildCommand(folder) {
  const base = new Set();
  const bundle = await rolldown({
    cwd: top,
    input: {
      main: "src/cli/main.ts",
      // Started by their names, beside the file that starts them.
      copier: "src/backup/copier.ts",
      "page-worker": "src/backup/page-worker.ts",
      // Of use to the build alone: the manual is made of the command's own help.
      man: "src/cli/docs/man.ts",
      reference: "src/cli/docs/reference.ts",
    },
    platform: "node",
    // Large, and has no licence in its package that could be shipped. (What is native is none of
    // the bundler's business: it is loaded by createRequire.)
    external: ["@redis/client"],
    resolve: { mainFields: ["module", "main"] },
    transform: { target: "node22" },
    checks: { ineffectiveDynamicImport: false },
    plugins: [collecting(base)],
  });
  const { output } = await bundle.write({
    dir: folder,
    format: "cjs",
    strict: true,
    comments: false,
    entryFileNames: "[name].js",
    chunkFileNames: "[name]-[hash].js",
    codeSplitting: { groups: [{ name: "base", test: (file) => base.has(file) }] },
  });
  // src/cli/own-program.ts loads the parts: entries run something when they are loaded.
  const parts = output.filter((chunk) => !chunk.isEntry).map(({ fileName }) => fileName);
  const manifest = JSON.stringify({ type: "commonjs", parts: parts.sort() }, undefined, 2);
  writeFileSync(join(folder, "package.json"), `${manifest}\n`);
  const modules = output.flatMap((chunk) => Object.keys(chunk.modules ?? {}));
  writeFileSync(join(folder, "THIRD-PARTY-NOTICES.txt"), notices(modules));
}

/** Returns a plugin that collects the files that the short commands import. */
function collecting(base) {
  const files = ["main", ...shortCommands.map((name) => `commands/${name}`)];
  const found = files.map((name) => join(top, `src/cli/${name}.ts`));
  return {
    name: "base",
    buildEnd() {
      for (const file of found) {
        if (base.has(file) || unneeded.test(file)) continue;
        base.add(file);
        found.push(...(this.getModuleInfo(file)?.importedIds ?? []));
      }
      // The main file runs when it is loaded, and other parts load the base, too.
      base.delete(found[0]);
    },
  };
}

/** Copies the files that are not compiled next to both builds of the module that uses them. */
function copyUncompiled(to) {
  for (const file of ["bundle/sheet.html", "keys/keytar-worker.cjs"]) {
    copyFileSync(join(top, "src", file), join(to, file));
    copyFileSync(join(top, "src", file), join(to, "cli", basename(file)));
  }
  // `export` writes these next to a backup. Here they are data, and no program is run.
  for (const file of ["tools/open_backup.py", "docs/reference/formats.md"]) {
    const copy = join(to, "cli", basename(file));
    copyFileSync(join(top, file), copy);
    chmodSync(copy, 0o644);
  }
}

/** The licence of every package that one of these files is of. */
function notices(modules) {
  const folders = new Set(
    modules.flatMap((file) => /^.*\/node_modules\/(?:@[^/]+\/)?[^/]+(?=\/)/.exec(file)?.[0] ?? []),
  );
  const parts = [...folders].map((folder) => {
    const { name, version, license } = JSON.parse(readFileSync(join(folder, "package.json")));
    const file = readdirSync(folder).find((entry) => /^licen[cs]e/i.test(entry));
    if (file === undefined) throw new Error(`${name} has no licence that could be shipped with it`);
    return `${name} ${version} (${license})\n\n${readFileSync(join(folder, file), "utf8").trim()}\n`;
  });
  return [
    "The command is made of hivemind-sqlcipher's own code and of these packages:\n",
    ...parts.sort(),
  ].join(`\n${"-".repeat(80)}\n\n`);
}

function putInPlace(from, to) {
  for (const entry of readdirSync(from, { recursive: true, withFileTypes: true })) {
    if (!entry.isFile()) continue;
    const file = join(entry.parentPath, entry.name);
    const place = join(to, file.slice(from.length));
    if (isSame(file, place)) continue;
    mkdirSync(dirname(place), { recursive: true });
    renameSync(file, place);
  }
}

function isSame(a, b) {
  try {
    return readFileSync(a).equals(readFileSync(b));
  } catch {
    return false;
  }
}
