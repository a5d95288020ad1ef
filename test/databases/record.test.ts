import { expect, test } from "vitest";
import { deserializeClient } from "../../src/client/client.js";
import { addToBlacklist } from "../../src/client/permissions.js";
import { changeRecord } from "../../src/databases/record.js";

test("a blacklist in a field with other entries than metadata changes only by what changed", () => {
  const record = {
    client_id: 1,
    api_key: "k",
    skill_blacklist: ["b"],
    intent_blacklist: [],
    metadata: { skill_blacklist: ["a"] },
  };
  const edited = (key: "skill_blacklist" | "intent_blacklist", name: string) => {
    const client = deserializeClient(record);
    return changeRecord(
      record,
      { ...client, ...addToBlacklist(key, name)(client, 0).changes },
      "HiveMind 4",
    );
  };
  expect(edited("intent_blacklist", "i")).toMatchObject({
    skill_blacklist: ["b"],
    intent_blacklist: ["i"],
    metadata: { skill_blacklist: ["a"] },
  });
  const both = edited("skill_blacklist", "c");
  expect(both).toMatchObject({
    skill_blacklist: ["b", "a", "c"],
    intent_blacklist: [],
    metadata: { skill_blacklist: ["a", "c"] },
  });
  expect(deserializeClient(both).metadata).toEqual({ skill_blacklist: ["a", "c"] });
});
