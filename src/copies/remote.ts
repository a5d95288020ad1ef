/** A remote of rclone as a target of copies. */
import { open } from "node:fs/promises";
import { basename } from "node:path";
import { remotePrefix } from "../config/paths.js";
import { isKind, StoreError, systemError } from "../errors.js";
import { stagedName } from "../fs/atomic.js";
import { emitStep } from "../operation/step.js";
import * as z from "../schema.js";
import { type RcloneCall, runRclone } from "./rclone.js";
import type { CopyCheck, Location, Target, TargetFiles } from "./target.js";

const listSchema = z.array(z.object({ Name: z.string(), Size: z.number() }));

const featuresSchema = z.object({
  Name: z.string(),
  Root: z.string(),
  Hashes: z.nullable(z.array(z.string())),
  Features: z.object({ BucketBased: z.boolean(), Move: z.boolean(), IsLocal: z.boolean() }),
});

type Features = z.infer<typeof featuresSchema>;

/**
 * A marker that is created after a failed rename. As long as the server also refuses to remove
 * the marker, later runs upload under the final name. Otherwise each run would leave a temporary
 * file that it can neither rename nor remove.
 */
const refusalMarker = ".renames-are-refused.partial";

/**
 * A remote's name in rclone's configuration. Excludes connection strings such as `nas,host=…`,
 * which may contain credentials.
 */
const remoteName = /^[\p{L}\p{N}_.+@][\p{L}\p{N}_.+@ -]*$/u;

export class RemoteTarget implements Target {
  readonly name: string;
  readonly mayLeaveIncomplete = true;
  readonly #remote: string;
  readonly #path: string;
  #cachedFeatures: Features | undefined;
  /** Whether `write` uploads under the final name. Undefined before the first `write`. */
  #refusesRename: boolean | undefined;

  /**
   * @param text - `rclone:REMOTE:PATH`
   * @throws {@link StoreError} usage - if it has another form
   */
  constructor(text: string) {
    const [remote = "", ...rest] = text.slice(remotePrefix.length).split(":");
    const path = rest
      .join(":")
      .replaceAll(/\/+/g, "/")
      .replace(/(?<=.)\/$/, "");
    if (path.split("/").includes("..")) {
      throw new StoreError("usage", `the path of "${text}" contains ".."`, {
        hint: "Write the path from the root of the remote.",
      });
    }
    if (!remoteName.test(remote) || rest.length === 0) {
      throw new StoreError("usage", `"${text}" is not a remote of rclone's configuration`, {
        hint: "Write it as rclone:REMOTE:PATH, with a name that rclone listremotes prints.",
      });
    }
    this.#remote = remote;
    this.#path = path;
    this.name = `${remotePrefix}${remote}:${path}`;
  }

  get planned(): Location {
    return { remote: this.#remote, path: this.#path };
  }

  async location(): Promise<Location> {
    const { Name, Root, Features: features } = await this.#readFeatures();
    return { remote: features.IsLocal ? null : Name, path: Root };
  }

  pathOf(file: string): string {
    return `${remotePrefix}${this.#remotePath(file)}`;
  }

  async list(): Promise<TargetFiles> {
    const options = ["--files-only", "--no-modtime", "--no-mimetype", "--", this.#directory];
    const text = await this.#run(["lsjson", ...options], { doing: "read the directory" });
    const files = this.#parse(text, listSchema);
    return new Map(files.map(({ Name, Size }) => [Name, Size]));
  }

  /**
   * Uploads under a temporary name, checks the bytes, and lets the server rename the file.
   *
   * Uploads under the final name if the remote is an object store, where an object appears only
   * when it is complete, or if renames fail. In the latter case an interruption may leave an
   * incomplete backup, which does not count, because its manifest is uploaded last.
   */
  async write(from: string, file: string, sha256: string): Promise<CopyCheck> {
    const { BucketBased, Move } = (await this.#readFeatures()).Features;
    this.#refusesRename ??= BucketBased || !Move || !(await this.#removeMarker());
    if (this.#refusesRename) return await this.#upload(from, file, sha256);
    const staged = basename(stagedName(file));
    const checkedBy = await this.#upload(from, staged, sha256);
    try {
      await this.#rename(staged, file);
    } catch (error) {
      if (!isKind(error, "io")) throw error;
      await this.remove(staged).catch(() => undefined);
      await this.#writeMarker().catch(() => undefined);
      this.#refusesRename = true;
      return await this.#upload(from, file, sha256);
    }
    emitStep("copy.named");
    return checkedBy;
  }

  async supersede(from: string, file: string, second: string, sha256: string): Promise<CopyCheck> {
    if (!(await this.#removeMarker())) {
      throw new StoreError(
        "io",
        `${this.name} refuses to rename ${file}, which has other contents`,
        {
          hint: "Rename or remove that file on the server.",
        },
      );
    }
    const staged = basename(stagedName(file));
    const checkedBy = await this.#upload(from, staged, sha256);
    try {
      await this.#rename(file, second);
      emitStep("copy.superseded");
      await this.#rename(staged, file).catch(async (error: unknown) => {
        await this.#rename(second, file).catch(() => undefined);
        throw error;
      });
    } catch (error) {
      await this.remove(staged).catch(() => this.#writeMarker().catch(() => undefined));
      throw error;
    }
    emitStep("copy.named");
    return checkedBy;
  }

  async #upload(from: string, file: string, sha256: string): Promise<CopyCheck> {
    try {
      await this.#run(["copyto", "--ignore-times", "--", from, this.#remotePath(file)], {
        doing: "copy to",
        where: this.pathOf(file),
      });
      emitStep("copy.staged");
      const checkedBy = await this.check(file, sha256);
      if (checkedBy === undefined) {
        throw new StoreError("corrupted", `${this.name} returns other bytes than were written`, {
          hint: "Its server is faulty, or another program writes there. Run the backup again.",
        });
      }
      emitStep("copy.checked");
      return checkedBy;
    } catch (error) {
      // After an interruption rclone is not run again, so this removes nothing. The next backup
      // removes or replaces the file.
      await this.remove(file).catch(() => undefined);
      throw error;
    }
  }

  /** Removes the marker. Returns whether it is gone. */
  async #removeMarker(): Promise<boolean> {
    const files = await this.list().catch(() => new Map<string, number>());
    if (!files.has(refusalMarker)) return true;
    return await this.remove(refusalMarker).then(
      () => true,
      () => false,
    );
  }

