import { setFlagsFromString } from "node:v8";
import type { Command } from "commander";
import type { Endpoint } from "../../databases/plugin.js";
import { StoreError } from "../../errors.js";
import type { Migration } from "../../migrate/copy-database.js";
import type { HubSwitch, SwitchOutcome } from "../../migrate/switch.js";
import { defaultUnit } from "../../service/service.js";
import { counted } from "../../text/count.js";
import { choiceOption, finishCommand } from "../command.js";
import type { Context } from "../context.js";
import { operateOnStores } from "../operate.js";
import { buildEndpoint, collectSetting, type Setting } from "../options/endpoint.js";
import { fieldLines, formatCounts } from "../ui/lines.js";
import { Progress } from "../ui/progress.js";

interface MigrateOptions {
  from: string;
  to: string;
  fromSetting?: Setting[];
  toSetting?: Setting[];
  fromPasswordSource?: string;
  toPasswordSource?: string;
  merge?: boolean;
  dryRun?: boolean;
  switch?: boolean;
  removeSource?: boolean;
  hub?: "auto" | "none";
  hubPython?: string;
}

export function addCommand(program: Command): void {
  const command = program
    .command("migrate")
    .description("Copy every client from one database to another")
    .requiredOption("--from <plugin>", "Read from this database plugin")
    .requiredOption("--to <plugin>", "Write to this database plugin")
    .option("--from-setting <key=value>", "Set a setting of --from (repeatable)", collectSetting)
    .option("--to-setting <key=value>", "Set a setting of --to (repeatable)", collectSetting)
    .option("--from-password-source <source>", "Read the password of --from here")
    .option("--to-password-source <source>", "Read the password of --to here")
    .option("--merge", "Add to a target that has clients, change none of them")
    .option("--dry-run", "Show what would be copied, change nothing")
    .option("--switch", "Set the hub's database in server.json to the target")
    .option("--remove-source", "Remove the plaintext clients.json after the switch")
    .option("--hub-python <path>", "Use this Python of the hub (default: from its unit)")
    .addOption(choiceOption("--hub <auto|none>", "Check that the hub can open the target"));
  finishCommand(command, runMigrate, {
    details: [
      "Stop the hub first. Every record is read back and compared. The same command continues an interrupted migration.",
      "A database has its settings in the hub's server.json, which --from-setting and --to-setting override; hivemind-sqlcipher-db-plugin is the store of the other commands. The source of a password is keyring, file:PATH, command:CMD, credential[:NAME] or sealed[:PATH].",
      "--switch asks the hub's Python packages whether they can open the target, unless --hub is none. --remove-source removes nothing before these packages have read the clients from the target.",
    ],
    examples: [
      "hivemind-sqlcipher migrate --from hivemind-json-db-plugin --to hivemind-sqlcipher-db-plugin --switch",
      "hivemind-sqlcipher migrate --from hivemind-sqlcipher-db-plugin --to hivemind-redis-db-plugin --to-setting host=redis.example --to-setting use_ssl=true --to-password-source keyring",
    ],
  });
}

async function runMigrate(context: Context, options: MigrateOptions): Promise<void> {
  const { findStores } = await import("../../migrate/stores.js");
  const { dryRun = false } = options;
  const { from, to } = await buildEndpoints(context, options);
  if (options.removeSource) await assertSourceRemovable(from, options);
  const stores = await findStores(from, to);
  const work = (signal: AbortSignal) => migrateRecovered(context, options, signal);
  await operateOnStores(context, stores, work, { dryRun });
}

/** Builds the two databases from the options, the settings and server.json. */
async function buildEndpoints(
  context: Context,
  options: MigrateOptions,
): Promise<{ from: Endpoint; to: Endpoint }> {
  const { fromSetting, fromPasswordSource, toSetting, toPasswordSource } = options;
  const from = await buildEndpoint(context, options.from, fromSetting, fromPasswordSource);
  const to = await buildEndpoint(context, options.to, toSetting, toPasswordSource);
  return { from, to };
}

