/**
 * Finds the plugins of other packages by their `package.json`:
 *
 *     "hivemind": { "database": { "my-db-plugin": "./dist/index.js#MyDB" } }
 *
 * Searches the `node_modules` of each directory from this file upwards, and from the working
 * directory upwards, then the directories in `NODE_PATH`, then npm's global packages. The search
 * runs no code of a plugin; a plugin is loaded only if the user names it.
 */
import { execFile } from "node:child_process";
import { readFile, realpath, stat } from "node:fs/promises";
import { delimiter, dirname, join, relative, sep } from "node:path";
import { fileURLToPath, pathToFileURL } from "node:url";
import { promisify } from "node:util";
import { hasCode, messageOf, StoreError } from "../errors.js";
import { listDirectory } from "../fs/read.js";
import * as z from "../schema.js";
import type { DatabasePlugin } from "./plugin.js";

const run = promisify(execFile);

/** The time limit of `npm root --global`, which normally takes 250 ms. */
const npmTimeoutMs = 5_000;

export interface FoundPlugin {
  /** The name for `--from` and `--to`. */
  readonly name: string;
  readonly package: string;
  readonly version: string;
  /** The directory of the package. */
  readonly folder: string;
  /** The file to import; empty if `package.json` does not name it. */
  readonly file: string;
  /** The name of the export in `file`. */
  readonly exported: string;
  /** Why the plugin is unusable; undefined if no problem is visible without loading the plugin. */
  readonly problem?: string;
}

const manifestSchema = z.object({
  name: z._default(z.string(), ""),
  version: z._default(z.string(), ""),
  hivemind: z.object({ database: z.record(z.string(), z.unknown()) }),
});

/**
 * Finds every installed plugin, including broken plugins. If two plugins have the same name, the
 * plugin that is found second is unusable.
 */
export async function findPlugins(): Promise<FoundPlugin[]> {
  const found: FoundPlugin[] = [];
  const seen = new Set<string>();
  for (const modules of await listModuleDirectories()) {
    for (const folder of await listPackages(modules)) {
      const real = await realpath(folder).catch(() => folder);
      if (seen.has(real)) continue;
      seen.add(real);
      for (const plugin of await readPlugins(real)) {
        const first = found.find(({ name }) => name === plugin.name);
        const problem = first && `${first.package} in ${first.folder} has that name already`;
        found.push(problem === undefined ? plugin : { ...plugin, problem });
      }
    }
  }
  return found;
}

/**
 * Imports a plugin's module and returns the plugin.
 *
 * @throws {@link StoreError} failed - if the module or the plugin cannot be loaded
 */
export async function loadPlugin(found: FoundPlugin): Promise<DatabasePlugin> {
  const problem = found.problem ?? (await findSyntaxProblem(found.file));
  if (problem !== undefined) throw loadError(found, problem);
  let module: Record<string, unknown>;
  try {
    module = await import(pathToFileURL(found.file).href);
  } catch (error) {
    throw loadError(found, messageOf(error), error);
  }
  const plugin = module[found.exported];
  if (!isPlugin(plugin)) {
    throw loadError(found, `"${found.exported}" in ${found.file} has no function open`);
  }
  return plugin;
}

/** Returns Node's syntax error for a file without running it, or undefined if there is none. */
export async function findSyntaxProblem(file: string): Promise<string | undefined> {
  try {
    await run(process.execPath, ["--check", file]);
    return undefined;
  } catch (error) {
    const output = String((error as { stderr?: unknown }).stderr ?? error);
    return /^\w*Error: .*$/m.exec(output)?.[0] ?? `node --check ${file} failed`;
  }
}

function isPlugin(value: unknown): value is DatabasePlugin {
  const isHolder = (typeof value === "object" && value !== null) || typeof value === "function";
  return isHolder && typeof (value as Partial<DatabasePlugin>).open === "function";
}

function loadError(found: FoundPlugin, why: string, cause?: unknown): StoreError {
  return new StoreError(
    "failed",
    `the plugin ${found.name} of ${found.package} cannot be loaded: ${why}`,
    { cause, hint: `Check the package in ${found.folder}.` },
  );
}

async function readPlugins(folder: string): Promise<FoundPlugin[]> {
  let text: string;
  try {
    text = await readFile(join(folder, "package.json"), "utf8");
  } catch (error) {
    if (hasCode(error, "ENOENT", "ENOTDIR", "EACCES")) return [];
    throw error;
  }
  // Most packages are not plugins, and parsing every package.json would be slow.
  if (!text.includes('"hivemind"')) return [];
  const manifest = manifestSchema.safeParse(z.parseJson(text));
  if (!manifest.success) return [];
  const { name: packageName, version, hivemind } = manifest.data;
  return Promise.all(
    Object.entries(hivemind.database).map(async ([name, target]) => {
      const about = { name, package: packageName, version, folder };
      if (typeof target !== "string") {
        const problem = 'its entry in package.json is not "./FILE#EXPORT"';
        return { ...about, file: "", exported: "", problem };
      }
      const [path = "", exported = "default"] = target.split("#");
      const file = join(folder, path);
      const problem = await findFileProblem(folder, file);
      return { ...about, file, exported, ...(problem !== undefined && { problem }) };
    }),
  );
}

async function findFileProblem(folder: string, file: string): Promise<string | undefined> {
  const inside = relative(folder, file);
  if (inside === ".." || inside.startsWith(`..${sep}`)) return `${file} is not in the package`;
  const stats = await stat(file).catch(() => undefined);
  return stats?.isFile() ? undefined : `there is no file ${file}`;
}

/** Returns the `node_modules` directories to search, in order. */
async function listModuleDirectories(): Promise<string[]> {
  const here = dirname(fileURLToPath(import.meta.url));
  const local = [...modulesAbove(here), ...modulesAbove(process.cwd())];
  const named = (process.env.NODE_PATH ?? "").split(delimiter).filter((path) => path !== "");
  return [...new Set([...local, ...named, await findGlobalDirectory()])].filter(
    (path) => path !== "",
  );
}

function modulesAbove(start: string): string[] {
  const parent = dirname(start);
  const above = parent === start ? [] : modulesAbove(parent);
  return start.endsWith(`${sep}node_modules`)
    ? [start, ...above]
    : [join(start, "node_modules"), ...above];
}

/** Returns the directory of global packages, which only npm knows. Returns "" if npm fails. */
async function findGlobalDirectory(): Promise<string> {
  try {
    const { stdout } = await run("npm", ["root", "--global"], { timeout: npmTimeoutMs });
    return stdout.trim();
  } catch {
    return "";
  }
}

async function listPackages(modules: string): Promise<string[]> {
  const folders: string[] = [];
  for (const name of await listReadable(modules)) {
    if (name.startsWith(".")) continue;
    if (!name.startsWith("@")) folders.push(join(modules, name));
    else
      for (const inner of await listReadable(join(modules, name)))
        folders.push(join(modules, name, inner));
  }
  return folders;
}

/**
 * Returns the names in a directory, or no names if the directory is missing or this user may not
 * read it.
 */
async function listReadable(path: string): Promise<string[]> {
  try {
    return (await listDirectory(path)) ?? [];
  } catch (error) {
    if (error instanceof StoreError && hasCode(error.cause, "EACCES")) return [];
    throw error;
  }
}
