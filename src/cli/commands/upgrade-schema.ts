import type { Command } from "commander";
import { addGlobalOptions, type Context, contextOf } from "../context.js";
import {
  addServiceOptions,
  downtimeLines,
  operate,
  operationOptions,
  type ServiceOptions,
} from "../options/operation.js";

export function addCommand(program: Command): void {
  const upgrade = addGlobalOptions(
    addServiceOptions(
      program
        .command("upgrade-schema")
        .description("bring the store to schema 2, if the hub knows it; lists what that drops")
        .option("--hub-python <path>", "the hub's Python, where it cannot be told from its unit")
        .addHelpText(
          "after",
          "\nExamples:\n  hivemind-sqlcipher upgrade-schema\n  hivemind-sqlcipher upgrade-schema --hub-python /opt/hivemind/bin/python",
        ),
    ),
  );
  upgrade.action(async (options: ServiceOptions & { hubPython?: string }) =>
    runUpgradeSchema(await contextOf(upgrade), options),
  );
}

async function runUpgradeSchema(
  context: Context,
  options: ServiceOptions & { hubPython?: string },
): Promise<void> {
  const { upgradeSchema } = await import("../../swap/upgrade-schema.js");
  const result = await operate(context, (lock, signal) =>
    upgradeSchema({
      ...operationOptions(context, options, lock, signal),
      hubPython: options.hubPython,
    }),
  );
  const { upgraded, service } = result;
  context.output.result(result, () =>
    upgraded.from === upgraded.to
      ? [`${upgraded.path} has schema ${upgraded.to} already; nothing was changed.`]
      : [
          `${upgraded.path}: schema ${upgraded.from} is now ${upgraded.to}`,
          ...upgraded.dropped.map(
            ({ client_id, what }) => `  dropped     client ${client_id}: ${what}`,
          ),
          ...downtimeLines(service),
        ],
  );
}