  async #writeMarker(): Promise<void> {
    await this.#run(["rcat", "--", this.#remotePath(refusalMarker)], {
      doing: "copy to",
      input: "renames are refused here\n",
    });
  }

  async check(file: string, sha256: string): Promise<CopyCheck | undefined> {
    const hasHash = (await this.#readFeatures()).Hashes?.includes("sha256") ?? false;
    const hashsum = ["hashsum", "sha256", ...(hasHash ? [] : ["--download"])];
    const output = await this.#run([...hashsum, "--", this.#remotePath(file)], {
      doing: "read back",
      where: this.pathOf(file),
    });
    if (output.trim().split(/\s/)[0] !== sha256) return undefined;
    return hasHash ? "remote_hash" : "read_back";
  }

  /**
   * Renames a file, over an existing file.
   *
   * Without `--ignore-times`, rclone keeps an existing file of the same size on remotes without
   * times and hashes, and removes the other file.
   */
  async #rename(from: string, to: string): Promise<void> {
    await this.#run(
      ["moveto", "--ignore-times", "--", this.#remotePath(from), this.#remotePath(to)],
      {
        doing: "rename",
        where: this.pathOf(from),
      },
    );
  }

  async remove(file: string): Promise<void> {
    await this.#run(["deletefile", "--", this.#remotePath(file)], {
      doing: "remove",
      where: this.pathOf(file),
    });
  }

  /**
   * Downloads a file, or its beginning, to a new file with mode 0600.
   *
   * @throws {@link StoreError} notFound - if it does not exist
   * @throws {@link StoreError} io - if the download or the disk fails
   */
  async download(file: string, to: string, bytes?: number): Promise<void> {
    const count = bytes === undefined ? [] : ["--count", String(bytes)];
    let local: Awaited<ReturnType<typeof open>>;
    try {
      local = await open(to, "wx", 0o600);
    } catch (error) {
      throw systemError(error, `cannot create ${to}`);
    }
    await using opened = local;
    await this.#run(["cat", ...count, "--", this.#remotePath(file)], {
      doing: "download",
      where: this.pathOf(file),
      stdout: opened.fd,
    });
  }

  /** Downloads the files named `prefix…suffix` of at most 64 KiB. */
  async downloadSmall(prefix: string, suffix: string, directory: string): Promise<void> {
    const pattern = `/${prefix.replaceAll(/[\\*?[\]{}]/g, "\\$&")}*${suffix}`;
    const filters = ["--max-depth", "1", "--max-size", "64Ki", "--include", pattern];
    await this.#run(["copy", ...filters, "--", this.#directory, directory], {
      doing: "read the manifests of",
    });
  }

  get #directory(): string {
    return `${this.#remote}:${this.#path}`;
  }

  #remotePath(file: string): string {
    const separator = this.#path === "" || this.#path.endsWith("/") ? "" : "/";
    return `${this.#directory}${separator}${file}`;
  }

  /** Returns the remote's features. Most backends report them without a request to the server. */
  async #readFeatures(): Promise<Features> {
    this.#cachedFeatures ??= this.#parse(
      await this.#run(["backend", "features", "--", this.#directory], { doing: "reach" }),
      featuresSchema,
    );
    return this.#cachedFeatures;
  }

  #run(
    args: readonly string[],
    call: Omit<RcloneCall, "where"> & Partial<Pick<RcloneCall, "where">>,
  ): Promise<string> {
    return runRclone(args, { where: this.name, ...call });
  }

  /** @throws {@link StoreError} io - if rclone's output has another form */
  #parse<Parsed>(text: string, schema: z.ZodMiniType<Parsed>): Parsed {
    try {
      return schema.parse(JSON.parse(text));
    } catch (cause) {
      throw new StoreError("io", `cannot read what rclone prints about ${this.name}`, {
        hint: "Update rclone to version 1.60 or later; rclone version prints its version.",
        cause,
      });
    }
  }
}
