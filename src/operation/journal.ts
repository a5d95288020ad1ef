/**
 * What an operation has begun, kept beside the store so that the next command can finish or undo it.
 *
 * One file serves every operation that stops a service or replaces a file: `clients.db.journal.json`. It is
 * written in one piece and synced before the step that it announces, so after a kill it names at least everything
 * that was touched. It is read, written and removed only by whoever holds the store's operation lock; others may
 * read it to say who that is. It never holds a secret.
 */
import { randomUUID } from "node:crypto";
import { constants } from "node:fs";
import { open, readdir } from "node:fs/promises";
import { basename, dirname } from "node:path";
import { hasCode, StoreError, systemError } from "../errors.js";
import { removeFile, replaceFile, syncDirectory } from "../fs/atomic.js";
import * as z from "../schema.js";

const journalFormat = "hivemind-sqlcipher journal";
const journalVersion = 1;

/** The step of whatever operation of which nothing is left to do but to start the service, its `data.stopped`. */
export const downStep = "down";

const versionSchema = z.looseObject({ format: z.literal(journalFormat), version: z.int() });

export const journalEntrySchema = z.strictObject({
  format: z.literal(journalFormat),
  version: z.literal(journalVersion),
  /** The command's name: "backup", "rotate", … */
  operation: z.string(),
  /** Unique for each run, so that names made for it are nobody else's. */
  id: z.string(),
  started_at: z.iso.datetime(),
  pid: z.int(),
  /** The step that may have begun. What the steps are, and what `data` holds, is the operation's own affair. */
  step: z.string(),
  data: z.record(z.string(), z.unknown()),
});

export type JournalEntry = z.infer<typeof journalEntrySchema>;

/** `clients.db.journal.json`, beside the store. */
export function journalPath(storePath: string): string {
  return `${storePath}.journal.json`;
}

/**
 * Whether an operation has left a journal, or a part of one: a look at the folder's names, which opens nothing.
 *
 * @throws StoreError `io` if the folder cannot be looked into.
 */
export async function journalExists(storePath: string): Promise<boolean> {
  const journal = basename(journalPath(storePath));
  try {
    const names = await readdir(dirname(storePath));
    return names.some((name) => name === journal || name.startsWith(`.${journal}.`));
  } catch (error) {
    if (hasCode(error, "ENOENT", "ENOTDIR")) return false;
    throw systemError(error, `cannot look into ${dirname(storePath)}`);
  }
}

/** The journal of one operation. Hold the operation lock while using it. */
export class Journal {
  readonly path: string;
  #entry: JournalEntry;

  private constructor(path: string, entry: JournalEntry) {
    this.path = path;
    this.#entry = entry;
  }

  /**
   * Begins an operation's journal, on disk when this returns.
   *
   * @param inPlaceOf an earlier one, of which `data` has what it was there for.
   * @throws StoreError `refused` if an earlier operation's journal is still there: it must be settled first.
   */
  static async begin(
    storePath: string,
    operation: string,
    step: string,
    data: Record<string, unknown>,
    inPlaceOf?: Journal,
  ): Promise<Journal> {
    const earlier = await Journal.read(storePath);
    if (earlier && earlier.entry.id !== inPlaceOf?.entry.id) {
      throw new StoreError(
        "refused",
        `an interrupted ${earlier.entry.operation} of ${storePath} has not been settled`,
      );
    }
    const journal = new Journal(journalPath(storePath), {
      format: journalFormat,
      version: journalVersion,
      operation,
      id: randomUUID(),
      started_at: new Date().toISOString(),
      pid: process.pid,
      step,
      data,
    });
    await journal.#save();
    return journal;
  }

  /**
   * The journal that an operation on this store has left, or undefined.
   *
   * @throws StoreError `newerVersion` if a newer version of this program left it, `corrupted` if it is none, `refused` if
   *   it is another user's: it names files to remove and commands to run.
   */
  static async read(storePath: string): Promise<Journal | undefined> {
    const path = journalPath(storePath);
    let text: string;
    try {
      await using file = await open(
        path,
        constants.O_RDONLY | constants.O_NOFOLLOW | constants.O_NONBLOCK,
      );
      const { uid } = await file.stat();
      if (uid !== 0 && uid !== process.geteuid?.()) {
        throw new StoreError(
          "refused",
          `${path} belongs to user ${uid}, who began that operation`,
          {
            hint: "that user's next command of this store finishes or undoes it",
          },
        );
      }
      text = await file.readFile("utf8");
    } catch (error) {
      if (hasCode(error, "ENOENT")) return undefined;
      throw systemError(error, `cannot read ${path}`);
    }
    return new Journal(path, parseEntry(path, text));
  }

  get entry(): JournalEntry {
    return this.#entry;
  }

  /**
   * What the operation has written into `data`.
   *
   * @throws StoreError `corrupted` if it is not what this version writes.
   */
  dataAs<Schema extends z.ZodMiniType>(schema: Schema): z.output<Schema> {
    const parsed = schema.safeParse(this.#entry.data);
    if (parsed.success) return parsed.data;
    const { path, message } = parsed.error.issues[0] ?? { path: [], message: "" };
    throw new StoreError(
      "corrupted",
      `${this.path} is not a journal of ${this.#entry.operation} that this version can read: ${path.join(".")}: ${message}`,
      { hint: "see that the store opens and the service runs, then remove that file" },
    );
  }

  /** Puts on disk that `step` may begin, with all the data that settling needs from then on. */
  async write(step: string, data: Record<string, unknown>): Promise<void> {
    this.#entry = { ...this.#entry, step, data };
    await this.#save();
  }

  /** The operation is over, one way or the other. */
  async remove(): Promise<void> {
    await removeFile(this.path);
    await syncDirectory(dirname(this.path));
  }

  async #save(): Promise<void> {
    await replaceFile(this.path, `${JSON.stringify(this.#entry, undefined, 2)}\n`);
  }
}

function parseEntry(path: string, text: string): JournalEntry {
  let json: unknown;
  try {
    json = JSON.parse(text);
  } catch {
    throw notAJournal(path);
  }
  const head = versionSchema.safeParse(json);
  if (!head.success) throw notAJournal(path);
  if (head.data.version > journalVersion) {
    throw new StoreError("newerVersion", `${path} was left by a newer version of this program`, {
      hint: "finish the interrupted operation with that version, or update this one",
    });
  }
  const entry = journalEntrySchema.safeParse(json);
  if (!entry.success) throw notAJournal(path);
  return entry.data;
}

function notAJournal(path: string): StoreError {
  return new StoreError("corrupted", `${path} is not a journal that this program wrote`, {
    hint: "see that the store opens and the service runs, then remove that file",
  });
}
