import fc from "fast-check";
import { expect, test } from "vitest";
import { type Client, defaultAllowedTypes, newClient, revoked } from "../../src/client/client.js";
import type { JsonValue } from "../../src/client/json.js";
import {
  addToBlacklist,
  allowMessage,
  assertActive,
  type ClientEdit,
  denyMessage,
  effectiveTypes,
  findDifferences,
  findWidenings,
  removeFromBlacklist,
  setBroadcast,
  setPermission,
} from "../../src/client/permissions.js";

const client = (fields: Partial<Client> = {}) =>
  newClient({ client_id: 3, api_key: "k", ...fields });
const apply = (verb: ClientEdit, to: Client, schema: number): Client => ({
  ...to,
  ...verb(to, schema).changes,
});
const utterance = "recognizer_loop:utterance";

const type = fc.constantFrom("a", "b", "speak", utterance, ...defaultAllowedTypes);
const list = fc.array(type, { maxLength: 5 });

test("allowing a type adds it to what a hub of the schema allows, and nothing else", () => {
  fc.assert(
    fc.property(list, type, fc.constantFrom(0, 1, 2), (allowed_types, wanted, schema) => {
      const before = client({ allowed_types });
      const after = apply(allowMessage(wanted), before, schema);
      const expected = new Set([...effectiveTypes(before, schema), wanted]);
      expect(new Set(effectiveTypes(after, schema))).toEqual(expected);
    }),
  );
});

test("denying a type takes it, every copy of it, from what a hub of the schema allows, and nothing else", () => {
  fc.assert(
    fc.property(list, type, fc.constantFrom(0, 1, 2), (allowed_types, unwanted, schema) => {
      fc.pre(schema === 2 || unwanted !== utterance);
      const before = client({ allowed_types });
      const after = apply(denyMessage(unwanted), before, schema);
      const expected = new Set(effectiveTypes(before, schema));
      expected.delete(unwanted);
      expect(new Set(effectiveTypes(after, schema))).toEqual(expected);
    }),
  );
});

test("the last allowed type gone means nothing to a newer hub; a released one would read the default list, so one type stays written", () => {
  const one = client({ allowed_types: ["speak"] });
  const newer = denyMessage("speak")(one, 2);
  expect(newer.changes).toEqual({ allowed_types: [] });
  expect(newer.notices.join()).toContain("can send nothing");
  const released = denyMessage("speak")(one, 0);
  expect(released.changes).toEqual({ allowed_types: [utterance] });
  expect(released.notices.join()).toContain("default list");
});

test("what a released hub allows in any case is refused to be denied there", () => {
  expect(() => denyMessage(utterance)(client(), 1)).toThrow(/allows every client/);
  expect(denyMessage(utterance)(client(), 2).changes.allowed_types).not.toContain(utterance);
});

test("a blacklist grows and shrinks in metadata, beside what else is there", () => {
  const before = client({ metadata: { site: "attic", skill_blacklist: ["one"] } });
  const added = apply(addToBlacklist("skill_blacklist", "two"), before, 2);
  expect(added.metadata).toEqual({ site: "attic", skill_blacklist: ["one", "two"] });
  expect(addToBlacklist("skill_blacklist", "two")(added, 2).changes).toEqual({});
  expect(apply(removeFromBlacklist("skill_blacklist", "two"), added, 2)).toEqual(before);
  expect(findDifferences(before, added)).toEqual({
    skill_blacklist: { before: ["one"], after: ["one", "two"] },
  });
  const odd = client({ metadata: { intent_blacklist: "all" } });
  expect(() => addToBlacklist("intent_blacklist", "x")(odd, 2)).toThrow(/is not a list/);
});

