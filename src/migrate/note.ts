/**
 * The note of a migration in progress, with which the same command continues in a target that is
 * not empty.
 */
import { createHash } from "node:crypto";
import { readFile } from "node:fs/promises";
import { dirname, join } from "node:path";
import { dataHome } from "../config/paths.js";
import { hasCode, StoreError, systemError } from "../errors.js";
import { makeDirectory, removeFile, replaceFile, syncDirectory } from "../fs/atomic.js";
import * as z from "../schema.js";

interface EndpointLocation {
  name: string;
  place: string;
}

const format = "hivemind-sqlcipher migration";

const placeSchema = z.object({ name: z.string(), place: z.string() });
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
   * Returns the note of an interrupted migration between these two databases.
   *
   * @throws {@link StoreError} corrupted - if the file is not such a note
   */
  static async read(
    from: EndpointLocation,
    to: EndpointLocation,
  ): Promise<MigrationNote | undefined> {
    const path = notePath(from, to);
    let text: string;
    try {
      text = await readFile(path, "utf8");
    } catch (error) {
      if (hasCode(error, "ENOENT", "ENOTDIR")) return undefined;
      throw systemError(error, `cannot read ${path}`);
    }
    try {
      noteSchema.parse(JSON.parse(text));
    } catch {
      throw new StoreError("corrupted", `${path} is not a migration note`, {
        hint: "Remove it, and empty the target before the next migration.",
      });
    }
    return new MigrationNote(path);
  }

  /** Writes and syncs the note. */
  static async begin(from: EndpointLocation, to: EndpointLocation): Promise<MigrationNote> {
    const path = notePath(from, to);
    const note = { format, version: 1, from, to, started_at: new Date().toISOString() };
    await makeDirectory(dirname(path));
    await replaceFile(path, `${JSON.stringify(note, undefined, 2)}\n`);
    return new MigrationNote(path);
  }

  async remove(): Promise<void> {
    await removeFile(this.path);
    await syncDirectory(dirname(this.path));
  }
}

/** Returns the note's path, which depends on both databases: each pair has a separate note. */
function notePath(from: EndpointLocation, to: EndpointLocation): string {
  const ends = JSON.stringify([from.name, from.place, to.name, to.place]);
  const id = createHash("sha256").update(ends).digest("hex").slice(0, 16);
  return join(dataHome(), "hivemind-sqlcipher", `migration.${id}.json`);
}
