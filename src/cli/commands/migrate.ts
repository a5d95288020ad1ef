import { setFlagsFromString } from "node:v8";
import type { Command } from "commander";
import type { Endpoint } from "../../databases/plugin.js";
import { StoreError } from "../../errors.js";
import type { TestedHub } from "../../migrate/hub-check.js";
import type { Migration } from "../../migrate/migrate.js";
import type { HubDatabase } from "../../migrate/switch.js";
import { abortOnSignal } from "../../process/signals.js";
import { defaultUnit } from "../../service/service.js";
import { counted } from "../../text/count.js";
import { choiceOption, finishCommand } from "../command.js";
import type { Context } from "../context.js";
import { recoverFirst } from "../open.js";
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
    .option("--hub-python <path>", "Use this Python of the hub (default: by its unit)")
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
  const { migrate } = await import("../../migrate/migrate.js");
  const { sqlcipherPluginName } = await import("../../databases/sqlite.js");
  const endpoints = await buildEndpoints(context, options);
  const { from, to } = endpoints;
  if (options.removeSource) await assertSourceRemovable(from, options);
  // Recover before the plan reads server.json, which a recovery may change.
  if ([from.name, to.name].includes(sqlcipherPluginName)) await recoverFirst(context);
  const plan = options.switch ? await planSwitch(endpoints, options) : undefined;
  // By default V8's heap grows to 300 MB before it is collected.
  setFlagsFromString("--semi-space-growth-factor=1");
  setFlagsFromString("--heap-growing-percent=30");
  let outcome: SwitchOutcome = { switched: null, removed: [] };
  const progress = new Progress(context.output);
  const migration = await abortOnSignal((signal) =>
    migrate({
      ...{ from, to, merge: options.merge ?? false, dryRun: options.dryRun ?? false, signal },
      onProgress: ({ phase, done, total }) => progress.show(phase, done, total),
      beforeEnd: async ({ keptRevoked }) => {
        if (plan) outcome = await switchHub(endpoints, plan, keptRevoked);
      },
    }),
  ).finally(() => progress.end());
  if (plan && !migration.dryRun) await printNextSteps(context, from, plan);
  if (plan?.removeSource && outcome.switched !== null && migration.keptRevoked.length > 0) {
    context.output.warning(
      `${from.name} was not removed: it has clients that are revoked in the target. Remove it manually if they should be`,
    );
  }
  context.output.result({ migrated: { ...migration, ...outcome } }, () => [
    ...migrationLines(migration),
    ...switchLines(outcome, plan),
  ]);
}

interface Endpoints {
  readonly from: Endpoint;
  readonly to: Endpoint;
}

async function buildEndpoints(context: Context, options: MigrateOptions): Promise<Endpoints> {
  const { from, fromSetting, fromPasswordSource, to, toSetting, toPasswordSource } = options;
  return {
    from: await buildEndpoint(context, from, fromSetting, fromPasswordSource),
    to: await buildEndpoint(context, to, toSetting, toPasswordSource),
  };
}

/** Throws if the options do not ensure that a hub reads the target. */
async function assertSourceRemovable(from: Endpoint, options: MigrateOptions): Promise<void> {
  const { assertRemovable } = await import("../../migrate/switch.js");
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

/** A switch of the hub to the target, whose requirements are met. */
interface SwitchPlan {
  readonly database: HubDatabase;
  readonly path: string;
  /** The hubs that can open the target; none with `--hub none`. */
  readonly testedHubs: readonly TestedHub[];
  /** The checksum of the source, if it is a file; undefined for a dry run. */
  readonly sum: string | undefined;
  readonly removeSource: boolean;
}

async function planSwitch({ from, to }: Endpoints, options: MigrateOptions): Promise<SwitchPlan> {
  const { assertNoOtherPassword, checksumSource, keepJsonPassword, resolveHubDatabase } =
    await import("../../migrate/switch.js");
  const { assertHubCanSwitch } = await import("../../migrate/hub-check.js");
  const { assertReplaceable } = await import("../../fs/atomic.js");
  const { readServerJson, serverJsonPath } = await import("../../hub/server-json.js");
  const { removeSource = false, dryRun = false, hubPython } = options;
  const target = resolveHubDatabase(to);
  const before = await readServerJson(serverJsonPath());
  await assertNoOtherPassword(before, target, to);
  const database = keepJsonPassword(target, before);
  if (!dryRun) await assertReplaceable(before.file);
  const testedHubs =
    options.hub === "none"
      ? []
      : await assertHubCanSwitch({ from, to, database, removeSource, hubPython });
  const sum = dryRun ? undefined : await checksumSource(from);
  return { database, path: before.path, testedHubs, sum, removeSource };
}

interface SwitchOutcome {
  /** The path of the `server.json` that was changed to name the target; null without a switch. */
  readonly switched: string | null;
  readonly removed: string[];
}

/** @param keptRevoked - the ids of active clients of the source that are revoked in the target */
async function switchHub(
  { from, to }: Endpoints,
  plan: SwitchPlan,
  keptRevoked: readonly number[],
): Promise<SwitchOutcome> {
  const { assertNoOtherPassword, assertUnchanged, removeSource } = await import(
    "../../migrate/switch.js"
  );
  const { assertServedOrSwitchBack } = await import("../../migrate/hub-check.js");
  const { readServerJson } = await import("../../hub/server-json.js");
  const { switchModule } = await import("../../hub/server-json-edit.js");
  const { database, path: switched, testedHubs, sum } = plan;
  const assertSourceUnchanged = () => assertUnchanged(from, sum);
  await assertSourceUnchanged();
  // A password may have been written during the copy.
  const before = await readServerJson(switched);
  await assertNoOtherPassword(before, database, to);
  await switchModule(switched, database.module, database.settings);
  if (!plan.removeSource) return { switched, removed: [] };
  await assertServedOrSwitchBack(testedHubs, to, database, before, assertSourceUnchanged);
  // The source may have the only copy of a client that a hub has added since an earlier attempt.
  if (keptRevoked.length > 0) return { switched, removed: [] };
  return { switched, removed: await removeSource(from, sum) };
}

/** Prints what the operator has to do, and warnings about other programs that use the source. */
async function printNextSteps(
  { settings, output }: Context,
  from: Endpoint,
  { database }: SwitchPlan,
): Promise<void> {
  const { findRemainingUsers } = await import("../../migrate/switch.js");
  output.notice(database.notice);
  const { unit = defaultUnit } = settings.backup ?? {};
  for (const warning of await findRemainingUsers(from, unit)) output.warning(warning);
}

function switchLines({ switched, removed }: SwitchOutcome, plan: SwitchPlan | undefined): string[] {
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
