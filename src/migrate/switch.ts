/** After a migration: the hub is pointed at the target, and the plaintext it came from is removed. */
import { createHash } from "node:crypto";
import { basename, dirname, isAbsolute, relative } from "node:path";
import { formatJson, type JsonObject, type JsonValue } from "../client/json.js";
import { dataHome } from "../config/paths.js";
import { type JsonFiles, jsonFiles, jsonPluginName } from "../databases/json.js";
import type { DatabaseConfig } from "../databases/plugin.js";
import { redisPluginName } from "../databases/redis-settings.js";
import { DatabaseFactory, databasePassword, locationOf } from "../databases/registry.js";
import { sqlcipherPluginName, sqlitePluginName } from "../databases/sqlite.js";
import { StoreError } from "../errors.js";
import { removeFile, syncDirectory } from "../fs/atomic.js";
import { sha256File } from "../fs/hash.js";
import { lstatIfExists } from "../fs/lstat.js";
import { passwordIn, type ServerJson, sqliteModule } from "../hub/server-json.js";
import { parseSource } from "../keys/source.js";
import { findLastingHolders, type Holder } from "../process/holders.js";
import { scopeOf } from "../service/systemctl.js";
import { SystemdUnit } from "../service/systemd.js";
import type { Endpoint } from "./migrate.js";

/** What `database` in `server.json` has to say for a hub to open this database. No secret is added to it. */
export interface HubDatabase {
  readonly module: string;
  readonly settings: JsonObject;
  /** What the hub's owner still has to see to. */
  readonly notice: string;
}

const restart = "The hub uses its old store until it is started again.";

/** @throws StoreError `refused` for a database that no hub could open. */
export function hubDatabase({ name, config }: Endpoint): HubDatabase {
  if (name === sqlcipherPluginName) {
    return {
      module: sqliteModule,
      settings: namesOf(config),
      notice: `${restart} Start it through "hivemind-sqlcipher run", which gives it the passphrase.`,
    };
  }
  if (name === sqlitePluginName) {
    return { module: sqliteModule, settings: namesOf(config), notice: restart };
  }
  if (name === jsonPluginName || name === redisPluginName) {
    const { password_source, ...settings } = config;
    const missing = password_source !== undefined && settings.password === undefined;
    return {
      module: name,
      settings,
      notice: missing ? `${restart} ${passwordNotice(name)}` : restart,
    };
  }
  throw new StoreError("refused", `no hub knows the database plugin ${name}`, {
    hint: "leave out --switch: server.json would name a module that ends the hub",
  });
}

function passwordNotice(name: string): string {
  return name === redisPluginName
    ? `No password was written into server.json. Start it through "hivemind-sqlcipher run", which gives it the password from the keyring, or from --redis-password-source.`
    : `No password was written into server.json; the hub looks for it there alone: database."${name}".password.`;
}

/** Upstream's SQLite plugin takes a folder and a name; other keys end the hub. */
function namesOf(config: JsonObject): JsonObject {
  const path = config.db_path;
  if (typeof path !== "string") {
    const names: Record<string, JsonValue> = {};
    for (const key of ["subfolder", "name"]) if (config[key]) names[key] = config[key] ?? null;
    return names;
  }
  if (!path.endsWith(".db")) {
    throw new StoreError("refused", `the hub's plugin cannot open ${path}: its name ends in .db`, {
      hint: "give the store's file a name that does",
    });
  }
  const below = relative(dataHome(), dirname(path));
  const subfolder = below === "" || below.startsWith("..") ? dirname(path) : below;
  return { subfolder: isAbsolute(below) ? dirname(path) : subfolder, name: basename(path, ".db") };
}

/**
 * The switch puts the target's settings in the place of those that the module has in `server.json`. A password among those
 * may open another store, and be written nowhere else.
 *
 * @throws StoreError `refused` if there is one that is not the target's, and would be lost.
 */
export async function requireNoOtherPassword(
  file: ServerJson,
  { module, settings }: HubDatabase,
  to: Endpoint,
): Promise<void> {
  const password = passwordIn(file, module);
  if (password === undefined || password === settings.password) return;
  if (await isPasswordOf(to, password)) return;
  const takeOver = module === sqliteModule ? "take that store over with init --adopt, or " : "";
  throw new StoreError(
    "refused",
    `${file.path} has a password for ${module} that is not the target's; --switch would remove it`,
    {
      hint: `it may be all that opens another store: ${takeOver}write it down; then take it out of the file by hand. Nothing was copied`,
    },
  );
}

