import type { Command } from "commander";
import type { UpgradeSchemaResult } from "../../swap/upgrade-schema.js";
import { finishCommand } from "../command.js";
import type { Context } from "../context.js";
import { operateWithService } from "../operate.js";
import { addServiceOptions, type ServiceOptions } from "../options/service.js";
import { describeDowntime, fieldLines } from "../ui/lines.js";

interface UpgradeOptions extends ServiceOptions {
  hubPython?: string;
}

export function addCommand(program: Command): void {
  const command = program
    .command("upgrade-schema")
    .description("Upgrade the store to schema 2 of HiveMind 5")
    .option("--hub-python <path>", "Use this Python of the hub (default: from its unit)");
  addServiceOptions(command);
  finishCommand(command, runUpgrade, {
    details: [
      "Refuses if the hub's packages do not know schema 2. Lists the values that schema 2 cannot store, and asks for confirmation before they are dropped.",
    ],
    examples: [
      "hivemind-sqlcipher upgrade-schema",
      "hivemind-sqlcipher upgrade-schema --hub-python /opt/hivemind/bin/python",
    ],
  });
}

async function runUpgrade(context: Context, options: UpgradeOptions): Promise<void> {
  const { upgradeSchema } = await import("../../swap/upgrade-schema.js");
  const result = await operateWithService(context, options, (operation) =>
    upgradeSchema({
      ...operation,
      hubPython: options.hubPython,
    }),
  );
  context.output.result(result, () => upgradeLines(result));
}

function upgradeLines({ upgraded, service }: UpgradeSchemaResult): string[] {
  const { path, from, to, dropped } = upgraded;
  if (from === to) return [`${path} has schema ${to} already; nothing changed`];
  return [
    `Upgraded: ${path}, from schema ${from} to ${to}`,
    ...fieldLines({
      dropped: dropped.map(({ clientId, what }) => `client ${clientId}: ${what}`),
      service: describeDowntime(service),
    }),
  ];
}