/** Migrates, after the recovery of the stores and, except for a dry run, under their locks. */
async function migrateRecovered(
  context: Context,
  options: MigrateOptions,
  signal: AbortSignal,
): Promise<void> {
  const { copyDatabase } = await import("../../migrate/copy-database.js");
  const { planSwitch } = await import("../../migrate/switch.js");
  const { hub = "auto", hubPython, merge = false, removeSource = false, dryRun = false } = options;
  // A recovery may have changed the passphrase's source and server.json.
  const { from, to } = await buildEndpoints(context, options);
  const plan = options.switch
    ? await planSwitch({ from, to, hub, hubPython, removeSource, dryRun })
    : undefined;
  // By default V8's heap grows to 300 MB before it is collected.
  setFlagsFromString("--semi-space-growth-factor=1");
  setFlagsFromString("--heap-growing-percent=30");
  let outcome: SwitchOutcome = { switched: null, removed: [] };
  const progress = new Progress(context.output);
  const migration = await copyDatabase({
    from,
    to,
    merge,
    dryRun,
    signal,
    onProgress: ({ phase, done, total }) => progress.show(phase, done, total),
    beforeEnd: async ({ keptRevoked }, inTarget) => {
      if (plan) outcome = await plan.run({ keptRevoked, inTarget });
    },
  }).finally(() => progress.end());
  if (plan && !dryRun) await printNextSteps(context, from, plan);
  const { kept, switched, removed } = outcome;
  if (kept !== undefined) context.output.warning(`${from.name} was not removed: ${kept}`);
  context.output.result({ migrated: { ...migration, switched, removed } }, () => [
    ...migrationLines(migration),
    ...switchLines(outcome, plan),
  ]);
}

/** Throws if the options do not ensure that a hub reads the target. */
async function assertSourceRemovable(from: Endpoint, options: MigrateOptions): Promise<void> {
  const { assertRemovable } = await import("../../migrate/source.js");
  assertRemovable(from);
  if (!options.switch) {
    throw new StoreError("usage", "--remove-source needs --switch", {
      hint: "Add --switch: without it the hub starts with no clients, from a database that was removed.",
    });
  }
  if (options.hub === "none") {
    throw new StoreError("usage", "--remove-source needs a hub that reads the target", {
      hint: "Leave out --hub none, or remove the source manually when a hub serves from the target.",
    });
  }
}

/** Prints what the operator has to do, and warnings about other programs that use the source. */
async function printNextSteps(
  { settings, output }: Context,
  from: Endpoint,
  { database }: HubSwitch,
): Promise<void> {
  const { findRemainingUsers } = await import("../../migrate/source.js");
  output.notice(database.notice);
  const { unit = defaultUnit } = settings.backup ?? {};
  for (const warning of await findRemainingUsers(from, unit)) output.warning(warning);
}

function switchLines({ switched, removed }: SwitchOutcome, plan: HubSwitch | undefined): string[] {
  return fieldLines({
    "server.json": switched && `${switched} names ${plan?.database.module}`,
    removed,
    "": removed.length > 0 ? "Snapshots, backups and the disk may still have copies of it." : null,
  });
}

function migrationLines(migration: Migration): string[] {
  const { from, to, clients, keptRevoked: kept, filledGaps: filled, dryRun } = migration;
  const someKept = `${kept.slice(0, 10).join(", ")}${kept.length > 10 ? ", …" : ""}`;
  const verb = dryRun ? "would be copied" : "copied";
  return [
    `${dryRun ? "Nothing changed; would migrate" : "Migrated"} from ${from.place}`,
    ...fieldLines({
      to: to.place,
      clients: formatCounts(clients),
      copied: `${migration.copied} ${verb}, ${migration.unchanged} already there`,
      gaps: filled > 0 ? `${counted(filled, "missing id")} filled with revoked rows` : null,
      revoked: kept.length > 0 ? `${someKept} stay revoked in the target` : null,
      compared: migration.verified ? "every record was read back and is identical" : null,
    }),
  ];
}
