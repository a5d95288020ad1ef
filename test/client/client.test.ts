import { execFileSync } from "node:child_process";
import { inspect } from "node:util";
import { describe, expect, test } from "vitest";
import {
  clientSchema,
  defaultAllowedTypes,
  deserializeClient,
  isRevoked,
  newClient,
  revoked,
  serializeClient,
  withoutSecrets,
} from "../../src/client/client.js";
import { parseJson, sameJson } from "../../src/client/json.js";
import { StoreError } from "../../src/errors.js";
import { root } from "../built.js";

function kindOf(action: () => unknown): string {
  try {
    action();
  } catch (error) {
    if (error instanceof StoreError) return `${error.kind}: ${error.message}`;
    throw error;
  }
  return "none";
}

test("a program that imports the library keeps its own messages of zod", () => {
  const program = `
    import { config, number } from "zod/mini";
    config({ localeError: () => "keine Zahl" });
    await import("./dist/schema.js");
    console.log(number().safeParse("1").error.issues[0].message);`;
  const args = ["--input-type=module", "--eval", program];
  const output = execFileSync(process.execPath, args, { cwd: root, encoding: "utf8" });
  expect(output).toBe("keine Zahl\n");
});

describe("a client's record", () => {
  test("a new client gets HiveMind's defaults, and lists of its own", () => {
    const client = newClient({ client_id: 1, api_key: "k", name: "hall" });
    expect(client).toEqual({
      client_id: 1,
      api_key: "k",
      name: "hall",
      description: "",
      is_admin: false,
      last_seen: -1,
      allowed_types: defaultAllowedTypes,
      crypto_key: null,
      password: null,
      can_broadcast: true,
      can_escalate: true,
      can_propagate: true,
      metadata: {},
    });
    expect(clientSchema.safeParse(client).success).toBe(true);
    client.allowed_types.push("x");
    expect(newClient({ client_id: 2, api_key: "k" }).allowed_types).toEqual(defaultAllowedTypes);
  });

  test("a revoked client keeps its id and nothing else", () => {
    const client = revoked(7);
    expect(isRevoked(client)).toBe(true);
    expect(client).toMatchObject({
      client_id: 7,
      api_key: "revoked",
      password: null,
      is_admin: false,
      allowed_types: [],
      can_broadcast: false,
      can_escalate: false,
      can_propagate: false,
    });
    expect(isRevoked(newClient({ client_id: 7, api_key: "k" }))).toBe(false);
  });

  test("is serialised with sorted keys and its own characters, and read back the same", () => {
    const client = newClient({
      client_id: 2,
      api_key: "k",
      name: 'Zé "sala" 🚀',
      metadata: parseJson('{"z": 1.0, "10": [true], "2": null}') as never,
    });
    const text = serializeClient(client);
    expect(text).toContain('"name": "Zé \\"sala\\" 🚀", "password": null');
    expect(text).toContain('"metadata": {"10": [true], "2": null, "z": 1.0}');
    expect(Object.keys(JSON.parse(text))).toEqual(Object.keys(JSON.parse(text)).sort());
    expect(sameJson({ ...deserializeClient(text) }, { ...client })).toBe(true);
    expect(serializeClient(deserializeClient(text))).toBe(text);
  });

  test("unknown fields go into metadata without replacing what is there", () => {
    const client = deserializeClient(
      '{"client_id": 1, "api_key": "k", "site": "top", "metadata": {"site": "own", "n": 1.0}, "x": [1]}',
    );
    expect(serializeClient(client)).toContain('"metadata": {"n": 1.0, "site": "own", "x": [1]}');
  });

  test("blacklists kept as fields go into metadata if they are not empty and not there", () => {
    const client = deserializeClient(
      '{"client_id": 1, "api_key": "k", "intent_blacklist": ["a"], "skill_blacklist": [], "message_blacklist": ["m"], "metadata": {"message_blacklist": []}}',
    );
    expect(client.metadata).toEqual({ intent_blacklist: ["a"], message_blacklist: [] });
  });

  test("missing permissions are the record's own defaults, null ones are false, and no list is an empty list", () => {
    expect(deserializeClient('{"client_id": 1, "api_key": "k"}')).toEqual(
      newClient({ client_id: 1, api_key: "k", allowed_types: [] }),
    );
    const nulls = deserializeClient(
      '{"client_id": 1, "api_key": "k", "name": null, "is_admin": null, "can_escalate": null, "allowed_types": null, "last_seen": null, "metadata": [1]}',
    );
    expect(nulls).toMatchObject({
      name: null,
      is_admin: false,
      can_escalate: false,
      allowed_types: [],
      last_seen: -1,
      metadata: {},
    });
    expect(deserializeClient('{"client_id": 1, "api_key": "k", "last_seen": 12.0}').last_seen).toBe(
      12,
    );
  });

  test("what is not a client is refused by its field, without its values", () => {
    const record = (fields: string) => kindOf(() => deserializeClient(`{${fields}}`));
    expect(record('"client_id": 1')).toMatch(/^corrupted: .*api_key/);
    expect(record('"client_id": "1", "api_key": "hunter2"')).toMatch(/^corrupted: .*client_id/);
    expect(record('"client_id": 1, "api_key": ["hunter2"]')).toMatch(/^corrupted: (?!.*hunter2)/);
    expect(record('"client_id": 1, "api_key": "k", "allowed_types": ["a", 1]')).toMatch(
      /^corrupted: .*allowed_types/,
    );
    expect(kindOf(() => deserializeClient("[1]"))).toMatch(/^corrupted/);
    expect(kindOf(() => deserializeClient("hunter2"))).toMatch(/^corrupted: (?!.*hunter2)/);
  });

  test("an id that JavaScript would round is refused by its exact name", () => {
    for (const id of ["9007199254740993", "-9007199254740992", "123456789012345678901234567890"]) {
      expect(kindOf(() => deserializeClient(`{"client_id": ${id}, "api_key": "k"}`))).toMatch(
        new RegExp(`^refused: .*${id}`),
      );
    }
    expect(deserializeClient('{"client_id": 9007199254740991, "api_key": "k"}').client_id).toBe(
      2 ** 53 - 1,
    );
  });

  test("without its secrets nothing of them is left, in metadata either", () => {
    const client = newClient({
      client_id: 1,
      api_key: "secret-1",
      password: "secret-2",
      crypto_key: "secret-3",
      metadata: { crypto_key: "secret-4", site: "lisboa" },
    });
    const shown = withoutSecrets(client);
    expect(inspect(shown, { depth: null })).not.toContain("secret");
    expect(shown.metadata).toEqual({ site: "lisboa" });
    expect(client.metadata.crypto_key).toBe("secret-4");
  });
});
