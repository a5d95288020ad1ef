import type { Command } from "commander";
import type { FoundPlugin } from "../../databases/discover.js";
import { exitCodes, StoreError } from "../../errors.js";
import { finishCommand } from "../command.js";
import type { Context } from "../context.js";
import { formatTable } from "../ui/table.js";

export function addCommand(program: Command): void {
  const command = program
    .command("plugins [names...]")
    .description("List the database plugins, and load the named plugins");
  finishCommand(command, listPlugins, {
    details: ["Exits with 1 if a named plugin cannot be loaded."],
    examples: ["hivemind-sqlcipher plugins my-db-plugin"],
  });
}

async function listPlugins(
  context: Context,
  names: string[],
  _options: object,
  command: Command,
): Promise<void> {
  const { ownPluginNames, findOtherPlugins } = await import("../../databases/registry.js");
  const version = command.parent?.version() ?? "";
  const own = ownPluginNames.map((name) => ({
    name,
    package: "hivemind-sqlcipher",
    version,
    folder: null,
    problem: null,
  }));
  const others = await findOtherPlugins();
  const known = [...own, ...others].map(({ name }) => name);
  const unknown = names.find((name) => !known.includes(name));
  if (unknown !== undefined) {
    throw new StoreError("usage", `no such database plugin: ${unknown}`, {
      hint: "Run hivemind-sqlcipher plugins to list them.",
    });
  }
  const checked = others.map(async (plugin) => ({
    name: plugin.name,
    package: plugin.package,
    version: plugin.version,
    folder: plugin.folder,
    problem: await findProblem(plugin, names.includes(plugin.name)),
  }));
  const plugins = [...own, ...(await Promise.all(checked))];
  if (plugins.some(({ name, problem }) => problem !== null && names.includes(name))) {
    process.exitCode = exitCodes.failed;
  }
  const { output } = context;
  const columns = (["name", "package", "version", "problem"] as const).map((title) => ({
    title,
    cell: (plugin: (typeof plugins)[number]) => plugin[title] ?? "",
  }));
  const lines = await Array.fromAsync(formatTable(output, columns, plugins));
  output.result({ plugins }, () => lines);
}

/** Returns why a plugin is unusable, or null. Runs the plugin's code only if it is to be loaded. */
async function findProblem(plugin: FoundPlugin, shouldLoad: boolean): Promise<string | null> {
  const { loadPlugin, findSyntaxProblem } = await import("../../databases/discover.js");
  const problem = plugin.problem ?? (await findSyntaxProblem(plugin.file));
  if (problem !== undefined) return problem;
  if (!shouldLoad) return null;
  try {
    await loadPlugin(plugin);
    return null;
  } catch (error) {
    return (error as Error).message;
  }
}
