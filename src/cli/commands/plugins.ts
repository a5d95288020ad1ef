import type { Command } from "commander";
import { StoreError } from "../../errors.js";
import { addGlobalOptions, type Context, contextOf } from "../context.js";
import { Table } from "../ui/table.js";

export function addCommand(program: Command): void {
  const plugins = addGlobalOptions(
    program
      .command("plugins [names...]")
      .description(
        "the database plugins there are; a named one is also loaded, to see that it can be",
      )
      .addHelpText("after", "\nExample:\n  hivemind-sqlcipher plugins my-db-plugin"),
  );
  plugins.action(async (names: string[]) =>
    listPlugins(await contextOf(plugins), names, program.version() ?? ""),
  );
}

async function listPlugins(context: Context, names: string[], version: string): Promise<void> {
  const { ownPluginNames, otherPlugins } = await import("../../databases/registry.js");
  const { loadPlugin, syntaxProblem } = await import("../../databases/discover.js");
  const others = await otherPlugins();
  const own = ownPluginNames.map((name) => ({
    ...{ name, package: "hivemind-sqlcipher", version, folder: null, problem: null },
  }));
  const found = await Promise.all(
    others.map(async (plugin) => ({
      ...{ name: plugin.name, package: plugin.package, version: plugin.version },
      ...{
        folder: plugin.folder,
        problem: plugin.problem ?? (await syntaxProblem(plugin.file)) ?? null,
      },
    })),
  );
  const unknown = names.find((name) => ![...own, ...found].some((plugin) => plugin.name === name));
  if (unknown !== undefined) {
    throw new StoreError("usage", `there is no database plugin "${unknown}"`, {
      hint: "hivemind-sqlcipher plugins lists those there are.",
    });
  }
  for (const [index, plugin] of found.entries()) {
    const listed = others[index];
    if (listed === undefined || plugin.problem !== null || !names.includes(plugin.name)) continue;
    try {
      await loadPlugin(listed);
    } catch (error) {
      plugin.problem = (error as Error).message;
    }
  }
  const plugins = [...own, ...found];
  if (names.some((name) => plugins.find((plugin) => plugin.name === name)?.problem)) {
    process.exitCode = 1;
  }
  const { output } = context;
  const columns = ["name", "package", "version", "problem"].map((title) => ({ title }));
  const rows = plugins.map((plugin) => [
    ...[plugin.name, plugin.package, plugin.version, plugin.problem ?? ""],
  ]);
  const table = await Table.of(columns, rows, output.columns);
  const lines = [output.style("bold", table.heading()), ...(await table.rows(rows))];
  output.result({ plugins }, () => lines);
}
