/** What hubs write: their settings, and the stores of their other backends. */
import assert from "node:assert/strict";
import { createCipheriv } from "node:crypto";
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { deflateSync } from "node:zlib";
import { createClient } from "@redis/client";
import fc from "fast-check";
import { afterAll, beforeAll } from "vitest";
import { type Client, isRevoked, newClient } from "../../src/client/client.js";
import type { Database } from "../../src/client/database.js";
import {
  formatJson,
  isJsonObject,
  type JsonObject,
  type JsonValue,
  sameJson,
} from "../../src/client/json.js";
import { jsonPlugin } from "../../src/databases/json.js";
import { redisPlugin } from "../../src/databases/redis.js";
import { namedStore, passwordIn, readServerJson, sqliteModule } from "../../src/hub/server-json.js";
import { removePassword, setPassword, switchModule } from "../../src/hub/server-json-edit.js";
import { renderKeyringUnit, renderUnit } from "../../src/hub/units.js";
import { quoteCommand } from "../../src/service/unit-file.js";
import { RedisServer } from "../databases/redis-server.js";
import { answerOf, campaign, secretMark } from "./campaign.js";
import {
  bytesOf,
  json,
  jsonOf,
  objectOf,
  recordFields,
  secret,
  wildJson,
  wildText,
} from "./inputs.js";

const folder = mkdtempSync(join(tmpdir(), "hivemind-fuzz-"));
afterAll(() => rmSync(folder, { recursive: true }));

/** JSON text with lines of comments put between its own. */
function commented(text: fc.Arbitrary<string>): fc.Arbitrary<string> {
  const comment = fc.oneof(
    { arbitrary: fc.constant(""), weight: 4 },
    {
      arbitrary: fc.constantFrom("// é\n", '  # {"a": 1},\n', "//\r\n", "\t#\u2028", "/* no */"),
      weight: 1,
    },
    { arbitrary: wildText.map((words) => `# ${words.replace(/[^ -~]/g, "")}\n`), weight: 1 },
  );
  return fc.tuple(text, fc.infiniteStream(comment)).map(([whole, comments]) => {
    const lines = whole.split(/(?<=\n)/);
    return lines.map((line) => (comments.next().value ?? "") + line).join("");
  });
}

