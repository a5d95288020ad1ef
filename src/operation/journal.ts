/**
 * The journal of an operation: with it, the next command can finish or undo the operation after a
 * kill.
 *
 * A store has one journal, `clients.db.journal.json`, for every operation that stops a service or
 * replaces a file. It is written atomically and synced before the announced step, so after a kill
 * it names everything possibly changed. Only the holder of the operation lock may write
 * it. It never contains a secret.
 */
import { randomUUID } from "node:crypto";
import { constants } from "node:fs";
import { open, readdir, stat } from "node:fs/promises";
import { basename, dirname } from "node:path";
import { hasCode, StoreError, systemError } from "../errors.js";
import { removeFile, replaceFile, syncDirectory } from "../fs/atomic.js";
import { isRoot } from "../fs/user.js";
import * as z from "../schema.js";
import { shellQuote } from "../text/escape.js";

const journalFormat = "hivemind-sqlcipher journal";
const journalVersion = 1;

/** The step in which nothing is left but to start the service, named by `data.stopped`. */
export const downStep = "down";

/** The journaled operation for the time in which `setup` has the service stopped. */
export const setupOperation = "setup";

function checkHint(path: string): string {
  return `Move the file away, then check that the store opens and the service runs: mv ${shellQuote(path)} ${shellQuote(`${path}.left`)}`;
}

const versionSchema = z.looseObject({ format: z.literal(journalFormat), version: z.int() });

export const journalEntrySchema = z.strictObject({
  format: z.literal(journalFormat),
  version: z.literal(journalVersion),
  /** The command's name: "backup", "rotate", … */
  operation: z.string(),
  /** Unique for each run. */
  id: z.string(),
  started_at: z.iso.datetime(),
  pid: z.int(),
  /** The step that may have begun. The operation defines its steps, and what `data` holds. */
  step: z.string(),
  data: z.record(z.string(), z.unknown()),
});

export type JournalEntry = z.infer<typeof journalEntrySchema>;

/** Returns the path of a store's journal: `clients.db.journal.json` next to `clients.db`. */
export function journalPath(storePath: string): string {
  return `${storePath}.journal.json`;
}

/**
 * Returns whether an operation has left a journal, or a partly written one. Opens no file.
 *
 * @throws {@link StoreError} io - if the store's directory cannot be read
 */
export async function journalExists(storePath: string): Promise<boolean> {
  const journal = basename(journalPath(storePath));
  try {
    const names = await readdir(dirname(storePath));
    return names.some((name) => name === journal || name.startsWith(`.${journal}.`));
  } catch (error) {
    if (hasCode(error, "ENOENT", "ENOTDIR")) return false;
    throw systemError(error, `cannot read the directory ${dirname(storePath)}`);
  }
}

/** The journal of an operation. Requires the operation lock. */
export class Journal {
  readonly path: string;
  #entry: JournalEntry;

  private constructor(path: string, entry: JournalEntry) {
    this.path = path;
    this.#entry = entry;
  }

  /**
   * Begins the journal of an operation. It is on disk when this returns.
   *
   * @param inPlaceOf - the journal to be replaced; `data` includes its contents
   * @throws {@link StoreError} refused - if the journal of another operation exists
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
        `an interrupted ${earlier.entry.operation} of ${storePath} must be recovered first`,
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
    await journal.#save(journal.entry);
    return journal;
  }

  /**
   * Reads the journal of a store; undefined if there is none.
   *
   * @throws {@link StoreError} newerVersion - if a newer version of this program wrote it
   * @throws {@link StoreError} corrupted - if this program did not write it
   * @throws {@link StoreError} refused - if it belongs to another user: it names files to remove
   *   and commands to run
   */
  static async read(storePath: string): Promise<Journal | undefined> {
    const path = journalPath(storePath);
    const file = await readJournalFile(path);
    if (file === undefined) return undefined;
    const { uid, text } = file;
    if (uid !== 0 && uid !== process.geteuid?.()) {
      throw new StoreError("refused", `${path} belongs to user ${uid}`, {
        hint: "Run hivemind-sqlcipher list-clients on this store as that user, to finish or undo the operation.",
      });
    }
    return new Journal(path, parseEntry(path, text));
  }