async function isPasswordOf({ name, config }: Endpoint, password: string): Promise<boolean> {
  const { password_source: source, ...settings } = config;
  if (name !== sqlcipherPluginName) {
    if (typeof source !== "string") return false;
    return (await databasePassword(name, settings, parseSource(source))) === password;
  }
  try {
    const opened = { ...settings, password };
    await (await DatabaseFactory.create(name, opened, { mode: "readwrite" })).close();
    return true;
  } catch (error) {
    if (error instanceof StoreError && error.kind === "wrongPassphrase") return false;
    throw error;
  }
}

/** @throws StoreError `usage` for a source of which no plaintext file is left. */
export function requireRemovable({ name }: Endpoint): void {
  if (name === jsonPluginName) return;
  throw new StoreError("usage", `--remove-source removes the files of ${jsonPluginName} alone`, {
    hint: "leave it out, and remove the old store yourself",
  });
}

/** With a password, wherever that comes from, the JSON store's file has another name. */
function filesOf({ password_source: source, ...settings }: DatabaseConfig): Promise<JsonFiles> {
  return jsonFiles(typeof source === "string" ? { ...settings, password: "\0" } : settings);
}

/**
 * What the source holds before it is read, in one number, for `requireUnchanged`. A JSON store is its file, which may be
 * removed afterwards. Of any other it is the sum of its records' checksums, in whatever order they come, and without when a
 * client was last heard of. Where there is no JSON store, it is the migration's to say so.
 */
export async function sumOfSource({ name, config }: Endpoint): Promise<string | undefined> {
  if (name === jsonPluginName) {
    const { store } = await filesOf(config);
    return (await lstatIfExists(store)) && (await sha256File(store));
  }
  await using source = await DatabaseFactory.create(name, config, { mode: "readonly" });
  let sum = 0n;
  for await (const client of source) {
    const text = formatJson({ ...client, last_seen: null });
    sum += BigInt(`0x${createHash("sha256").update(text).digest("hex")}`);
  }
  return sum.toString(16);
}

/**
 * A hub that still runs may have added or revoked a client after the source was read, and what was read is what was compared.
 *
 * @throws StoreError `refused` if the source holds something else than it did.
 */
export async function requireUnchanged(from: Endpoint, sum: string | undefined): Promise<void> {
  if ((await sumOfSource(from)) === sum) return;
  const { name, config } = from;
  const place =
    name === jsonPluginName ? (await filesOf(config)).store : await locationOf(name, config);
  throw new StoreError("refused", `${place} was written to after it had been read: it stays`, {
    hint: "stop the hub that writes to it, then run the same with --merge",
  });
}

/**
 * Who goes on with the old store after the switch: the hub's unit, if it is active, and whoever else has the source open.
 *
 * @param unit the hub's.
 * @returns sentences with what to type. What cannot be found out is nobody's here: the notice of the switch says it in general.
 */
export async function whoGoesOn({ name, config }: Endpoint, unit: string): Promise<string[]> {
  const sentences: string[] = [];
  const active: SystemdUnit[] = [];
  if (process.platform === "linux") {
    for (const kind of ["systemd-user", "systemd"] as const) {
      try {
        const found = await SystemdUnit.find(kind, unit);
        if (found.isUsable && (await found.state()).active) active.push(found);
      } catch (error) {
        if (!(error instanceof StoreError)) throw error;
      }
    }
  }
  for (const { kind, name: unit } of active) {
    const restart = ["systemctl", ...scopeOf(kind), "restart", unit].join(" ");
    sentences.push(
      `${unit} is active, and goes on with its old store until it is restarted: ${restart}`,
    );
  }
  if (name !== sqlcipherPluginName && name !== sqlitePluginName) return sentences;
  const path = await locationOf(name, config);
  const isOther = async ({ pid }: Holder) => {
    for (const service of active) if (await service.owns(pid)) return false;
    return true;
  };
  for (const { pid, command } of (await findLastingHolders(path, isOther)).holders) {
    sentences.push(
      `process ${pid} (${command}) has ${path} open, and goes on with it until it is restarted: kill ${pid}, then start it again`,
    );
  }
  return sentences;
}

/**
 * Removes a JSON store's files, if they are what was read. Answers their names.
 *
 * @throws StoreError as `requireUnchanged`; `io`.
 */
export async function removeSource(from: Endpoint, sum: string | undefined): Promise<string[]> {
  const { store, version } = await filesOf(from.config);
  await requireUnchanged(from, sum);
  await removeFile(store);
  await removeFile(version);
  await syncDirectory(dirname(store));
  return [store];
}
