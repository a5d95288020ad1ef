/** Changes a client for the commands with an optional client id. */
import { withoutSecrets } from "../client/client.js";
import type { JsonValue } from "../client/json.js";
import {
  assertActive,
  type ClientEdit,
  type Difference,
  findDifferences,
} from "../client/permissions.js";
import { describeClient, escapeControlCharacters } from "../text/escape.js";
import type { Context } from "./context.js";
import { openStore } from "./open.js";
import { chooseClient, getClient, parseOptionalId } from "./ui/choose-client.js";

/** Applies `edit` to the client and prints each changed field before and after. */
export async function editClient(
  context: Context,
  idText: string | undefined,
  edit: ClientEdit,
): Promise<void> {
  const given = parseOptionalId(idText);
  await using store = await openStore(context);
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
