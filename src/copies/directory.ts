/** A directory as a target of copies, such as a directory on another disk. */
import { readdir } from "node:fs/promises";
import { join } from "node:path";
import { StoreError, systemError } from "../errors.js";
import { claimName, moveFile, removeFile, stagedName, syncDirectory } from "../fs/atomic.js";
import { assertFreeSpace, copyFile, linkOrCopy } from "../fs/copy.js";
import { sha256File, statIfExists } from "../fs/read.js";
import { emitStep } from "../operation/step.js";
import { orAbort, throwIfAborted } from "../process/abort.js";
import { currentInteraction } from "../process/interaction.js";
import type { CopyCheck, Location, Target, TargetFiles } from "./target.js";

export class DirectoryTarget implements Target {
  readonly name: string;
  readonly mayLeaveIncomplete = false;

  /** @param path - absolute; need not exist before the first copy */
  constructor(readonly path: string) {
    this.name = path;
  }

  get planned(): Location {
    return { remote: null, path: this.path };
  }

  async location(): Promise<Location> {
    return this.planned;
  }

  pathOf(file: string): string {
    return join(this.path, file);
  }

  async list(): Promise<TargetFiles> {
    try {
      const entries = await readdir(this.path, { withFileTypes: true });
      const files = new Map<string, number>();
      for (const { name } of entries.filter((entry) => entry.isFile())) {
        const stats = await statIfExists(join(this.path, name));
        if (stats !== undefined) files.set(name, stats.size);
      }
      return files;
    } catch (error) {
      throw systemError(error, `cannot read the directory ${this.path}`);
    }
  }

  async write(from: string, file: string, sha256: string): Promise<CopyCheck> {
    return await this.#write(from, file, sha256, (staged) => claimName(staged, this.pathOf(file)));
  }

  async supersede(from: string, file: string, second: string, sha256: string): Promise<CopyCheck> {
    return await this.#write(from, file, sha256, async (staged) => {
      await linkOrCopy(this.pathOf(file), this.pathOf(second));
      emitStep("copy.superseded");
      await moveFile(staged, this.pathOf(file));
      await syncDirectory(this.path);
    });
  }

  /** @param name - gives the complete and checked copy its final name */
  async #write(
    from: string,
    file: string,
    sha256: string,
    name: (staged: string) => Promise<void>,
  ): Promise<CopyCheck> {
    const { signal } = currentInteraction();
    const size = (await statIfExists(from))?.size ?? 0;
    await assertFreeSpace(this.path, size, `the copy of ${file}`, "Free some space there.");
    const staged = stagedName(this.pathOf(file));
    try {
      await copyFile(from, staged, { signal });
      emitStep("copy.staged");
      // After an interruption, the reading may go on in the background: it changes nothing.
      if ((await orAbort(sha256File(staged), signal)) !== sha256) {
        throw new StoreError("corrupted", `${this.path} returns other bytes than were written`, {
          hint: "Its disk is faulty, or another program writes there. Check the disk, then run the backup again.",
        });
      }
      emitStep("copy.checked");
      throwIfAborted(signal);
      await name(staged);
    } catch (error) {
      await removeFile(staged).catch(() => undefined);
      throwIfAborted(signal);
      throw error;
    }
    emitStep("copy.named");
    return "read_back";
  }

  async check(file: string, sha256: string): Promise<CopyCheck | undefined> {
    return (await sha256File(this.pathOf(file))) === sha256 ? "read_back" : undefined;
  }

  async remove(file: string): Promise<void> {
    await removeFile(this.pathOf(file));
    await syncDirectory(this.path);
  }
}
