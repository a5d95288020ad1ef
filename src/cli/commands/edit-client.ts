import type { Command } from "commander";
import { withoutSecrets } from "../../client/client.js";
import type { JsonValue } from "../../client/json.js";
import {
  addToBlacklist,
  allowMessage,
  assertActive,
  type ClientEdit,
  type Difference,
  denyMessage,
  findDifferences,
  removeFromBlacklist,
  rename,
  setBroadcast,
  setPermission,
} from "../../client/permissions.js";
import { describeClient, escapeControlCharacters } from "../../text/escape.js";
import { finishCommand } from "../command.js";
import type { Context } from "../context.js";
import { openStore, warnIfUnused } from "../open.js";
import { chooseClient, getClient, optionalIdNote, parseOptionalId } from "../ui/choose-client.js";

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
  const renaming = program
    .command("rename-client [id]")
    .description("Rename a client")
    .requiredOption("--name <name>", "Set this name");
  finish(
    renaming,
    "3 --name kitchen",
    (context, id: string | undefined, { name }: { name: string }) =>
      editClient(context, id, rename(name)),
  );
  for (const [name, description, verb] of switches) {
    const command = program.command(`${name} [id]`).description(description);
    finish(command, "3", (context, id?: string) => editClient(context, id, verb));
  }
  for (const [usage, description, example, verb] of valued) {
    const command = program.command(`${usage} [id]`).description(description);
    finish(command, `${example} 3`, (context, value: string, id?: string) =>
      editClient(context, id, verb(value)),
    );
  }
}

function finish<Args extends unknown[]>(
  command: Command,
  example: string,
  run: (context: Context, ...args: Args) => Promise<void>,
): void {
  const examples = [`hivemind-sqlcipher ${command.name()} ${example}`];
  finishCommand(command, run, { details: [optionalIdNote], examples });
}

/** Applies `edit` to the client and prints each changed field before and after. */
async function editClient(
  context: Context,
  idText: string | undefined,
  edit: ClientEdit,
): Promise<void> {
  const given = parseOptionalId(idText);
  await using store = await openStore(context);
  await warnIfUnused(context);
  const id = await chooseClient(context, store, given);
  const { before, after, notices } = await store.transaction(async () => {
    const before = await getClient(context, store, id);
    assertActive(before);
    const { changes, notices } = edit(before, store.schemaVersion);
    const isChanged = Object.keys(changes).length > 0;
    return { before, after: isChanged ? await store.updateClient(id, changes) : before, notices };
  });
  const changed = findDifferences(before, after);
  context.output.document({ client: withoutSecrets(after), changed }, () => {
    const label = `client ${describeClient(id, after.name)}`;
    const fields = Object.entries(changed);
    if (fields.length === 0) return [`${label}: nothing changed`];
    return [`${label}:`, ...fields.flatMap(([key, difference]) => changeLines(key, difference))];
  });
  for (const notice of notices) context.output.notice(notice);
}

function changeLines(key: string, { before, after }: Difference): string[] {
  return [`  ${key}`, `    before  ${valueText(before)}`, `    after   ${valueText(after)}`];
}

function valueText(value: JsonValue): string {
  if (typeof value === "boolean") return value ? "yes" : "no";
  const text = Array.isArray(value) ? value.join(", ") : String(value ?? "");
  return text === "" ? "(none)" : escapeControlCharacters(text);
}