  get entry(): JournalEntry {
    return this.#entry;
  }

  /**
   * Returns `data` in the shape of its operation.
   *
   * @throws {@link StoreError} corrupted - if it does not have this shape
   */
  dataAs<Schema extends z.ZodMiniType>(schema: Schema): z.output<Schema> {
    const parsed = schema.safeParse(this.#entry.data);
    if (parsed.success) return parsed.data;
    const { path, message } = parsed.error.issues[0] ?? { path: [], message: "" };
    throw new StoreError(
      "corrupted",
      `${this.path} is not a journal of ${this.#entry.operation} that this version can read: ${path.join(".")}: ${message}`,
      { hint: checkHint(this.path) },
    );
  }

  /**
   * Removes the journal of a complete operation.
   *
   * @param done - what is complete, for the message of the error
   * @throws {@link StoreError} io - if the journal cannot be removed; the next command recovers
   */
  async end(done: string): Promise<void> {
    try {
      await this.remove();
    } catch (error) {
      const { kind, message } = systemError(error, `cannot remove ${this.path}`);
      throw new StoreError(kind, `${done}, but its journal is left: ${message}`, {
        hint: "The next command of this store removes the journal.",
        cause: error,
      });
    }
  }

  /** Journals that `step` may begin, with all the data for a recovery from then on. */
  async write(step: string, data: Record<string, unknown>): Promise<void> {
    await this.#save({ ...this.#entry, step, data });
  }

  async remove(): Promise<void> {
    await removeFile(this.path);
    await syncDirectory(dirname(this.path));
  }

  async #save(entry: JournalEntry): Promise<void> {
    const mode = (await isInOthersDirectory(this.path)) ? 0o644 : 0o600;
    await replaceFile(this.path, `${JSON.stringify(entry, undefined, 2)}\n`, mode);
    this.#entry = entry;
  }
}

/**
 * Returns whether root works in the directory of the hub's user. `run`, as that user, must be able
 * to read the journal.
 */
async function isInOthersDirectory(path: string): Promise<boolean> {
  return isRoot() && (await stat(dirname(path))).uid !== 0;
}

/**
 * Returns what a journal contains, to name the operation or to wait for it; undefined if there is
 * none. It may be another user's, so it must not be recovered.
 *
 * @throws {@link StoreError} newerVersion, corrupted - as {@link Journal.read}
 */
export async function readJournalEntry(storePath: string): Promise<JournalEntry | undefined> {
  const path = journalPath(storePath);
  const file = await readJournalFile(path);
  return file && parseEntry(path, file.text);
}

async function readJournalFile(path: string): Promise<{ uid: number; text: string } | undefined> {
  try {
    await using file = await open(
      path,
      constants.O_RDONLY | constants.O_NOFOLLOW | constants.O_NONBLOCK,
    );
    const { uid } = await file.stat();
    return { uid, text: await file.readFile("utf8") };
  } catch (error) {
    if (hasCode(error, "ENOENT")) return undefined;
    throw systemError(error, `cannot read ${path}`);
  }
}

function parseEntry(path: string, text: string): JournalEntry {
  const json = z.parseJson(text);
  const head = versionSchema.safeParse(json);
  if (!head.success) throw notJournalError(path);
  if (head.data.version > journalVersion) {
    throw new StoreError("newerVersion", `${path} was left by a newer version of this program`, {
      hint: "Finish the interrupted operation with that version, or update this program.",
    });
  }
  const entry = journalEntrySchema.safeParse(json);
  if (!entry.success) throw notJournalError(path);
  return entry.data;
}

function notJournalError(path: string): StoreError {
  return new StoreError("corrupted", `${path} is not a journal of this program`, {
    hint: checkHint(path),
  });
}
