import type { Command } from "commander";
import { withoutSecrets } from "../client/client.js";
import type { JsonValue } from "../client/json.js";
import { assertActive, type Difference, differences, type Verb } from "../client/permissions.js";
import { escapeControlCharacters } from "../text/escape.js";
import { contextOf } from "./context.js";
import { openStore } from "./open.js";
import { chooseClient, idNote, noClient, parseOptionalId } from "./ui/choose-client.js";

export function editHelp(example: string): string {
  return `${idNote}\n\nExample:\n  hivemind-sqlcipher ${example}`;
}

export async function editClient(command: Command, idText: string | undefined, verb: Verb) {
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
