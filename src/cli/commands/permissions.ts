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
import { finishCommand } from "../command.js";
import type { Context } from "../context.js";
import { editClient } from "../edit-client.js";
import { optionalIdNote } from "../ui/choose-client.js";

/** Commands without a value: `make-admin [ID]`. */
export const switches: readonly [name: string, description: string, verb: ClientEdit][] = [
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

type ValuedCommand = readonly [
  usage: string,
  description: string,
  example: string,
  verb: (value: string) => ClientEdit,
];

/** Commands with a value: `allow-msg TYPE [ID]`. */
export const valued: readonly ValuedCommand[] = [
  ["allow-msg <type>", "Allow a client to send messages of this type", "speak", allowMessage],
  [
    "blacklist-msg <type>",
    "Forbid a client to send messages of this type",
    "speak:b64_audio",
    denyMessage,
  ],
  ...listBlacklistCommands("skill", "a skill", "skill-weather.openvoiceos"),
  ...listBlacklistCommands("intent", "an intent", "skill-weather.openvoiceos:forecast"),
];

function listBlacklistCommands(
  kind: "skill" | "intent",
  noun: string,
  example: string,
): ValuedCommand[] {
  const allow = (value: string) => removeFromBlacklist(`${kind}_blacklist`, value);
  const forbid = (value: string) => addToBlacklist(`${kind}_blacklist`, value);
  return [
    [`allow-${kind} <${kind}>`, `Remove ${noun} from a client's blacklist`, example, allow],
    [`blacklist-${kind} <${kind}>`, `Add ${noun} to a client's blacklist`, example, forbid],
  ];
}

export function addCommand(program: Command): void {
  for (const [name, description, verb] of switches) {
    const command = program.command(`${name} [id]`).description(description);
    const run = (context: Context, id?: string) => editClient(context, id, verb);
    finishCommand(command, run, {
      details: [optionalIdNote],
      examples: [`hivemind-sqlcipher ${name} 3`],
    });
  }
  for (const [usage, description, example, verb] of valued) {
    const command = program.command(`${usage} [id]`).description(description);
    const run = (context: Context, value: string, id?: string) =>
      editClient(context, id, verb(value));
    finishCommand(command, run, {
      details: [optionalIdNote],
      examples: [`hivemind-sqlcipher ${command.name()} ${example} 3`],
    });
  }
}
