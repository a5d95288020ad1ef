import { setFlagsFromString } from "node:v8";
import { type Command, Option } from "commander";
import { StoreError } from "../../errors.js";
import type { Migration } from "../../migrate/migrate.js";
import { abortOnSignal } from "../../process/signals.js";
import { defaultUnit } from "../../service/service.js";
import { counted } from "../../text/count.js";
import { addGlobalOptions, type Context, contextOf } from "../context.js";
import { addHelp } from "../help.js";
import { recoverFirst } from "../open.js";
import { buildEndpoint, collectSetting, type Setting } from "../options/endpoint.js";
import { toJson } from "../ui/json.js";
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
    .addOption(
      new Option("--hub <auto|none>", "Check that the hub can open the target").choices([
        "auto",
        "none",
      ]),
    );
  addGlobalOptions(command);
  addHelp(command, {
    details: [
      "Stop the hub first. Every record is read back and compared. The same command continues an interrupted migration.",
      "Settings are those of the hub's server.json; an option wins over the file. A source is keyring, file:PATH, command:CMD, credential[:NAME] or sealed[:PATH].",
      "--switch asks the hub's Python packages whether they can open the target, unless --hub is none. --remove-source removes nothing before they have read the clients from the target.",
    ],
    examples: [
      "hivemind-sqlcipher migrate --from hivemind-json-db-plugin --to hivemind-sqlcipher-db-plugin --switch",
      "hivemind-sqlcipher migrate --from hivemind-sqlcipher-db-plugin --to hivemind-redis-db-plugin --to-setting host=redis.example --to-setting use_ssl=true --to-password-source keyring",
    ],
  });
  command.action(async (options: MigrateOptions) => runMigrate(await contextOf(command), options));
}

async function runMigrate(context: Context, options: MigrateOptions): Promise<void> {
  const { migrate } = await import("../../migrate/migrate.js");
  const {
    hubDatabase,
    removeSource: removeSourceFiles,
    assertNoOtherPassword,
    assertRemovable,
    assertUnchanged,
    checksumSource,
    findRemainingUsers,
  } = await import("../../migrate/switch.js");
  const { assertHubCanSwitch, assertServedOrSwitchBack } = await import(
    "../../migrate/hub-check.js"
  );
  const { assertReplaceable } = await import("../../fs/atomic.js");
  const { readServerJson, serverJsonPath } = await import("../../hub/server-json.js");
  const { switchModule } = await import("../../hub/server-json-edit.js");
  const from = await buildEndpoint(
    context,
    options.from,
    options.fromSetting,
    options.fromPasswordSource,
  );
  const to = await buildEndpoint(context, options.to, options.toSetting, options.toPasswordSource);
  if (options.removeSource) {
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
  // Check the requirements of the switch before copying anything.
  const hub = options.switch ? hubDatabase(to) : undefined;
  const serverJson = hub && (await readServerJson(serverJsonPath()));

  const { sqlcipherPluginName } = await import("../../databases/sqlite.js");
  if ([from.name, to.name].includes(sqlcipherPluginName)) {
    await recoverFirst(context);
  }
  if (hub && serverJson) {
    await assertNoOtherPassword(serverJson, hub, to);
    if (!options.dryRun) await assertReplaceable(serverJson.file);
  }
  const removeSource = options.removeSource ?? false;
  const testedHub =
    hub && options.hub !== "none"
      ? await assertHubCanSwitch({
          ...{ from, to, database: hub, removeSource, hubPython: options.hubPython },
        })
      : undefined;
  const sum = hub && !options.dryRun ? await checksumSource(from) : undefined;
  // Batched records reach V8's old generation. By default it grows to 200 MB before a collection.
  setFlagsFromString("--optimize-for-size");

  let switched: string | null = null;
  let removed: string[] = [];
  const beforeEnd = async () => {
    if (hub === undefined || serverJson === undefined) return;
    await assertUnchanged(from, sum);
    switched = serverJsonPath();
    await switchModule(switched, hub.module, hub.settings);
    if (!removeSource || testedHub === undefined) return;
    const assertSourceUnchanged = () => assertUnchanged(from, sum);
    await assertServedOrSwitchBack(testedHub, to, hub, serverJson, assertSourceUnchanged);
    removed = await removeSourceFiles(from, sum);
  };
  const progress = new Progress(context.output);
  const migration = await abortOnSignal((signal) =>
    migrate({
      ...{ from, to, merge: options.merge ?? false, dryRun: options.dryRun ?? false, signal },
      onProgress: ({ phase, done, total }) => progress.show(phase, done, total),
      beforeEnd,
    }),
  ).finally(() => progress.end());

  if (hub !== undefined && !migration.dryRun) {
    context.output.notice(hub.notice);
    const { unit = defaultUnit } = context.settings.backup ?? {};
    for (const warning of await findRemainingUsers(from, unit)) context.output.warning(warning);
  }
  context.output.result(toJson({ migrated: { ...migration, switched, removed } }), () => [
    ...migrationLines(migration),
    ...(switched === null ? [] : [`  server.json ${switched} names ${hub?.module}`]),
    ...removed.map((path) => `  removed     ${path}`),
    ...(removed.length > 0
      ? ["              Snapshots, backups and the disk may still have copies of it."]
      : []),
  ]);
}

function migrationLines(migration: Migration): string[] {
  const { from, to, clients, keptRevoked: kept, filledGaps: filled, dryRun } = migration;
  const verb = dryRun ? "would be copied" : "copied";
  return [
    `${dryRun ? "Nothing changed; would migrate" : "Migrated"} from ${from.place}`,
    `  to          ${to.place}`,
    `  clients     ${clients.active} active, ${clients.revoked} revoked`,
    `  copied      ${migration.copied} ${verb}, ${migration.unchanged} already there`,
    ...(filled > 0
      ? [`  gaps        ${counted(filled, "missing id")} filled with revoked rows`]
      : []),
    ...(kept.length > 0
      ? [
          `  revoked     ${kept.slice(0, 10).join(", ")}${kept.length > 10 ? ", …" : ""} stay revoked in the target`,
        ]
      : []),
    ...(migration.verified ? ["  compared    every record was read back and is identical"] : []),
  ];
}