const serverJson = bytesOf(
  commented(
    objectOf(
      {
        binarize: fc.constantFrom("true", "NaN"),
        agent_protocol: wildJson,
        database: objectOf(
          {
            module: jsonOf(fc.constantFrom(sqliteModule, "hivemind-json-db-plugin", "x")),
            [sqliteModule]: objectOf({
              name: json("clients"),
              subfolder: fc.oneof(json("hivemind-core"), jsonOf(wildText)),
              password: fc.oneof(jsonOf(secret), json("")),
            }),
            "hivemind-json-db-plugin": objectOf({ name: json("clients") }),
          },
          40,
        ),
        allowed_encodings: json(["JSON-B64"]),
      },
      40,
    ).map((text) => text.replace(/([,{])/g, "$1\n  ")),
  ),
);

const changes: Record<string, (path: string) => Promise<unknown>> = {
  set: (path) => setPassword(path, `${secretMark}new "é"`),
  remove: removePassword,
  switch: (path) => switchModule(path, "hivemind-redis-db-plugin", { host: "h", port: 6379 }),
  back: (path) => switchModule(path, sqliteModule, { name: "clients" }),
};

campaign(
  "server.json is read as the hub reads it or refused, and an edit changes its own place alone",
  {
    what: "server.json",
    share: 90,
    inputs: fc.tuple(serverJson, fc.constantFrom(...Object.keys(changes))),
    async holds([bytes, change]) {
      const path = join(folder, "server.json");
      writeFileSync(path, bytes);
      const before = await answerOf(() => readServerJson(path));
      if (before !== undefined) {
        await answerOf(() => namedStore(before, { HOME: folder }));
        await answerOf(() => passwordIn(before));
      }
      const changed = await answerOf(async () => {
        await changes[change]?.(path);
        return true;
      });
      if (changed === undefined) {
        assert(bytes.equals(readFileSync(path)));
        return;
      }
      assert(before !== undefined);
      const after = await readServerJson(path);
      assert(sameJson(outside(before.settings, change), outside(after.settings, change)));
      if (change === "remove") {
        assert.equal(passwordIn(after), undefined);
        const lines = before.text
          .slice(0, before.text.indexOf("password"))
          .split(/[\n\v\f\r\u2028\u2029]/)
          .filter((line) => /^\s*(#|\/\/)/.test(line) && !line.includes(secretMark));
        for (const line of lines) assert(after.text.includes(line.trim()), line);
      }
      if (change === "set") assert.equal(passwordIn(after), `${secretMark}new "é"`);
      if (change === "switch")
        assert.equal((await namedStore(after, {})).module, "hivemind-redis-db-plugin");
    },
  },
);

/** The settings without what the edit is about. */
function outside(settings: JsonObject, change: string): JsonValue {
  const { database = {}, ...rest } = settings;
  if (!isJsonObject(database)) return settings;
  const {
    module,
    [sqliteModule]: sqlite = {},
    "hivemind-redis-db-plugin": redis,
    ...others
  } = database;
  if (change === "switch") return { ...rest, others, sqlite };
  if (change === "back") return { ...rest, others, redis: redis ?? null };
  const { password: _, ...kept } = isJsonObject(sqlite) ? sqlite : {};
  return { ...rest, others, redis: redis ?? null, module: module ?? null, kept };
}

async function clientsOf(database: Database): Promise<Client[]> {
  const clients: Client[] = [];
  for await (const client of database) clients.push(client);
  return clients;
}

const record = objectOf(recordFields(fc.integer({ min: 1, max: 9 })), 30);

const jsonStore = bytesOf(
  commented(
    fc.oneof(
      {
        arbitrary: fc
          .uniqueArray(
            fc.tuple(
              fc.integer({ min: 1, max: 9 }),
              fc.oneof({ arbitrary: record, weight: 9 }, wildJson),
            ),
            {
              maxLength: 5,
              selector: ([id]) => id,
            },
          )
          .map(
            (records) =>
              `{${records.map(([id, text]) => `\n"${id}": ${text.replace(/"client_id": -?\d+/, `"client_id": ${id}`)}`).join(",")}\n}`,
          ),
        weight: 9,
      },
      { arbitrary: wildJson, weight: 1 },
    ),
  ),
);

const dataHome = process.env.XDG_DATA_HOME;
beforeAll(() => {
  process.env.XDG_DATA_HOME = folder;
  mkdirSync(join(folder, "hivemind-core"));
});
afterAll(() => {
  process.env.XDG_DATA_HOME = dataHome;
});

campaign(
  "a JSON store is read whole or refused, and a change leaves the other records as they are",
  {
    what: "JSON store",
    share: 80,
    inputs: fc.tuple(jsonStore, wildText, fc.constantFrom(undefined, "1", "2", "3", "1.0", "x")),
    async holds([bytes, name, version]) {
      const path = join(folder, "hivemind-core", "clients.json");
      const versionPath = join(folder, "hivemind-core", "clients.schema_version");
      writeFileSync(path, bytes);
      if (version === undefined) rmSync(versionPath, { force: true });
      else writeFileSync(versionPath, version);
      const database = await answerOf(() => jsonPlugin.open({}, { mode: "readwrite" }));
      if (database === undefined) return;
      const clients = await clientsOf(database);
      assert.equal(await database.size(), clients.length);
      assert(bytes.equals(readFileSync(path)));
      const [first, second] = clients;
      if (first === undefined) return;
      const updated = await answerOf(() =>
        database.updateItem({ ...first, name }).then(() => true),
      );
      if (updated === undefined) assert(bytes.equals(readFileSync(path)));
      if (second !== undefined) await database.deleteItem(second.client_id);
      await database.migrate(1);
      const again = await jsonPlugin.open({}, { mode: "readonly" });
      const after = await clientsOf(again);
      assert.equal(after.length, clients.length);
      for (const client of clients) {
        const { client_id } = client;
        const now = after.find((other) => other.client_id === client_id);
        assert(now !== undefined);
        if (client_id === second?.client_id) assert(isRevoked(now));
        else if (client_id === first.client_id && updated)
          assert.equal(now.name, name.isWellFormed() ? name : now.name);
        assert.equal(now.is_admin, client_id === second?.client_id ? false : client.is_admin);
        if (client_id !== second?.client_id)
          assert.deepEqual(now.allowed_types, client.allowed_types);
      }
    },
  },
);

const ejsonPassword = "hunter2-hunter2-";

function envelope(compressed: Uint8Array): JsonObject {
  const nonce = Buffer.alloc(16, 5);
  const cipher = createCipheriv("aes-128-gcm", ejsonPassword, nonce, { authTagLength: 16 });
  const ciphertext = Buffer.concat([cipher.update(compressed), cipher.final()]).toString("hex");
  return { ciphertext, tag: cipher.getAuthTag().toString("hex"), nonce: nonce.toString("hex") };
}

campaign("an encrypted JSON store is read whole or refused, whatever was encrypted", {
  what: "encrypted JSON store",
  share: 30,
  inputs: fc.oneof(
    bytesOf(jsonStore.map((text) => formatJson(envelope(deflateSync(text))))),
    bytesOf(jsonStore.map((text) => deflateSync(text))).map((bytes) =>
      Buffer.from(formatJson(envelope(bytes))),
    ),
    bytesOf(
      jsonStore.chain((text) => {
        const { ciphertext, tag, nonce } = envelope(deflateSync(text));
        return objectOf({ ciphertext: json(ciphertext), tag: json(tag), nonce: json(nonce) }, 5);
      }),
    ),
  ),
  async holds(bytes) {
    const path = join(folder, "hivemind-core", "clients.ejson");
    rmSync(join(folder, "hivemind-core", "clients.schema_version"), { force: true });
    writeFileSync(path, bytes);
    const config = { password: ejsonPassword };
    const database = await answerOf(() => jsonPlugin.open(config, { mode: "readwrite" }));
    assert(bytes.equals(readFileSync(path)));
    if (database === undefined) return;
    const clients = await clientsOf(database);
    await database.addItem(newClient({ client_id: 77, api_key: "new" }));
    const again = await jsonPlugin.open(config, { mode: "readonly" });
    assert.equal(await again.size(), clients.length + 1);
  },
});

campaign("a backend's settings are taken or refused", {
  what: "settings of backends",
  share: 20,
  inputs: fc.tuple(
    wildJson,
    objectOf({ name: json("clients"), subfolder: json("x"), password: jsonOf(secret) }, 6),
  ),
  async holds([value, text]) {
    for (const candidate of [
      value,
      text,
      `{"index_prefix": ${value}, "port": ${value}, "cluster_nodes": [${value}]}`,
    ]) {
      let config: unknown;
      try {
        config = JSON.parse(candidate);
      } catch {
        continue;
      }
      if (typeof config !== "object" || config === null || Array.isArray(config)) continue;
      for (const plugin of [jsonPlugin, redisPlugin]) {
        await answerOf(() => plugin.place?.(config as JsonObject));
      }
    }
  },
});

/** The words of a command line as systemd.service(5) has them. */
function wordsOf(line: string): string[] {
  const words: string[] = [];
  for (const [, quoted, bare] of line.matchAll(/"((?:\\.|[^"\\])*)"|([^\s"]+)/g)) {
    const text = bare ?? (quoted ?? "").replace(/\\(.)/g, "$1");
    words.push(text.replaceAll("%%", "%").replaceAll("$$", "$"));
  }
  return words;
}

