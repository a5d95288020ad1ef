/** The hub's verbs that change one client: its name, and what it may do. */
import type { Command } from "commander";
import { withoutSecrets } from "../../client/client.js";
import type { JsonValue } from "../../client/json.js";
import {
  addToBlacklist,
  allowMessage,
  assertActive,
  type Difference,
  denyMessage,
  differences,
  removeFromBlacklist,
  rename,
  setBroadcast,
  setPermission,
  type Verb,
} from "../../client/permissions.js";
import { escapeControlCharacters } from "../../text/escape.js";
import { addGlobalOptions, contextOf } from "../context.js";
import { openStore } from "../open.js";
import { chooseClient, idNote, noClient, parseOptionalId } from "../ui/choose-client.js";

/** Verbs about one thing that the client may or may not do: `make-admin [ID]`. */
const switches: readonly [name: string, description: string, verb: Verb][] = [
  ["make-admin", "make a client an administrator", setPermission("is_admin", true)],
  ["revoke-admin", "make an administrator an ordinary client", setPermission("is_admin", false)],
  ["allow-escalate", "let a client send ESCALATE messages", setPermission("can_escalate", true)],
  [
    "blacklist-escalate",
    "keep a client from sending ESCALATE messages",
    setPermission("can_escalate", false),
  ],
  ["allow-propagate", "let a client send PROPAGATE messages", setPermission("can_propagate", true)],
  [
    "blacklist-propagate",
    "keep a client from sending PROPAGATE messages",
    setPermission("can_propagate", false),
  ],
  ["allow-broadcast", "let an administrator send BROADCAST messages", setBroadcast(true)],
  [
    "blacklist-broadcast",
    "keep an administrator from sending BROADCAST messages",
    setBroadcast(false),
  ],
];

interface NamedVerb {
  readonly name: string;
  readonly argument: string;
  readonly description: string;
  readonly example: string;
  readonly verb: (value: string) => Verb;
}

/** Verbs that name what they allow or deny: `allow-msg TYPE [ID]`. */
const named: readonly NamedVerb[] = [
  {
    name: "allow-msg",
    argument: "type",
    description: "let a client send messages of a type",
    example: "speak 3",
    verb: allowMessage,
  },
  {
    name: "blacklist-msg",
    argument: "type",
    description: "take a message type from what a client may send",
    example: "speak:b64_audio 3",
    verb: denyMessage,
  },
  {
    name: "allow-skill",
    argument: "skill",
    description: "take a skill from a client's blacklist",
    example: "skill-weather.openvoiceos 3",
    verb: (skill) => removeFromBlacklist("skill_blacklist", skill),
  },
  {
    name: "blacklist-skill",
    argument: "skill",
    description: "keep a client from triggering a skill",
    example: "skill-weather.openvoiceos 3",
    verb: (skill) => addToBlacklist("skill_blacklist", skill),
  },
  {
    name: "allow-intent",
    argument: "intent",
    description: "take an intent from a client's blacklist",
    example: "skill-weather.openvoiceos:forecast 3",
    verb: (intent) => removeFromBlacklist("intent_blacklist", intent),
  },
  {
    name: "blacklist-intent",
    argument: "intent",
    description: "keep a client from triggering an intent",
    example: "skill-weather.openvoiceos:forecast 3",
    verb: (intent) => addToBlacklist("intent_blacklist", intent),
  },
];

export function addPermissionCommands(program: Command): void {
  const renaming = addGlobalOptions(
    program
      .command("rename-client [id]")
      .description("give a client another name")
      .requiredOption("--name <name>", "the new name")
      .addHelpText("after", help("rename-client 3 --name kitchen")),
    ["name"],
  );
  renaming.action(async (id: string | undefined, options: { name: string }) =>
    editClient(renaming, id, rename(options.name)),
  );

  for (const [name, description, verb] of switches) {
    const command = addGlobalOptions(
      program
        .command(`${name} [id]`)
        .description(description)
        .addHelpText("after", help(`${name} 3`)),
    );
    command.action(async (id: string | undefined) => editClient(command, id, verb));
  }

  for (const { name, argument, description, example, verb } of named) {
    const command = addGlobalOptions(
      program
        .command(`${name} <${argument}> [id]`)
        .description(description)
        .addHelpText("after", help(`${name} ${example}`)),
    );
    command.action(async (value: string, id: string | undefined) =>
      editClient(command, id, verb(value)),
    );
  }
}

/** The verbs about what a client may do, by command; those that name a message type, skill or intent name `value`. */
export function permissionVerbs(value: string): Map<string, Verb> {
  return new Map([
    ...switches.map(([name, , verb]): [string, Verb] => [name, verb]),
    ...named.map(({ name, verb }): [string, Verb] => [name, verb(value)]),
  ]);
}

function help(example: string): string {
  return `${idNote}\n\nExample:\n  hivemind-sqlcipher ${example}`;
}

async function editClient(command: Command, idText: string | undefined, verb: Verb) {
  const context = await contextOf(command);
  const given = parseOptionalId(idText);
  await using store = await openStore(context);
  const id = await chooseClient(context, store, given);
  const { before, after, notices } = await store.transaction(async () => {
    const before = await store.getClientById(id);
    if (!before) throw noClient(context, id);
    assertActive(before);
    const { changes, notices } = verb(before, store.schemaVersion);
    const changed = Object.keys(changes).length > 0;
    return { before, after: changed ? await store.updateClient(id, changes) : before, notices };
  });
  const changed = differences(before, after);
  context.output.result({ client: withoutSecrets(after), changed }, () => {
    const who = `client ${id}${after.name ? ` "${escapeControlCharacters(after.name)}"` : ""}`;
    const fields = Object.entries(changed);
    if (fields.length === 0) return [`${who}: nothing changed, it was so already`];
    return [`${who}:`, ...fields.flatMap(([key, difference]) => lines(key, difference))];
  });
  for (const notice of notices) context.output.notice(notice);
}

function lines(key: string, { before, after }: Difference): string[] {
  return [`  ${key}`, `    before  ${words(before)}`, `    after   ${words(after)}`];
}

function words(value: JsonValue): string {
  if (typeof value === "boolean") return value ? "yes" : "no";
  if (Array.isArray(value))
    return value.length === 0 ? "(none)" : escapeControlCharacters(value.join(", "));
  return value === null ? "(none)" : escapeControlCharacters(String(value));
}
