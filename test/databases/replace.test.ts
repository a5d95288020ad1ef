import { execFileSync, spawn } from "node:child_process";
import { once } from "node:events";
import { expect, test } from "vitest";
import { newClient, revokedApiKey } from "../../src/client/client.js";
import type { JsonObject } from "../../src/client/json.js";
import { DatabaseFactory } from "../../src/databases/registry.js";
import { root } from "../built.js";
import { RedisServer, startCluster } from "./redis-server.js";

const redis = "hivemind-redis-db-plugin";

const [first, second] = [1, 2].map((id) =>
  newClient({ client_id: id, api_key: `key-${id}`, name: "hall" }),
) as [ReturnType<typeof newClient>, ReturnType<typeof newClient>];

/**
 * Starts a process that replaces one client by the other all the time, and kills it after so many
 * milliseconds.
 */
async function replaceUntilKilled(config: JsonObject, after: number): Promise<void> {
  const script = `${root}test/databases/replace-in-a-loop.mjs`;
  const child = spawn(process.execPath, [script, redis, JSON.stringify(config)]);
  await Promise.race([
    once(child.stdout, "data"),
    once(child, "close").then(() => Promise.reject(new Error("it ended by itself"))),
  ]);
  await new Promise((resolve) => setTimeout(resolve, after));
  child.kill("SIGKILL");
  await once(child, "close");
}

test("a replacement that is killed at any moment happened as a whole or not at all", {
  timeout: 120_000,
}, async () => {
  const { port } = await RedisServer.start();
  {
    await using database = await DatabaseFactory.create(redis, { port });
    await database.addItem(first);
  }
  for (let after = 0; after < 10; after++) {
    await replaceUntilKilled({ port }, after);
    await using database = await DatabaseFactory.create(redis, { port });
    const admitted = [];
    for (const { api_key } of [first, second]) {
      const client = await database.getClientByApiKey(api_key);
      if (client !== undefined) admitted.push(client);
    }
    expect(admitted).toHaveLength(1);
    expect(await database.searchByValue("name", "hall")).toEqual(admitted);
    expect(await database.size()).toBe(2);
    // The next one begins with the first again.
    if (admitted[0]?.client_id === 2) await database.replaceItem(second, first);
  }
});

test.each<[string, (port: number) => JsonObject]>([
  ["on a single server", (port) => ({ port })],
  ["below a hash tag", (port) => ({ port, cluster_hash_tag: "hub" })],
])(
  "%s a replacement whose one half cannot be written leaves the other half alone",
  async (name, config) => {
    const port = name.includes("hash")
      ? (await startCluster())[0]?.port
      : (await RedisServer.start()).port;
    const settings = { ...config(port ?? 0), retry_attempts: 1, retry_delay: 0.01 };
    await using database = await DatabaseFactory.create(redis, settings);
    await database.addItem(first);
    const prefix = name.includes("hash") ? "client:{hub}" : "client";
    await put(port ?? 0, `${prefix}:client:2`, "__hivemind_creating__");
    await expect(database.replaceItem(first, second)).rejects.toMatchObject({ kind: "inUse" });
    expect(await database.getClientByApiKey("key-1")).toMatchObject({ client_id: 1, name: "hall" });

    await put(port ?? 0, `${prefix}:client:2`, undefined);
    await database.replaceItem(first, second);
    expect(await database.getClientByApiKey("key-1")).toBeUndefined();
    expect(await database.getClientByApiKey("key-2")).toMatchObject({ client_id: 2 });
  },
);

test("on a cluster without a hash tag what ends between the two revokes, and the same call goes on", async () => {
  const port = (await startCluster())[0]?.port ?? 0;
  const settings = { port, retry_attempts: 1, retry_delay: 0.01 };
  await using database = await DatabaseFactory.create(redis, settings);
  await database.addItem(first);
  await put(port, "client:api_key_record:key-1", "the record by which a hub admits the client");
  await put(port, "client:client:2", "__hivemind_creating__");
  await expect(database.replaceItem(first, second)).rejects.toMatchObject({ kind: "inUse" });
  expect(await database.getClientById(1)).toMatchObject({ api_key: revokedApiKey });
  const admission = ["-c", "-p", String(port), "EXISTS", "client:api_key_record:key-1"];
  expect(execFileSync("redis-cli", admission, { encoding: "utf8" }).trim()).toBe("0");
  await put(port, "client:client:2", undefined);
  await database.replaceItem(first, second);
  expect(await database.getClientByApiKey("key-2")).toMatchObject({ client_id: 2 });
});

/** Sets or removes a key, wherever it belongs. */
async function put(port: number, key: string, value: string | undefined): Promise<void> {
  const command = value === undefined ? ["DEL", key] : ["SET", key, value];
  const child = spawn("redis-cli", ["-c", "-p", String(port), ...command]);
  const [code] = await once(child, "close");
  expect(code).toBe(0);
}
