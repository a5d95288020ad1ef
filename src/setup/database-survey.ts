/** Inspects the database that `server.json` names for the hub. */
import { isRevoked } from "../client/client.js";
import { hubContainer, toHub } from "../config/hub-account.js";
import { IdSet } from "../databases/id-set.js";
import { jsonFiles, jsonPluginName } from "../databases/json.js";
import { DatabaseFactory } from "../databases/registry.js";
import { isKind, StoreError } from "../errors.js";
import { hasBlacklist } from "../hub/schema.js";
import {
  databaseIn,
  namedStore,
  passwordIn,
  type ServerJson,
  sqliteModule,
} from "../hub/server-json.js";
import { identify } from "../store/cipher.js";
import { readSize } from "./files.js";
import { type Problem, toProblem } from "./problem.js";

/** The database that the hub uses now. */
export interface DatabaseSurvey {
  /** `sqlite` is not encrypted, `sqlcipher` is. */
  readonly kind: "json" | "sqlite" | "sqlcipher" | "other" | "absent";
  readonly module: string;
  /** The file; the module for `other`. */
  readonly place: string;
  /**
   * The number of clients that are not revoked, of a JSON database. Undefined for SQLite: opening
   * the store could create files next to it.
   */
  readonly clientCount: number | undefined;
  /** Whether a client has a blacklist; undefined where `clientCount` is. */
  readonly hasBlacklists: boolean | undefined;
  /**
   * Whether no client is revoked, but a copy gets revoked rows for unused ids; undefined where
   * `clientCount` is.
   */
  readonly isFirstRevoked: boolean | undefined;
  /** Bytes. */
  readonly size: number;
  /** Whether `server.json` has a password for it. */
  readonly hasPassword: boolean;
  readonly problem: Problem | undefined;
}

export async function surveyDatabase(file: ServerJson, storePath: string): Promise<DatabaseSurvey> {
  const { module = jsonPluginName, settings } = databaseIn(file);
  const none = {
    module,
    clientCount: undefined,
    hasBlacklists: undefined,
    isFirstRevoked: undefined,
    size: 0,
    hasPassword: false,
    problem: undefined,
  };
  const problem = findVolumeProblem(storePath);
  if (problem !== undefined) return { ...none, kind: "other", place: module, problem };
  try {
    const hasPassword = passwordIn(file, module) !== undefined;
    if (module === jsonPluginName) {
      const place = (await jsonFiles(settings)).store;
      const counted = await countClients(module, settings);
      return { ...none, ...counted, kind: "json", place, size: await readSize(place), hasPassword };
    }
    if (module === sqliteModule) {
      const { storePath: named } = await namedStore(file);
      if (named !== storePath) {
        const message = `the hub uses ${named ?? "no file"}, not ${storePath}`;
        const hint = "Leave out --db, or correct name and subfolder in server.json.";
        return { ...none, kind: "other", place: module, problem: { message, hint } };
      }
      const { format } = await identify(storePath);
      const kind = format === "plaintext" ? "sqlite" : format === "sqlcipher" ? format : "absent";
      return { ...none, kind, place: storePath, size: await readSize(storePath), hasPassword };
    }
    return { ...none, kind: "other", place: module };
  } catch (error) {
    if (!(error instanceof StoreError)) throw error;
    return { ...none, kind: "other", place: module, problem: toProblem(error) };
  }
}

/** Returns why the hub of a container could not use the store; undefined if it could. */
function findVolumeProblem(storePath: string): Problem | undefined {
  const container = hubContainer();
  if (container === undefined) return undefined;
  const hint = "Mount its directory: docs/guide/containers.md shows how.";
  if (toHub(storePath) === undefined) {
    return { message: `the container ${container.name} has no volume with ${storePath}`, hint };
  }
  if (container.mounts.every(({ source }) => source !== storePath)) return undefined;
  return { message: `the container ${container.name} mounts only the file ${storePath}`, hint };
}

async function countClients(name: string, config: ReturnType<typeof databaseIn>["settings"]) {
  try {
    await using database = await DatabaseFactory.create(name, config, { mode: "readonly" });
    let clientCount = 0;
    let revokedCount = 0;
    let hasBlacklists = false;
    const ids = new IdSet();
    for await (const client of database) {
      ids.add(client.client_id);
      if (isRevoked(client)) revokedCount += 1;
      else {
        clientCount += 1;
        hasBlacklists ||= hasBlacklist(client);
      }
    }
    const isFirstRevoked = revokedCount === 0 && ids.highest > ids.size;
    return { clientCount, hasBlacklists, isFirstRevoked };
  } catch (error) {
    // A hub without clients has not written the file yet.
    if (isKind(error, "notFound"))
      return { clientCount: 0, hasBlacklists: false, isFirstRevoked: false };
    throw error;
  }
}
