/**
 * Upstream's own tests of its stores, fetched with their sources (scripts/python-peers) and run on
 * stores that this project made. What cannot be run that way is named here, with the reason.
 */
import { execFile } from "node:child_process";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import { expect, test } from "vitest";
import { revoked } from "../../src/client/client.js";
import type { JsonObject } from "../../src/client/json.js";
import { DatabaseFactory } from "../../src/databases/registry.js";
import { ClientStore } from "../../src/store/client-store.js";
import { RedisServer, startCluster } from "../databases/redis-server.js";
import { temporaryFolder } from "../store/temporary.js";
import { interpreter, type Line, sources } from "./python.js";

const passphrase = "it's";
const runner = fileURLToPath(new URL("upstream.py", import.meta.url));

interface Outcomes {
  /** By the test's name: passed, failed, skipped. */
  outcomes: Record<string, string>;
  /** How many of this project's stores the tests were given. */
  used: number;
}

async function run(
  line: Line,
  file: string,
  args: readonly string[],
  environment: NodeJS.ProcessEnv = {},
): Promise<Outcomes> {
  const home = await temporaryFolder();
  const [kind = "", ...rest] = args;
  const { stdout } = await promisify(execFile)(
    interpreter(line),
    ["-B", runner, kind, join(sources(), file), ...rest],
    {
      env: {
        ...{ PATH: process.env.PATH, PYTHONPATH: join(sources(), "pytest"), HOME: home },
        ...{ XDG_DATA_HOME: home, XDG_CONFIG_HOME: home, XDG_STATE_HOME: home, ...environment },
      },
      maxBuffer: 1 << 28,
    },
  );
  return JSON.parse(stdout);
}

/** All pass but those that are named, which do not. */
function expectPassed({ outcomes }: Outcomes, count: number, except: readonly string[] = []): void {
  const others = Object.entries(outcomes).filter(([, outcome]) => outcome !== "passed");
  expect(others.map(([name]) => name).sort()).toEqual([...except].sort());
  expect(Object.keys(outcomes)).toHaveLength(count);
}

/**
 * They close the connection and expect an error of Python's own sqlite3, which an encrypted one
 * does not raise.
 */
const ofSqlite3Alone = [
  "TestSQLiteDBLen::test_len_returns_zero_on_error",
  "TestSQLiteDBAddItem::test_add_returns_false_on_error",
  "TestSQLiteDBSearchByValue::test_search_returns_empty_on_sqlite_error",
  "TestSQLiteDBCommit::test_commit_returns_false_on_error",
];

const released = {
  line: "released",
  file: "hivemind_sqlite_database-0.2.1/tests/test_sqlitedb.py",
} as const;
const development = {
  line: "development",
  file: "hivemind_sqlite_database-0.4.3a9/tests/test_sqlitedb.py",
} as const;

test.each([
  { ...released, count: 31 },
  { ...development, count: 69 },
])(
  "SQLite, $line: upstream's tests pass on a store in plain text that was made here",
  async ({ line, file, count }) => {
    const store = join(await temporaryFolder(), "clients.db");
    await (await DatabaseFactory.create("hivemind-sqlite-db-plugin", { db_path: store })).close();
    const done = await run(line, file, ["sqlite", store]);
    expectPassed(done, count);
    expect(done.used).toBeGreaterThan(count / 2);
  },
);

test.each([
  { ...released, count: 31 },
  { ...development, count: 69 },
])(
  "SQLite, $line: upstream's tests pass on an encrypted store that was made here",
  async ({ line, file, count }) => {
    const store = join(await temporaryFolder(), "clients.db");
    await (await ClientStore.create(store, passphrase, { schemaVersion: 0 })).close();
    const done = await run(line, file, ["sqlite", store, passphrase]);
    expectPassed(done, count, ofSqlite3Alone);
    expect(done.used).toBeGreaterThan(count / 2);
  },
);

test.each([
  {
    line: "released",
    file: "hivemind_json_db_plugin-0.0.2/tests/test_jsondb.py",
    count: 17,
    // They expect one record; this plugin makes a second one beside a record that it read from a
    // file.
    except: [
      "test_hivemind_client_metadata_survives_iteration",
      "test_nested_and_non_ascii_metadata_round_trip",
      "test_maybe_migrate_writes_schema_version_sentinel",
      "test_post_init_runs_migration_on_existing_db",
    ],
  },
  {
    line: "development",
    file: "hivemind_json_db_plugin-0.0.6a1/tests/test_jsondb.py",
    count: 20,
    // They expect metadata without the crypto key that this plugin puts there from a record of the
    // released line.
    except: [
      "test_metadata_survives_commit_and_reload",
      "test_client_id_lookup_survives_reload",
      "test_post_init_runs_migration_on_existing_db",
    ],
  },
  {
    line: "development",
    file: "hivemind_json_db_plugin-0.0.6a1/tests/test_t1093_stale_clobber.py",
    count: 10,
    except: [],
  },
] as const)(
  "JSON, $file: upstream's tests pass on a store that was made here",
  async ({ line, file, count, except }) => {
    const subfolder = await temporaryFolder();
    {
      await using database = await DatabaseFactory.create("hivemind-json-db-plugin", { subfolder });
      // The tests put a client in its place.
      await database.addItem(revoked(1));
    }
    const done = await run(line, file, ["json", join(subfolder, "clients.json")]);
    expectPassed(done, count, except);
    expect(done.used).toBeGreaterThan(count / 2);
  },
);

/** The prefixes that the tests use, once their random end is a fixed one. */
const prefixOf = (mode: string, suffix: string) => `ci_${mode}_${suffix}_f111edf1`;

/** Client 1, whom the tests add and change, was revoked here. */
async function fillServer(config: JsonObject): Promise<void> {
  await using database = await DatabaseFactory.create("hivemind-redis-db-plugin", config);
  await database.addItems([revoked(1), revoked(2)]);
}

// The other tests of that package are on a server of Python objects in memory, which nothing can
// fill.
test.each([
  { line: "released", version: "0.0.3" },
  { line: "development", version: "0.1.1a8" },
] as const)(
  "Redis, $line: upstream's tests pass on servers that were filled here, alone and as a cluster",
  {
    timeout: 120_000,
  },
  async ({ line, version }) => {
    const file = `hivemind_redis_database-${version}/tests/test_integration.py`;
    const single = await RedisServer.start();
    const at = (mode: string, port: number) => ({
      REDIS_TEST_MODE: mode,
      REDIS_HOST: "127.0.0.1",
      REDIS_PORT: String(port),
    });
    await fillServer({ port: single.port, index_prefix: prefixOf("single", "single") });
    const alone = await run(line, file, ["redis"], at("single", single.port));
    expect(alone.outcomes).toMatchObject({
      "SingleRedisIntegrationTests::test_single_instance_crud_and_search": "passed",
    });

    const port = (await startCluster())[0]?.port ?? 0;
    for (const suffix of ["cluster-host", "cluster-nodes"]) {
      await fillServer({ port, index_prefix: prefixOf("cluster", suffix) });
    }
    const index_prefix = prefixOf("cluster", "cluster-tag");
    await fillServer({ port, index_prefix, cluster_hash_tag: "clients" });
    const together = await run(line, file, ["redis"], at("cluster", port));
    expect(together.outcomes).toMatchObject({
      "ClusterRedisIntegrationTests::test_cluster_auto_detect_from_host_port": "passed",
      "ClusterRedisIntegrationTests::test_cluster_with_explicit_startup_nodes": "passed",
      "ClusterRedisIntegrationTests::test_cluster_with_hash_tag_namespace": "passed",
    });
  },
);
