import { setFlagsFromString } from "node:v8";
import { type Command, Option } from "commander";
import type { JsonObject } from "../../client/json.js";
import type { DatabaseConfig } from "../../databases/plugin.js";
import { StoreError } from "../../errors.js";
import { formatSource } from "../../keys/source.js";
import type { Endpoint, Migration } from "../../migrate/migrate.js";
import { abortOnSignal } from "../../process/signals.js";
import { defaultUnit } from "../../service/service.js";
import { addGlobalOptions, type Context, contextOf } from "../context.js";
import { storeLocation } from "../hub-store.js";
import { recoverFirst } from "../open.js";
import { Progress } from "../ui/progress.js";

interface MigrateCommandOptions {
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

type Setting = readonly [key: string, value: string];

export function addCommand(program: Command): void {
  const migrate = addGlobalOptions(
    program
      .command("migrate")
      .description("copy every client from one database to another, and compare them")
      .requiredOption("--from <plugin>", "the database plugin to read from")
      .requiredOption("--to <plugin>", "the one to write to")
      .option("--from-setting <key=value>", "a setting of its; can be repeated", collect)
      .option("--to-setting <key=value>", "the same for the other", collect)
      .option("--from-password-source <source>", "keyring, file:PATH, command:CMD, credential")
      .option("--to-password-source <source>", "the same for the other")
      .option("--merge", "into a target that holds clients already; changes none of them")
      .option("--dry-run", "only say what would be done")
      .option("--switch", "then let server.json name the target; nothing else in it is changed")
      .option("--remove-source", "then remove the plaintext clients.json; with --switch")
      .option("--hub-python <path>", "the hub's Python, where its unit does not tell")
      .addOption(
        new Option("--hub <auto|none>", "none: no hub uses this server.json").choices([
          "auto",
          "none",
        ]),
      )
      .addHelpText(
        "after",
        `
Settings are those of the hub's server.json; an option wins over what stands
there. Stop the hub first. --switch asks the hub's Python environment whether
the hub could open the target; --remove-source removes nothing before the hub's
own packages have read the clients from the target. The same command continues
a migration that was interrupted.

Examples:
  hivemind-sqlcipher migrate --from hivemind-json-db-plugin --to hivemind-sqlcipher-db-plugin --switch
  hivemind-sqlcipher migrate --from hivemind-sqlcipher-db-plugin --to hivemind-redis-db-plugin \\
    --to-setting host=redis.example --to-setting use_ssl=true --to-password-source keyring`,
      ),
  );
  migrate.action(async (options: MigrateCommandOptions) =>
    runMigrate(await contextOf(migrate), options),
  );
}

function collect(text: string, all: Setting[] = []): Setting[] {
  const [key = "", ...rest] = text.split("=");
  return [...all, [key, rest.join("=")]];
}

async function runMigrate(context: Context, options: MigrateCommandOptions): Promise<void> {
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
  const { readServerJson, serverJsonPath } = await import("../../hub/server-json.js");
  const { switchModule } = await import("../../hub/server-json-edit.js");
  const from = await endOf(context, options.from, options.fromSetting, options.fromPasswordSource);
  const to = await endOf(context, options.to, options.toSetting, options.toPasswordSource);
  if (options.removeSource) {
    assertRemovable(from);
    if (!options.switch) {
      throw new StoreError("usage", "--remove-source goes with --switch", {
        hint: "the hub would start with no clients at all if server.json still named what is removed",
      });
    }
    if (options.hub === "none") {
      throw new StoreError("usage", "--remove-source needs a hub that reads the target", {
        hint: "Leave out --hub none, or remove the source yourself once a hub serves from the target.",
      });
    }
  }
  // What the switch needs is known before anything is copied.
  const hub = options.switch ? hubDatabase(to) : undefined;
  const serverJson = hub && (await readServerJson(serverJsonPath()));

  const { sqlcipherPluginName } = await import("../../databases/sqlite.js");
  if ([from.name, to.name].includes(sqlcipherPluginName)) {
    await recoverFirst(context);
  }
  if (hub && serverJson) await assertNoOtherPassword(serverJson, hub, to);
  const removeSource = options.removeSource ?? false;
  const python =
    hub && options.hub !== "none"
      ? await assertHubCanSwitch({ to, database: hub, removeSource, hubPython: options.hubPython })
      : undefined;
  const sum = hub && !options.dryRun ? await checksumSource(from) : undefined;
  // Records that wait to be written grow old; left alone, the heap is cleared of them only beyond 200 MB.
  setFlagsFromString("--optimize-for-size");

  const progress = new Progress(context.output);
  const migration = await abortOnSignal((signal) =>
    migrate({
      ...{ from, to, merge: options.merge ?? false, dryRun: options.dryRun ?? false, signal },
      onProgress: ({ phase, done, total }) => progress.show(phase, done, total),
    }),
  ).finally(() => progress.end());

  let switched: string | null = null;
  let removed: string[] = [];
  if (hub !== undefined && !migration.dry_run) {
    await assertUnchanged(from, sum);
    switched = serverJsonPath();
    await switchModule(switched, hub.module, hub.settings);
    if (removeSource && python !== undefined && serverJson !== undefined) {
      await assertServedOrSwitchBack(python, to, hub, serverJson);
      removed = await removeSourceFiles(from, sum);
    }
    context.output.notice(hub.notice);
    const { unit = defaultUnit } = context.settings.backup ?? {};
    for (const sentence of await findRemainingUsers(from, unit)) context.output.warning(sentence);
  }
  context.output.result({ migrated: { ...migration, switched, removed } }, () => [
    ...migrationLines(migration),
    ...(switched === null ? [] : [`  server.json ${switched} names ${hub?.module}`]),
    ...removed.map(
      (path) => `  removed     ${path}; what the disk, snapshots and backups kept of it`,
    ),
    ...(removed.length > 0
      ? ["              may still be read: give its clients new keys if that matters"]
      : []),
  ]);
}

/** A plugin's settings: those in server.json, those of the command line over them. */
async function endOf(
  context: Context,
  name: string,
  given: Setting[] = [],
  passwordSource?: string,
): Promise<Endpoint> {
  const { sqlcipherPluginName } = await import("../../databases/sqlite.js");
  const settings: Record<string, JsonObject[string]> = {};
  for (const [key, value] of given) settings[key] = settingValue(key, value);
  const config =
    name === sqlcipherPluginName
      ? await storeConfig(context, settings)
      : { ...(await configInServerJson(name)), ...settings };
  if (passwordSource === undefined) return { name, config };
  const { password: _, ...rest } = config;
  return { name, config: { ...rest, password_source: passwordSource } };
}

/** The encrypted store is the one that every other command means, and so is its passphrase. */
async function storeConfig(
  { settings, source }: Context,
  given: DatabaseConfig,
): Promise<DatabaseConfig> {
  const { path, name, subfolder } = await storeLocation(settings, "migrate");
  const isNamed = ["db_path", "name", "subfolder"].some((key) => Object.hasOwn(given, key));
  const place = isNamed ? {} : { db_path: path, name, subfolder };
  return {
    ...Object.fromEntries(Object.entries(place).filter(([, value]) => value !== undefined)),
    password_source: formatSource(source),
    ...(source.kind === "keyring" && source.withoutKeyCache && { key_cache: false }),
    ...given,
  };
}

/** A value as JSON where it is JSON, as text otherwise. */
function settingValue(key: string, text: string): JsonObject[string] {
  if (key === "password") {
    throw new StoreError("usage", "a password is not given on the command line", {
      hint: "others could see it there; say where it comes from: --to-password-source, --from-password-source",
    });
  }
  try {
    return JSON.parse(text) as JsonObject[string];
  } catch {
    return text;
  }
}

/** @throws StoreError `refused` for a server.json that does not parse, though the hub would use its defaults. */
async function configInServerJson(name: string): Promise<DatabaseConfig> {
  const { readServerJson, serverJsonPath } = await import("../../hub/server-json.js");
  const { isJsonObject } = await import("../../client/json.js");
  try {
    const { settings } = await readServerJson(serverJsonPath());
    const database = isJsonObject(settings.database) ? settings.database : {};
    const config = Object.hasOwn(database, name) ? database[name] : undefined;
    return isJsonObject(config) ? config : {};
  } catch (error) {
    if (error instanceof StoreError && error.kind === "notFound") return {};
    throw error;
  }
}

function migrationLines(migration: Migration): string[] {
  const { from, to, clients, kept_revoked: kept } = migration;
  const would = migration.dry_run ? "would be " : "";
  return [
    `${migration.dry_run ? "Nothing was changed. From" : "Migrated: from"} ${from.place}`,
    `  to          ${to.place}`,
    `  clients     ${clients.active} active, ${clients.revoked} revoked`,
    `  copied      ${migration.copied} ${would}copied, ${migration.unchanged} there already`,
    ...(migration.filled_gaps > 0
      ? [
          `  gaps        ${migration.filled_gaps} ids that nobody had ${would}filled with revoked rows`,
        ]
      : []),
    ...(kept.length > 0
      ? [
          `  revoked     ${kept.slice(0, 10).join(", ")}${kept.length > 10 ? ", …" : ""}: revoked in the target, and left so`,
        ]
      : []),
    ...(migration.verified ? ["  compared    every record was read back, and is the same"] : []),
  ];
}
