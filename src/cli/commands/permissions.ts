import type { Command } from "commander";
import {
  addToBlacklist,
  allowMessage,
  denyMessage,
  removeFromBlacklist,
  setBroadcast,
  setPermission,
  type Verb,
} from "../../client/permissions.js";
import { addGlobalOptions } from "../context.js";
import { editClient, editHelp } from "../edit-client.js";

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

export function addCommand(program: Command): void {
  for (const [name, description, verb] of switches) {
    const command = addGlobalOptions(
      program
        .command(`${name} [id]`)
        .description(description)
        .addHelpText("after", editHelp(`${name} 3`)),
    );
    command.action(async (id: string | undefined) => editClient(command, id, verb));
  }

  for (const { name, argument, description, example, verb } of named) {
    const command = addGlobalOptions(
      program
        .command(`${name} <${argument}> [id]`)
        .description(description)
        .addHelpText("after", editHelp(`${name} ${example}`)),
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
