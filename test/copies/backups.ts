/** Backups of one store for the tests of copies, made without running the command each time. */
import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { copyFile, mkdir, mkdtemp, readdir, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { basename, join } from "node:path";
import {
  backupPath,
  formatManifest,
  type Manifest,
  manifestPath,
  readManifest,
  signManifest,
} from "../../src/backup/manifest.js";
import { verifyBackup } from "../../src/backup/verify.js";
import { type CopyOptions, type CopyReport, copyBackups } from "../../src/copies/copy.js";
import { parseTarget } from "../../src/copies/plan.js";
import { withInteraction } from "../../src/process/interaction.js";
import { openEncrypted, type StoreKey } from "../../src/store/cipher.js";
import { root, testProgram } from "../built.js";
import { Machine } from "../cli/machine.js";

export const passphrase = "correct horse";

/** Runs that a test lets go to targets. */
export interface CopyRun {
  readonly to?: readonly string[];
  readonly bundlesTo?: readonly string[];
  readonly known?: readonly string[];
  readonly signal?: AbortSignal;
}

/** A machine with a store, a backup and its bundle. */
export class Original {
  private static folders = 0;

  private constructor(
    readonly machine: Machine,
    /** The path of the backup. */
    readonly backup: string,
    readonly key: StoreKey,
    readonly bundle: string,
    private readonly manifest: Manifest,
  ) {}

  static async make(secret = passphrase): Promise<Original> {
    const machine = Machine.in(await mkdtemp(join(tmpdir(), "hivemind-copies-")));
    await writeFile(machine.path("passphrase"), secret, { mode: 0o600 });
    await machine.init(
      ...["--passphrase-file", machine.path("passphrase")],
      ...["--to", machine.path("backups"), "--bundle-to", machine.path("bundles")],
    );
    await machine.run(["add-client"]);
    const { document } = await machine.json("backup", "--service", "none");
    const { path } = document.backup as { path: string };
    const { connection, key } = await openEncrypted(path, secret, {
      mode: "readonly",
      immutable: true,
    });
    await connection.close();
    const bundle = (document.bundle as { path: string }).path;
    return new Original(machine, path, key, bundle, await readManifest(manifestPath(path)));
  }

  /** Returns the same machine, whose next backups are of a store with another id. */
  withStoreId(id: string): Original {
    const manifest = { ...this.manifest, store_id: id };
    return new Original(this.machine, this.backup, this.key, this.bundle, manifest);
  }

  async remove(): Promise<void> {
    await rm(this.machine.folder, { recursive: true });
  }

  /** Returns a new path on this machine. */
  newPath(): string {
    Original.folders += 1;
    return this.machine.path(`folder-${Original.folders}`);
  }

  get secret() {
    const path = this.machine.path("passphrase");
    return { source: { kind: "file", path } as const, storePath: this.machine.store };
  }

  /** Returns a new directory with a backup for each day of January. */
  async backups(...days: number[]): Promise<Local> {
    const local = new Local(this, this.newPath());
    await mkdir(local.folder);
    for (const day of days) await local.add(day);
    return local;
  }

  /** Returns the name of a backup's copy in a target. */
  copyName(path: string): string {
    return basename(path).replace(/\.db$/, `.${this.storeId}.db`);
  }

  get storeId(): string {
    return `${this.manifest.store_id}`;
  }

  sign(file: string, createdAt: string): Manifest {
    const { format, version, mac, ...contents } = this.manifest;
    return signManifest({ ...contents, created_at: createdAt, file }, this.key);
  }
}

/** A directory of backups. */
export class Local {
  constructor(
    readonly original: Original,
    readonly folder: string,
  ) {}

  path(day: number): string {
    return backupPath(this.folder, this.original.machine.store, dateOf(day));
  }

  name(day: number): string {
    return basename(this.path(day));
  }

  /** Returns the name of the backup's copy in a target. */
  copyName(day: number): string {
    return this.original.copyName(this.path(day));
  }

  /** Returns the names that the copies of all backups have in a target. */
  async copyNames(): Promise<string[]> {
    return (await backupsIn(this.folder)).map((name) => this.original.copyName(name));
  }

  async add(day: number): Promise<string> {
    const path = this.path(day);
    await copyFile(this.original.backup, path);
    const manifest = this.original.sign(basename(path), dateOf(day).toISOString());
    await writeFile(manifestPath(path), formatManifest(manifest));
    return path;
  }

  options({ to = [], bundlesTo = [], known = [] }: CopyRun) {
    return {
      ...this.original.secret,
      folder: this.folder,
      backup: "",
      bundle: { path: this.original.bundle },
      knownDirectories: known,
      backupTargets: [...to],
      bundleTargets: [...bundlesTo],
    };
  }

  /** Copies to targets in this process. */
  async copy(run: CopyRun): Promise<{ reports: CopyReport[]; notices: string[] }> {
    const notices: string[] = [];
    const options: CopyOptions = {
      ...this.options(run),
      backupTargets: (run.to ?? []).map((text) => parseTarget(text)),
      bundleTargets: (run.bundlesTo ?? []).map((text) => parseTarget(text)),
      reporter: {
        notice: (text) => notices.push(text),
        detail: () => undefined,
        confirm: () => Promise.reject(new Error("nobody is asked")),
      },
    };
    const reports = await withInteraction({ signal: run.signal }, () => copyBackups(options));
    return { reports, notices };
  }

  /** Copies in another process, which is killed at a step. Returns its signal. */
  async copyKilledAt(step: string, run: CopyRun): Promise<string | null> {
    const child = this.startCopy(run, step);
    const [, signal] = (await once(child, "close")) as [number | null, string | null];
    return signal;
  }

  /** Copies in another process. */
  startCopy(run: CopyRun, step = ""): ChildProcess {
    return spawn(
      process.execPath,
      [
        `--import=${root}test/faults/kill-at-step.mjs`,
        testProgram("copies/driver"),
        JSON.stringify(this.options(run)),
      ],
      { env: { ...process.env, HIVEMIND_TEST_STEP: step }, stdio: ["ignore", "ignore", "inherit"] },
    );
  }
}

function dateOf(day: number): Date {
  return new Date(Date.UTC(2026, 0, day));
}

export const backupsIn = async (folder: string) =>
  (await readdir(folder)).filter((name) => /^[^.].*\.db$/.test(name)).sort();

export const unfinishedIn = async (folder: string) =>
  (await readdir(folder)).filter((name) => name.endsWith(".partial"));

/** Returns which complete backups of a directory do not verify. */
export async function unsoundIn(folder: string): Promise<string[]> {
  const names = await readdir(folder);
  const complete = names.filter((name) => names.includes(name.replace(/\.db$/, ".manifest.json")));
  const unsound: string[] = [];
  for (const name of complete.filter((name) => name.endsWith(".db"))) {
    const { ok } = await verifyBackup(join(folder, name), { passphrase });
    if (!ok) unsound.push(name);
  }
  return unsound;
}

export async function flipByte(path: string): Promise<void> {
  const bytes = await readFile(path);
  bytes[5000] = (bytes[5000] ?? 0) ^ 1;
  await writeFile(path, bytes);
}
