import fc from "fast-check";
import { expect, test } from "vitest";
import { type Client, defaultAllowedTypes, newClient, revoked } from "../../src/client/client.js";
import {
  addToBlacklist,
  allowMessage,
  denyMessage,
  differences,
  effectiveTypes,
  removeFromBlacklist,
  requireActive,
  setAdmin,
  setBroadcast,
  setEscalate,
  type Verb,
  widenings,
} from "../../src/client/permissions.js";

const client = (fields: Partial<Client> = {}) =>
  newClient({ client_id: 3, api_key: "k", ...fields });
const apply = (verb: Verb, to: Client, schema: number): Client => ({
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
  expect(newer.notices.join()).toContain("may send nothing");
  const released = denyMessage("speak")(one, 0);
  expect(released.changes).toEqual({ allowed_types: [utterance] });
  expect(released.notices.join()).toContain("default one");
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
  expect(differences(before, added)).toEqual({
    skill_blacklist: { before: ["one"], after: ["one", "two"] },
  });
  const odd = client({ metadata: { intent_blacklist: "all" } });
  expect(() => addToBlacklist("intent_blacklist", "x")(odd, 2)).toThrow(/something else/);
});

test("what lets a client do more is told from what does not, as the hub of the schema reads it", () => {
  const before = client({
    can_escalate: false,
    allowed_types: ["speak"],
    metadata: { skill_blacklist: ["a", "b"], intent_blacklist: ["i"] },
  });
  const wider = (after: Partial<Client>, schema = 2) =>
    widenings(before, { ...before, ...after }, schema);
  expect(wider({ name: "x", allowed_types: [], can_propagate: false })).toEqual([]);
  expect(wider({ allowed_types: [] }, 0)).toEqual(["allowed_types"]);
  expect(wider({ allowed_types: ["speak", utterance] }, 0)).toEqual([]);
  expect(wider({ allowed_types: ["speak", utterance] }, 2)).toEqual(["allowed_types"]);
  expect(wider({ is_admin: true, can_escalate: true })).toEqual(["is_admin", "can_escalate"]);
  expect(wider({ metadata: { skill_blacklist: ["b"], intent_blacklist: ["i", "j"] } })).toEqual([
    "skill_blacklist",
  ]);
  expect(wider({ metadata: {} })).toEqual(["intent_blacklist", "skill_blacklist"]);
});

test("names with white space, empty names and revoked clients are refused", () => {
  expect(() => allowMessage("")).toThrow(/empty/);
  expect(() => denyMessage("spe ak")).toThrow(/white space/);
  expect(() => addToBlacklist("skill_blacklist", "a\nb")).toThrow(/white space/);
  expect(() => requireActive(revoked(3))).toThrow(/revoked/);
});

test("what a hub does not look at, or looks at later, is said", () => {
  expect(setBroadcast(true)(client({ can_broadcast: false }), 2).notices.join()).toContain(
    "no administrator",
  );
  expect(setBroadcast(false)(client({ is_admin: true }), 0).notices.join()).toContain(
    "does not look",
  );
  expect(setBroadcast(false)(client({ is_admin: true }), 2).notices).toEqual([]);
  expect(setAdmin(true)(client(), 0).notices.join()).toContain("connects again");
  expect(setEscalate(false)(client(), 2)).toEqual({
    changes: { can_escalate: false },
    notices: [],
  });
  expect(setEscalate(true)(client(), 2).changes).toEqual({});
});
