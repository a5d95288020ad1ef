/**
 * `upgrade-schema`: the manual's migration to schema 2, in place, in one transaction, and never as a side effect.
 *
 *   upgradeSchema(options: UpgradeSchemaOptions): Promise<UpgradeSchemaResult>
 */
import { z } from "zod";
import { StoreError } from "../errors.js";
import { endAbsence, stoppedSchema } from "../operation/absence.js";
import type { Journal } from "../operation/journal.js";
import { reached } from "../operation/step.js";

const journalSchema = z.strictObject({ stopped: stoppedSchema });

/** The transaction is there or it is not: only the service has to be started. */
export async function settleSchemaUpgrade(journal: Journal, storePath: string): Promise<string[]> {
  const parsed = journalSchema.safeParse(journal.entry.data);
  if (!parsed.success) {
    throw new StoreError("corrupted", `${journal.path} does not say what the journal says`, {
      hint: "see that the service runs, then remove that file",
    });
  }
  const { stopped } = parsed.data;
  const said = (await endAbsence(stopped, storePath))
    ? [`started ${stopped.unit}, which an interrupted upgrade had stopped`]
    : [];
  reached("upgrade-schema.settled");
  await journal.remove();
  return said;
}
