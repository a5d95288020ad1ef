import { join } from "node:path";
import { describe, test } from "vitest";
import { conformance, type Place } from "../../src/backends/conformance.js";
import { DatabaseFactory } from "../../src/backends/registry.js";
import type { JsonObject } from "../../src/client/json.js";
import { temporaryFolder } from "../store/temporary.js";
import { RedisServer, startCluster } from "./redis-server.js";

/** A place of a plugin whose settings depend on a folder that nobody has used. */
function inFolder(name: string, settings: (folder: string) => JsonObject): Place {
  return async () => {
    const config = settings(await temporaryFolder());
    return () => DatabaseFactory.create(name, config);
  };
}

const backends: [string, Place][] = [
  [
    "hivemind-sqlcipher-db-plugin",
    inFolder("hivemind-sqlcipher-db-plugin", (folder) => ({
      db_path: join(folder, "clients.db"),
      password: "it's",
    })),
  ],
  [
    "hivemind-sqlite-db-plugin",
    inFolder("hivemind-sqlite-db-plugin", (subfolder) => ({ subfolder })),
  ],
  ["hivemind-json-db-plugin", inFolder("hivemind-json-db-plugin", (subfolder) => ({ subfolder }))],
  [
    "hivemind-json-db-plugin with a password",
    inFolder("hivemind-json-db-plugin", (subfolder) => ({
      subfolder,
      password: "sixteen letters!",
    })),
  ],
  [
    "hivemind-redis-db-plugin",
    async () => {
      const { port } = await RedisServer.start();
      return () => DatabaseFactory.create("hivemind-redis-db-plugin", { port });
    },
  ],
];

describe.each(backends)("%s", (_name, place) => {
  test.each(conformance)("$name", ({ run }) => run(place));
});

describe.each([
  ["without a hash tag", {}],
  ["with one", { cluster_hash_tag: "hub" }],
])("hivemind-redis-db-plugin on a cluster, %s", (_name, settings) => {
  test("passes all of it", async () => {
    const [node] = await startCluster();
    let places = 0;
    const place: Place = async () => {
      // Another prefix is another store.
      const index_prefix = `hub ${places++}`;
      const config = { port: node?.port ?? 0, index_prefix, ...settings };
      return () => DatabaseFactory.create("hivemind-redis-db-plugin", config);
    };
    for (const { run } of conformance) await run(place);
  });
});