campaign("a unit holds the words it was given and no line more", {
  what: "unit files",
  share: 20,
  inputs: fc.tuple(fc.array(wildText, { minLength: 1, maxLength: 4 }), wildText, wildText),
  async holds([hub, user, path]) {
    const run = ["/usr/bin/node", "main.js", "run", "--db", path];
    const line = await answerOf(() => quoteCommand(...hub));
    if (line !== undefined) assert.deepEqual(wordsOf(line), hub);
    const units = [
      () => renderUnit({ kind: "user", run, hub }),
      () => renderUnit({ kind: "system", run, hub, user, serverJson: path, credential: path }),
      () => renderKeyringUnit({ credential: path, owner: { user, uid: 1000 } }),
    ];
    for (const render of units) {
      const text = await answerOf(render);
      if (text === undefined) continue;
      for (const each of text.split("\n")) assert.match(each, /^(#.*|\[\w+\]|[A-Z]\w+=.*)?$/s);
      assert(!/\\$/m.test(text), "a line goes on in the next");
      const keys = [...text.matchAll(/^(\w+)=/gm)].map(([, key]) => key);
      assert(keys.length <= 16);
    }
  },
});

let port: number;
let redis: ReturnType<typeof createClient>;
const putAway: (() => Promise<void>)[] = [];
beforeAll(async () => {
  ({ port } = await RedisServer.start([], (end) => putAway.push(end)));
  redis = createClient({ socket: { host: "127.0.0.1", port } });
  await redis.connect();
});
afterAll(async () => {
  redis.destroy();
  for (const end of putAway) await end();
});

/** Every key with its value, as Redis would write it to a disk. */
async function everything(): Promise<Map<string, unknown>> {
  const keys = (await redis.sendCommand<string[]>(["KEYS", "*"])).sort();
  const values = await Promise.all(keys.map((key) => redis.sendCommand(["DUMP", key])));
  return new Map(keys.map((key, index) => [key, values[index]]));
}

const redisValue = fc.oneof(
  { arbitrary: bytesOf(record).map((bytes) => bytes.toString()), weight: 8 },
  { arbitrary: wildJson, weight: 2 },
  { arbitrary: fc.constantFrom("__hivemind_creating__x", "", "null"), weight: 1 },
);

campaign("Redis records are clients or refused, and what was refused has changed nothing", {
  what: "Redis records and indexes",
  share: 3,
  inputs: fc.tuple(
    fc.uniqueArray(fc.tuple(fc.integer({ min: 1, max: 6 }), redisValue), {
      maxLength: 4,
      selector: ([id]) => id,
    }),
    fc.array(
      fc.tuple(
        fc.constantFrom(
          "name:x",
          "api_key:x",
          "idx:1",
          "count",
          "schema_version",
          "client:7",
          "client:x",
          "api_key_records",
        ),
        fc.constantFrom("string", "set", "hash", "list"),
        fc.oneof(fc.constantFrom("1", "2", "x", "-1", "1.5", "99"), wildText),
      ),
      { maxLength: 3 },
    ),
    wildText,
  ),
  async holds([records, junk, name]) {
    const config = { port, retry_attempts: 0, retry_delay: 0 };
    await redis.sendCommand(["FLUSHALL"]);
    for (const [id, text] of records) {
      const own = text.replace(/"client_id": -?\d+/, `"client_id": ${id}`);
      await redis.sendCommand(["SET", `client:client:${id}`, own]);
    }
    for (const [key, type, value] of junk) {
      const put =
        { string: ["SET"], set: ["SADD"], hash: ["HSET", "f"], list: ["RPUSH"] }[type] ?? [];
      const [verb = "", ...more] = put;
      // A key that another kind of value has already keeps it.
      await redis.sendCommand([verb, `client:${key}`, ...more, value]).catch(() => undefined);
    }
    const before = await everything();
    const database = await answerOf(() => redisPlugin.open(config, { mode: "readwrite" }));
    if (database === undefined) return;
    try {
      await answerOf(() => clientsOf(database));
      const size = await answerOf(() => database.size());
      assert(size === undefined || Number.isInteger(size), `a size of ${size}`);
      await answerOf(() => database.searchByValue("name", "x"));
      await answerOf(() => database.getClientByApiKey("x"));
      assert.deepEqual(await everything(), before);
      const one = await answerOf(() => database.getClientById(1));
      if (one === undefined) return;
      const changed = await answerOf(() => database.updateItem({ ...one, name }).then(() => true));
      if (changed === undefined) assert.deepEqual(await everything(), before);
      else assert.equal((await database.getClientById(1))?.name, name);
    } finally {
      await database.close();
    }
  },
});
