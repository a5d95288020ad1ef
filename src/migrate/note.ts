/**
 * The note of a migration in progress. While the note exists, the same command continues the
 * migration, although the target is not empty.
 */
import { createHash } from "node:crypto";
import { join } from "node:path";
import { dataHome } from "../config/paths.js";
import { readRecord, removeRecord, writeRecord } from "../fs/record-file.js";
import * as z from "../schema.js";

const format = "hivemind-sqlcipher migration";

const placeSchema = z.object({ name: z.string(), place: z.string() });
type EndpointLocation = z.infer<typeof placeSchema>;
const noteSchema = z.object({
  format: z.literal(format),
  version: z.literal(1),
  from: placeSchema,
  to: placeSchema,
  started_at: z.iso.datetime(),
});

export class MigrationNote {
  private constructor(readonly path: string) {}

  /**
   * Returns the note of an interrupted migration between these two databases; undefined if there is
   * no note.
   *
   * @throws {@link StoreError} corrupted - if the file is not such a note
   */
  static async read(
    from: EndpointLocation,
    to: EndpointLocation,
  ): Promise<MigrationNote | undefined> {
    const path = notePath(from, to);
    const note = await readRecord(
      path,
      (json) => noteSchema.parse(json),
      "a migration note",
      "Remove it, and empty the target before the next migration.",
    );
    return note && new MigrationNote(path);
  }

  /** Writes and syncs the note. */
  static async begin(from: EndpointLocation, to: EndpointLocation): Promise<MigrationNote> {
    const path = notePath(from, to);
    const note = { format, version: 1, from, to, started_at: new Date().toISOString() };
    await writeRecord(path, note);
    return new MigrationNote(path);
  }

  async remove(): Promise<void> {
    await removeRecord(this.path);
  }
}

/** Returns the path of a note: each pair of databases has its own. */
function notePath(from: EndpointLocation, to: EndpointLocation): string {
  const ends = JSON.stringify([from.name, from.place, to.name, to.place]);
  const id = createHash("sha256").update(ends).digest("hex").slice(0, 16);
  return join(dataHome(), "hivemind-sqlcipher", `migration.${id}.json`);
}