test("what lets a client do more is told from what does not, and what it gains is said", () => {
  const before = client({
    can_escalate: false,
    allowed_types: ["speak", utterance],
    metadata: { skill_blacklist: ["a", "b", 1], intent_blacklist: ["i"] },
  });
  const wider = (after: Partial<Client>) => findWidenings(before, { ...before, ...after });
  expect(wider({ name: "x", allowed_types: [utterance], can_propagate: false })).toEqual([]);
  expect(wider({ allowed_types: ["speak", "listen"] })).toEqual([
    { field: "allowed_types", added: ["listen"] },
  ]);
  expect(wider({ is_admin: true, can_escalate: true })).toEqual([
    { field: "is_admin" },
    { field: "can_escalate" },
  ]);
  expect(wider({ metadata: { skill_blacklist: [1, "b"], intent_blacklist: ["i", "j"] } })).toEqual([
    { field: "skill_blacklist", removed: ["a"] },
  ]);
  expect(wider({ metadata: {} })).toEqual([
    { field: "intent_blacklist", removed: ["i"] },
    { field: "skill_blacklist", removed: ["a", "b", 1] },
  ]);
});

test("a list of message types widens what either line of hubs would let through, whichever opens the store", () => {
  const added = (before: string[], after: string[]) => {
    const found = findWidenings(
      client({ allowed_types: before }),
      client({ allowed_types: after }),
    );
    return found.flatMap((widening) => ("added" in widening ? widening.added : []));
  };
  const rest = defaultAllowedTypes.filter((name) => name !== utterance);
  // To a released hub an empty list is the default one, which is no more than these.
  expect(added([...defaultAllowedTypes], [])).toEqual([]);
  expect(added([...defaultAllowedTypes, "speak"], [])).toEqual([]);
  expect(added([...rest], [])).toEqual([]);
  expect(added(["speak"], [])).toEqual(rest);
  // A newer hub lets nothing through for an empty list, and no type that is not written.
  expect(added([], [...defaultAllowedTypes])).toEqual(defaultAllowedTypes);
  expect(added(["speak"], ["speak", utterance])).toEqual([utterance]);
  expect(added(["speak", utterance], ["speak"])).toEqual([]);
});

test("nothing that a hub of either line lets through after a change goes unsaid", () => {
  fc.assert(
    fc.property(list, list, fc.constantFrom(0, 1, 2), (left, right, schema) => {
      const before = client({ allowed_types: left });
      const after = client({ allowed_types: right });
      const allowed = effectiveTypes(before, schema);
      const more = effectiveTypes(after, schema).filter((name) => !allowed.includes(name));
      const found = findWidenings(before, after).flatMap((one) =>
        "added" in one ? one.added : [],
      );
      expect(found).toEqual(expect.arrayContaining(more));
    }),
  );
});

test("a blacklist that is no list, before or after, counts as widened, unless it stays as it is", () => {
  const from = (before: JsonValue, after: JsonValue) =>
    findWidenings(
      client({ metadata: { skill_blacklist: before } }),
      client({ metadata: { skill_blacklist: after } }),
    );
  const unknown = [{ field: "skill_blacklist", removed: undefined }];
  expect(from(["a"], "a")).toEqual(unknown);
  expect(from({ a: 1 }, ["a"])).toEqual(unknown);
  expect(from([], "a")).toEqual(unknown);
  expect(from({ a: 1 }, { a: 1 })).toEqual([]);
  expect(from(null, ["a"])).toEqual([]);
  expect(from([], null)).toEqual([]);
});

test("names with white space, empty names and revoked clients are refused", () => {
  expect(() => allowMessage("")).toThrow(/empty/);
  expect(() => denyMessage("spe ak")).toThrow(/white space/);
  expect(() => addToBlacklist("skill_blacklist", "a\nb")).toThrow(/white space/);
  expect(() => assertActive(revoked(3))).toThrow(/revoked/);
});

test("what a hub does not look at, or looks at later, is said", () => {
  expect(setBroadcast(true)(client({ can_broadcast: false }), 2).notices.join()).toContain(
    "not an administrator",
  );
  expect(setBroadcast(false)(client({ is_admin: true }), 0).notices.join()).toContain(
    "ignores this",
  );
  expect(setBroadcast(false)(client({ is_admin: true }), 2).notices).toEqual([]);
  expect(setPermission("is_admin", true)(client(), 0).notices.join()).toContain("connects again");
  expect(setPermission("can_escalate", false)(client(), 2)).toEqual({
    changes: { can_escalate: false },
    notices: [],
  });
  expect(setPermission("can_escalate", true)(client(), 2).changes).toEqual({});
});
