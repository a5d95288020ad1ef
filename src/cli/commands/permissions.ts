/** The hub's commands for the permissions of a client. */
import type { Command } from "commander";
import {
  addToBlacklist,
  allowMessage,
  type ClientEdit,
  denyMessage,
  removeFromBlacklist,
  setBroadcast,
  setPermission,
} from "../../client/permissions.js";
import { addGlobalOptions } from "../context.js";
import { editClient } from "../edit-client.js";
import { addHelp } from "../help.js";
import { optionalIdNote } from "../ui/choose-client.js";

/** Commands without a value: `make-admin [ID]`. */
const switches: readonly [name: string, description: string, verb: ClientEdit][] = [
  ["make-admin", "Make a client an administrator", setPermission("is_admin", true)],
  ["revoke-admin", "Make an administrator an ordinary client", setPermission("is_admin", false)],
  ["allow-escalate", "Allow a client to send ESCALATE", setPermission("can_escalate", true)],
  ["blacklist-escalate", "Forbid a client to send ESCALATE", setPermission("can_escalate", false)],
  ["allow-propagate", "Allow a client to send PROPAGATE", setPermission("can_propagate", true)],
  [
    "blacklist-propagate",
    "Forbid a client to send PROPAGATE",
    setPermission("can_propagate", false),
  ],
  ["allow-broadcast", "Allow an administrator to send BROADCAST", setBroadcast(true)],
  ["blacklist-broadcast", "Forbid an administrator to send BROADCAST", setBroadcast(false)],
];

interface ValuedCommand {
  readonly name: string;
  readonly argument: string;
  readonly description: string;
  readonly example: string;
  readonly verb: (value: string) => ClientEdit;
}

/** Commands with a value: `allow-msg TYPE [ID]`. */
const valued: readonly ValuedCommand[] = [
  {
    name: "allow-msg",
    argument: "type",
    description: "Allow a client to send messages of this type",
    example: "speak 3",
    verb: allowMessage,
  },
  {
    name: "blacklist-msg",
    argument: "type",
    description: "Forbid a client to send messages of this type",
    example: "speak:b64_audio 3",
    verb: denyMessage,
  },
  {
    name: "allow-skill",
    argument: "skill",
    description: "Remove a skill from a client's blacklist",
    example: "skill-weather.openvoiceos 3",
    verb: (skill) => removeFromBlacklist("skill_blacklist", skill),
  },
  {
    name: "blacklist-skill",
    argument: "skill",
    description: "Add a skill to a client's blacklist",
    example: "skill-weather.openvoiceos 3",
    verb: (skill) => addToBlacklist("skill_blacklist", skill),
  },
  {
    name: "allow-intent",
    argument: "intent",
    description: "Remove an intent from a client's blacklist",
    example: "skill-weather.openvoiceos:forecast 3",
    verb: (intent) => removeFromBlacklist("intent_blacklist", intent),
  },
  {
    name: "blacklist-intent",
    argument: "intent",
    description: "Add an intent to a client's blacklist",
    example: "skill-weather.openvoiceos:forecast 3",
    verb: (intent) => addToBlacklist("intent_blacklist", intent),
  },
];

export function addCommand(program: Command): void {
  for (const [name, description, verb] of switches) {
    const command = addEditing(program, `${name} [id]`, description, `${name} 3`);
    command.action(async (id: string | undefined) => editClient(command, id, verb));
  }
  for (const { name, argument, description, example, verb } of valued) {
    const usage = `${name} <${argument}> [id]`;
    const command = addEditing(program, usage, description, `${name} ${example}`);
    command.action(async (value: string, id: string | undefined) =>
      editClient(command, id, verb(value)),
    );
  }
}

function addEditing(program: Command, usage: string, description: string, example: string) {
  return addHelp(addGlobalOptions(program.command(usage).description(description)), {
    details: [optionalIdNote],
    examples: [`hivemind-sqlcipher ${example}`],
  });
}

/** Returns the change that each command makes to a client, by the command's name. */
export function permissionVerbs(value: string): Map<string, ClientEdit> {
  return new Map([
    ...switches.map(([name, , verb]): [string, ClientEdit] => [name, verb]),
    ...valued.map(({ name, verb }): [string, ClientEdit] => [name, verb(value)]),
  ]);
}
